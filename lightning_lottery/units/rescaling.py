"""Factors for the units that are left, so that each block adds what it added before: tuning without training."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.rearranging import rescaled
from lightning_lottery.functional.train_mode import modes_kept
from lightning_lottery.scope import plain_name
from lightning_lottery.units.groups import groups_of
from lightning_lottery.units.open_attention import open_attention_
from lightning_lottery.units.parts import Group, Groups, copy_of, owners_of, tensor_at
from lightning_lottery.units.scores import Loss, loss_of

LARGEST = 10.0
"""Factors beyond are taken for a failure, as by the authors."""


@torch.no_grad()
def unit_factors(
    model: nn.Module,
    units: Mapping[str, Tensor],
    calibration: Iterable[Any],
    *,
    teacher: Mapping[str, Tensor] | None = None,
    first_token: bool = False,
    groups: Groups | None = None,
    loss: Loss | None = None,
) -> dict[str, Tensor]:
    """What each head and neuron that is kept should be multiplied by, from a few batches and no training.

    Layer by layer, by least squares: with its factors a block of the pruned model adds what the block of a ``teacher``
    makes of its own inputs. Inputs of the pruned model come from blocks below that have their factors already. The
    first block's heads, which see what the teacher's see, keep 1; and so does, with a warning, everything from the
    first solution on that lies beyond ``LARGEST``. Positions that ``attention_mask`` of a batch excludes are left out.

    Args:
        model: Any module that ``groups_of`` recognises; not changed.
        units: Name of a group to bool tensor of what is kept.
        calibration: Batches, as ``unit_masks`` takes them.
        teacher: The same of a model that keeps more (default: everything).
        first_token: In the last neurons' problem only the first token counts: of a classifier that reads no other.
        groups: The groups (default: ``groups_of(model)``).
        loss: What runs the model on a batch (default: ``loss_of``).

    Returns:
        Name of each group of heads or neurons to tensor of shape (size,), 0 for what is removed.

    Raises:
        LotteryError: A batch does not run what reads a group's units.

    Source: Kwon et al. 2022, section 4.3, as its code does it: a teacher of sqrt(density), no mask on the neurons of
    the block itself.
    """
    groups = {n: g for n, g in (groups_of(model) if groups is None else groups).items() if g.kind != "channel"}
    factors = {n: units[n].double().cpu() if n in units else torch.ones(g.size).double() for n, g in groups.items()}
    masks = {n: (teacher or {}).get(n, torch.ones(g.size).bool()).double().cpu() for n, g in groups.items()}
    copy = copy_of(model).eval()
    open_attention_(copy)  # whose output projection is called
    batches = list(calibration)
    last_neurons = [n for n, g in groups.items() if g.kind == "neuron"][-1:]
    for number, (name, group) in enumerate(groups.items()):
        kept = factors[name] != 0
        if not kept.any() or (number == 0 and group.kind == "head"):
            continue
        block = _Block(copy, groups, name, loss or loss_of)
        gram, moments = block.equations(
            batches, masks, factors, kept, only_first=first_token and [name] == last_neurons
        )
        solution = rescaled(gram, moments)[: int(kept.sum())]
        if not (solution.abs() <= LARGEST).all():  # NaN neither
            warnings.warn(
                f"The factors of '{name}' would lie beyond {LARGEST:g}: this group and those after it are left as they "
                "are. More batches, or fewer units removed, may help.",
                stacklevel=3,  # around this function there is torch's `no_grad`
            )
            break
        factors[name][kept] = solution.cpu()
    return factors


@torch.no_grad()
def rescale_(model: nn.Module, factors: Mapping[str, Tensor], groups: Groups) -> None:
    """Multiply the weights that read each unit by its factor, in place."""
    owners = owners_of(model)
    for name, factor in factors.items():
        for part in groups[name].consumers:
            weight = tensor_at(owners, part.parameter)
            view = [-1 if d == part.dim else 1 for d in range(weight.dim())]
            entries = factor.repeat_interleave(part.block).to(weight).view(view)
            weight.narrow(part.dim, part.start, groups[name].size * part.block).mul_(entries)


class _Seen(NamedTuple):
    inputs: Tensor
    output: Tensor
    residual: Tensor | float


class _Done(Exception):
    """What was to be seen is seen."""


class _Block:
    """The least-squares problem of one group: its units' outputs, and what they should add up to."""

    def __init__(self, model: nn.Module, groups: Groups, name: str, loss: Loss) -> None:
        self.model, self.groups, self.name, self.loss = model, groups, name, loss
        self.modules = {plain_name(path): module for path, module in model.named_modules()}
        self.part = groups[name].consumers[0]
        self.layer = self._layer(name)

    def equations(
        self,
        batches: Sequence[Any],
        teacher: Mapping[str, Tensor],
        student: Mapping[str, Tensor],
        kept: Tensor,
        *,
        only_first: bool,
    ) -> tuple[Tensor, Tensor]:
        """X'X and X'y: of the kept units, and of heads a last one that is 1 everywhere."""
        gram, moments = torch.zeros(()), torch.zeros(())
        is_neuron = self.groups[self.name].kind == "neuron"
        whole = {self.name: torch.ones_like(student[self.name])}
        for batch in batches:
            goal = self._see(batch, {**teacher, **whole} if is_neuron else teacher)
            seen = self._see(batch, {**student, **whole})
            bias = 0.0 if self.layer.bias is None else self.layer.bias
            y = goal.output + goal.residual - bias - seen.residual
            rows = _rows_of(batch, y, only_first)
            products = self._products(seen.inputs[rows].double(), y[rows].double(), kept.to(y.device), is_neuron)
            gram, moments = gram + products[0].cpu(), moments + products[1].cpu()
        return gram, moments

    def _products(self, inputs: Tensor, y: Tensor, kept: Tensor, is_neuron: bool) -> tuple[Tensor, Tensor]:
        block, size, weight = self.part.block, len(kept), self.layer.weight.double()
        columns = (weight.T if self.part.dim == 0 else weight).narrow(1, self.part.start, size * block)
        x = inputs.narrow(-1, self.part.start, size * block).reshape(-1, size, block)[:, kept]
        columns = columns.reshape(-1, size, block)[:, kept]
        if is_neuron:  # X is (row and output) x unit, x_ru w_ou: its products need no such matrix
            x, columns = x[..., 0], columns[..., 0]
            return (x.T @ x) * (columns.T @ columns), (x * (y @ columns)).sum(0)
        outputs = torch.einsum("rub,oub->rou", x, columns).flatten(0, 1)
        outputs = torch.cat([outputs, torch.ones_like(outputs[:, :1])], 1)
        return outputs.T @ outputs, outputs.T @ y.flatten()

    def _see(self, batch: Any, factors: Mapping[str, Tensor]) -> _Seen:
        """Run the model with all units multiplied by factors, until this block's output has met its residual."""
        with ExitStack() as stack:
            for name, factor in factors.items():
                hook = self._layer(name).register_forward_pre_hook(_multiplied_by(factor, self.groups[name]))
                stack.callback(hook.remove)
            watch = _Watch()
            stack.callback(self.layer.register_forward_hook(watch.see).remove)
            stack.enter_context(modes_kept(self.model))
            try:
                with watch:
                    self.loss(self.model.eval(), batch)
            except _Done:
                pass
        if watch.seen is None:
            raise LotteryError(
                f"Nothing says what the units of '{self.name}' should count: no batch runs what reads them. Leave them "
                "out of `groups`, or do not tune."
            )
        return watch.seen

    def _layer(self, name: str) -> Any:
        return self.modules[self.groups[name].consumers[0].parameter.rpartition(".")[0]]


