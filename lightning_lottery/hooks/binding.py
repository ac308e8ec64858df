"""Which tensors a fit's masks are on: names stay, while modules, parameters and optimizers may be replaced."""

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.optim import Optimizer

from lightning_lottery.errors import LotteryError
from lightning_lottery.hooks.left_out import held_by
from lightning_lottery.scope import FROZEN, UNTRAINED, Candidate, named_parameters, ties
from lightning_lottery.shards import reshard


class Binding:
    """The parameters of a fit by name, where modules hold them, and which optimizers train them.

    Asked at every step whether that is still so, so what is compared are identities: a few microseconds in all.

    Args:
        module: The fit's.
        params: Those that masks are on, by their first names.
        label: What messages call the callback.
    """

    def __init__(self, module: LightningModule, params: Mapping[str, nn.Parameter], label: str) -> None:
        self._module, self._label = module, label
        self._optimizers: Sequence[Optimizer] = ()
        self._sizes: list[int] = []
        self._waiting: dict[str, nn.Parameter] = {}  # what nobody trains
        self._frozen: list[nn.Parameter] = []  # of these, what a change of `requires_grad` alone makes trained
        self._bind(params)

    def _bind(self, params: Mapping[str, nn.Parameter]) -> None:
        self.params = dict(params)
        ids = {id(param) for param in params.values()}
        self._ties = self._ties_of(params)
        modules = dict(self._module.named_modules(remove_duplicate=False))
        self._places: list[tuple[Mapping[str, Any], str, object]] = []  # who holds what under which attribute
        edges: set[tuple[str, str]] = set()
        for path, child in modules.items():
            for leaf, param in child._parameters.items():
                if param is None or id(param) not in ids:
                    continue
                self._places.append((child._parameters, leaf, param))
                parts = path.split(".") if path else []
                edges.update((".".join(parts[:depth]), part) for depth, part in enumerate(parts))
        self._places += [
            (vars(modules[parent])["_modules"], part, modules[f"{parent}.{part}".lstrip(".")]) for parent, part in edges
        ]

    def find_replaced(self) -> dict[str, nn.Parameter] | None:
        """All parameters under their names where any was replaced, else None.

        Raises:
            LotteryError: One is gone, has another shape, or is tied no more.
        """
        if self._is_as_bound():
            return None
        reshard(self._module)
        if self._is_as_bound():
            return None
        before, present = self.params, named_parameters(self._module)
        for name, param in before.items():
            if name not in present or present[name].shape != param.shape:
                shape = tuple(present[name].shape) if name in present else "gone"
                raise LotteryError(
                    f"{self._label} masks '{name}' of shape {tuple(param.shape)}, and in the middle of the fit it was "
                    f"replaced: it is {shape} now. Change layers before `fit`, or begin a new one."
                )
        if untied := self._ties.keys() - self._ties_of(before).keys():
            raise LotteryError(
                f"{self._label}: in the middle of the fit '{min(untied)}' was replaced alone, so that it is tied to "
                f"'{self._ties[min(untied)]}' no more. Tie it again, or do without tying."
            )
        self._bind({name: present[name] for name in before})
        return self.params

    def _is_as_bound(self) -> bool:
        return all(holder.get(leaf) is held for holder, leaf, held in self._places)

    def _ties_of(self, params: Mapping[str, nn.Parameter]) -> dict[str, str]:
        """Further names of tied parameters of ours, each to the first one, as the module is now."""
        return {alias: first for alias, first in ties(self._module).items() if first in params}

    # Optimizers.

    def watch(self, optimizers: Sequence[Optimizer], candidates: Iterable[Candidate]) -> None:
        """Note who trains now, and which candidates nobody does: a callback may unfreeze them later."""
        left_out = {c.name: c.parameter for c in candidates if c.reason in (FROZEN, UNTRAINED)}
        self._waiting = {name: param for name, param in left_out.items() if name not in self.params}
        self.look(optimizers)

    def look(self, optimizers: Sequence[Optimizer]) -> tuple[bool, dict[str, nn.Parameter]]:
        """What changed since the last look.

        Returns:
            Whether optimizers were made anew, or hold more or fewer parameters; and the parameters by name, none of
            ours, that began to be trained.
        """
        sizes = [len(group["params"]) for optimizer in optimizers for group in optimizer.param_groups]
        same = len(optimizers) == len(self._optimizers) and all(map(operator.is_, optimizers, self._optimizers))
        is_changed = not same or sizes != self._sizes
        if not is_changed and not any(param.requires_grad for param in self._frozen):
            return False, {}
        self._optimizers, self._sizes = list(optimizers), sizes
        held = {id(param) for param in held_by(optimizers)}
        joined = {name: p for name, p in self._waiting.items() if p.requires_grad and id(p) in held}
        self._waiting = {name: param for name, param in self._waiting.items() if name not in joined}
        self._frozen = [param for param in self._waiting.values() if not param.requires_grad]
        return is_changed, joined


def refuse_shared_memory(module: nn.Module, params: Mapping[str, nn.Parameter], label: str) -> None:
    """Refuse parameters that lie in one memory without being one parameter: their masks would contradict each other.

    Raises:
        LotteryError: One in ``params`` overlaps another parameter of the module.
    """
    spans = sorted((*span, name) for name, p in named_parameters(module).items() if (span := _span(p)) is not None)
    for (device, _, end, name), (next_device, start, _, later) in zip(spans, spans[1:], strict=False):
        if device == next_device and start < end and (name in params or later in params):
            raise LotteryError(
                f"{label}: '{name}' and '{later}' share memory but are two parameters, so that each would be masked as "
                "if it were alone. Tie them (assign one Parameter to both), or exclude both in `scope`."
            )


def _span(param: nn.Parameter) -> tuple[str, int, int] | None:
    """Device, first byte and the byte after the last of what a parameter holds; None where that cannot be said."""
    plain = nn.Parameter in type(param).__mro__ and param.layout is torch.strided and param.device.type != "meta"
    if not plain or isinstance(param, nn.parameter.UninitializedParameter) or not param.numel():
        return None
    reach = sum((size - 1) * stride for size, stride in zip(param.shape, param.stride(), strict=True))
    return str(param.device), param.data_ptr(), param.data_ptr() + (reach + 1) * param.element_size()