class _Watch(TorchFunctionMode):
    """Sees a layer's inputs and output, and what the output is added to, be it after a dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: _Seen | None = None
        self._pending: Tensor | None = None

    def see(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.seen, self._pending = _Seen(inputs[0], output, 0.0), output

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if self._pending is None or self.seen is None or not any(value is self._pending for value in args):
            return output
        name = getattr(func, "__name__", "").strip("_")
        if name in ("add", "radd", "iadd"):
            addend = next((v for v in args if isinstance(v, Tensor) and v is not self._pending), None)
            if addend is not None and addend.shape == self._pending.shape:
                self.seen = self.seen._replace(residual=addend.clone())
                raise _Done
        elif "dropout" in name:
            self._pending = output
        return output


def _multiplied_by(factor: Tensor, group: Group) -> Any:
    part = group.consumers[0]
    first, entries = part.start, group.size * part.block

    def multiply(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = inputs[0].clone()
        x[..., first : first + entries] *= factor.repeat_interleave(part.block).to(x)
        return (x, *inputs[1:])

    return multiply


def _rows_of(batch: Any, y: Tensor, only_first: bool) -> Any:
    """Which positions of (..., width) count: all but padding, or the first of each sequence."""
    rows = torch.ones(y.shape[:-1], dtype=torch.bool, device=y.device)
    padding = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    if isinstance(padding, Tensor) and padding.shape == rows.shape:
        rows &= padding.to(y.device).bool()
    if only_first and rows.dim() > 1:
        rows[:, 1:] = False
    return rows
