"""Network slimming: a trained coefficient for every head, neuron and channel says what it is worth."""

from collections.abc import Collection, Sequence
from typing import Any, ClassVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lightning_lottery.checks import check_words, is_number
from lightning_lottery.errors import LotteryError
from lightning_lottery.hooks.boards import Charts, lay_out
from lightning_lottery.hooks.clock import put_in_order
from lightning_lottery.hooks.loggers import log_to_all
from lightning_lottery.hooks.named import NamedCallback
from lightning_lottery.hooks.private import averaged_copy, batches_that_stepped
from lightning_lottery.hooks.strategies import refuse_sharding
from lightning_lottery.scope import plain_name
from lightning_lottery.units.coefficients import (
    NAME,
    Coefficients,
    attach_,
    coefficients_of,
    fold_,
    folded,
    forget_compiled,
    has_coefficients,
)
from lightning_lottery.units.groups import groups_of, survey
from lightning_lottery.units.open_attention import open_attention_
from lightning_lottery.units.parts import BATCH_NORMS, KINDS, Group, owners_of, shared_weights


class NetworkSlimming(NamedCallback):
    """Train a coefficient for every head, neuron and channel, drawn to zero by an L1 penalty; it removes nothing.

    A coefficient multiplies a head's context before the output projection, or a neuron's activation before the second
    linear layer; it starts at 1 and is trained by the module's own optimizer. A channel's is the scale of its batch
    norm, which is there already. ``EarlyBird`` draws tickets from them. When the fit ends they are multiplied into the
    weights that read the units, and the module is the plain one again: same keys, same function. Checkpoints written
    before hold the coefficients, as ``...slimming.weight``; a Trainer with this callback resumes and tests them, and
    ``folded`` makes plain states of theirs.

    The penalty ``l1 * sum |c|`` is added as its gradient before each optimizer step, once however many batches were
    accumulated, and is clipped together with the loss's gradient. New coefficients have no weight decay: during its
    step the optimizer has them in a group of their own. Attention of ``nn.MultiheadAttention`` becomes
    ``OpenAttention``, which computes the same, and stays it.

    Args:
        l1: Weight of the penalty, >= 0.
        kinds: Which units get coefficients, of ``"head"``, ``"neuron"`` and ``"channel"``; of those that are there.
        patterns: Names of blocks to look for, as ``groups_of`` takes them.
        name: Tells several callbacks of one Trainer apart, each with ``kinds`` of its own.
        log_layers: Log mean and smallest size of the coefficients of each layer as well, two curves for each.

    Raises:
        LotteryError: ``l1`` negative, an unknown kind, or a name that is no file name; in ``fit``, no recognisable
            unit, one with coefficients of another NetworkSlimming, layers that are built too late, weights that other
            layers share, an averaging callback before this one, an optimizer without the coefficients, or a checkpoint
            without them.

    Example:
        >>> NetworkSlimming(kinds=["head"]).kinds
        ('head',)

    Source: Liu et al. 2017 (batch-norm scales); Chen et al. 2021, "EarlyBERT" (heads and neurons), whose code scales
    attention probabilities: the same, as the context is linear in them. You et al. 2020 penalise every batch-norm
    scale; here only those of channels that could be removed.
    """

    lottery_charts: ClassVar[Charts] = {
        "slimming": {
            "mean size of coefficients": ("(.+/)?slimming/[^/]+/mean$",),
            "smallest coefficient": ("(.+/)?slimming/[^/]+/min$",),
        }
    }

    def __init__(
        self,
        l1: float = 1e-4,
        *,
        kinds: Sequence[str] = KINDS,
        patterns: dict[str, list[Any]] | None = None,
        name: str | None = None,
        log_layers: bool = False,
    ) -> None:
        super().__init__(name)
        if not is_number(l1) or not 0 <= l1 < float("inf"):
            raise LotteryError(f"`l1` is the weight of a penalty and must be >= 0, got {l1!r}.")
        check_words("kinds", kinds, KINDS)
        self.l1 = l1
        self.kinds = tuple(kind for kind in KINDS if kind in kinds)
        self.patterns = patterns
        self.log_layers = log_layers
        self._reset()

    def _reset(self) -> None:
        self._hooks: list[RemovableHandle] = []
        self._groups: dict[str, Group] = {}
        self._layers: dict[str, nn.Module] = {}  # those whose input is scaled, by group
        self._norms: dict[str, nn.Module] = {}  # batch norms, whose scales are coefficients, by group
        self._by_optimizer: dict[Optimizer, list[nn.Parameter]] = {}
        self._decayed: list[tuple[dict[str, Any], list[nn.Parameter]]] = []  # groups of a step, and all that they hold
        self._parted: list[nn.Module] = []  # whose coefficients are apart while the optimizer steps
        self._has_checked = False
        self._logged_at = -1

    @property
    def groups(self) -> dict[str, Group]:
        """The groups that have coefficients, by name, while a fit runs."""
        return dict(self._groups)

    @property
    def coefficients(self) -> dict[str, nn.Parameter]:
        """The coefficients of each group, of shape (size,), while a fit runs."""
        scales = {name: norm.get_parameter("weight") for name, norm in self._norms.items()}
        by_name = scales | {name: coefficients_of(layer) for name, layer in self._layers.items()}
        return {name: by_name[name] for name in self._groups}

    def fold(self) -> None:
        """Multiply the coefficients into the weights that read the units, and take them out of the module."""
        for layer in self._layers.values():
            fold_(layer)
        for hook in self._hooks:
            hook.remove()
        forget_compiled()
        self._reset()

    # Hooks, in the order in which Lightning calls them.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        put_in_order(self, trainer)
        self._hooks.append(pl_module.register_load_state_dict_pre_hook(self._fit_state))  # type: ignore[no-untyped-call]
        if stage != TrainerFn.FITTING:
            return
        if self._groups and {id(c) for c in self.coefficients.values()} <= {id(p) for p in pl_module.parameters()}:
            return  # a fit that was broken off goes on
        self._groups, self._layers, self._norms = {}, {}, {}
        refuse_sharding(trainer, self.label)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if averaged_copy(callback) is not None:
                raise LotteryError(
                    f"{type(callback).__name__} has copied the module before {self.label} added its coefficients: "
                    f"put {self.label} first in the list of callbacks."
                )
        self._attach(pl_module, [slimming for slimming in self._together(trainer) if slimming is not self])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._find_optimizers(trainer)
        counts = {kind: sum(g.size for g in self._groups.values() if g.kind == kind) for kind in self.kinds}
        units = ", ".join(f"{count} {kind}s" for kind, count in counts.items() if count)
        rank_zero_info(f"{self.label}: coefficients of {units} in {len(self._groups)} layers, l1 {self.l1}.")
        dtype = next(iter(self.coefficients.values())).dtype
        if torch.finfo(dtype).bits < 32:
            rank_zero_warn(
                f"{self.label}: the coefficients are {str(dtype).removeprefix('torch.')}, in which 1 has no "
                f"neighbour closer than {torch.finfo(dtype).eps / 2:.2g}: smaller steps are lost, and small learning "
                "rates train nothing. Ask the Trainer for mixed precision, 'bf16-mixed' or '16-mixed'."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        lay_out(trainer, self, is_new=trainer.global_step == 0)
        self._find_optimizers(trainer)  # a learning-rate finder may have made new ones
        # One parts the coefficients of all: of two, the second would put back what the first had left of a group.
        together = self._together(trainer)
        if together[0] is not self:
            return
        self._parted = [layer for slimming in together for layer in slimming._layers.values()]
        for optimizer in self._by_optimizer:
            self._hooks.append(optimizer.register_step_pre_hook(self._part_coefficients))
            self._hooks.append(optimizer.register_step_post_hook(self._rejoin_coefficients))

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Add the penalty's gradient."""
        gradients = [c.grad for c in self._by_optimizer.get(optimizer, ()) if c.grad is not None]
        if not self._has_checked:
            self._has_checked = True
            self._warn_of_unreached(optimizer)
        if not gradients or not self.l1:
            return
        signs = torch._foreach_sign([c.detach() for c in self._by_optimizer[optimizer] if c.grad is not None])
        # A fused optimizer divides by the scale inside of its step; for any other, Lightning has divided already.
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            signs = scaler.scale(signs)
        torch._foreach_add_(gradients, signs, alpha=self.l1)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        now, interval = batches_that_stepped(trainer), trainer.log_every_n_steps  # type: ignore[attr-defined]
        # Batches of an accumulation share the number of the step to come: once is enough.
        if trainer.loggers and interval and (now + 1) % interval == 0 and now != self._logged_at:
            self._logged_at = now
            self._log(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._rejoin_coefficients()  # for whoever saves now: the step may have been cut short

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.fold()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for hook in self._hooks if not self._groups else ():
            hook.remove()
        self._hooks = self._hooks if self._groups else []

    def state_dict(self) -> dict[str, Any]:
        return {"l1": self.l1, "groups": list(self._groups)}

    # Units and optimizers.

    def look_again(self, trainer: Trainer, module: LightningModule) -> None:
        """Go on with the coefficients of the units that are left, after others were cut out of the module."""
        groups = survey(module, self.patterns).groups
        self._groups = {name: groups[name] for name in self._groups}
        if self._by_optimizer:  # otherwise a fit that goes on, whose optimizers are still to come
            self._find_optimizers(trainer)

    def _find_optimizers(self, trainer: Trainer) -> None:
        """Which optimizer trains which coefficients; each has one."""
        coefficients, self._by_optimizer = self.coefficients, {}
        for optimizer in trainer.optimizers:
            if not isinstance(optimizer, Optimizer):
                raise LotteryError(f"{self.label} needs optimizers of torch.optim.Optimizer's kind.")
            held = {id(p) for group in optimizer.param_groups for p in group["params"]}
            self._by_optimizer[optimizer] = [c for c in coefficients.values() if id(c) in held]
        trained = {id(c) for coefficients_of_one in self._by_optimizer.values() for c in coefficients_of_one}
        if missing := [name for name, c in coefficients.items() if id(c) not in trained]:
            raise LotteryError(
                f"No optimizer trains the coefficients of '{missing[0]}' ({len(missing)} of {len(self._groups)} "
                "groups): let `configure_optimizers` take all of `self.parameters()`, or leave that kind out."
            )

    def _together(self, trainer: Trainer) -> list["NetworkSlimming"]:
        """All of the Trainer's: each of other kinds, by its name."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        return [callback for callback in callbacks if isinstance(callback, NetworkSlimming)] or [self]

    def _attach(self, module: LightningModule, beside: Sequence["NetworkSlimming"] = ()) -> None:
        """Find the units and give them coefficients, unless another one ``beside`` has given them some."""
        if not list(module.parameters()):
            raise LotteryError(
                f"{type(module).__name__} has no parameters yet when {self.label} adds its coefficients: build its "
                "layers in `__init__`, not in `setup` or `configure_model`."
            )
        groups = groups_of(module, self.patterns)
        mine = {name for name, group in groups.items() if group.kind in self.kinds}
        for slimming in beside:
            if both := [name for name in slimming.groups if name in mine]:
                raise LotteryError(
                    f"{slimming.label} and {self.label} both give coefficients to the units of '{both[0]}': part "
                    "their `kinds`."
                )
        # `nn.MultiheadAttention` reads the weight of its output projection and never calls it (torch 2.14): a hook
        # there would not run, and the coefficients of its heads would get no gradient.
        open_attention_(module)
        modules = {plain_name(name): child for name, child in module.named_modules()}
        owners, shared = owners_of(module), shared_weights(module)
        for name, group in groups.items():
            if group.kind == "channel" and "channel" in self.kinds:
                layers = (owners[p.parameter][0] for p in group.producers if p.parameter.endswith(".weight"))
                if norms := [layer for layer in layers if isinstance(layer, BATCH_NORMS)]:
                    self._groups[name], self._norms[name] = group, norms[0]
            elif group.kind in self.kinds:
                layer = modules[group.consumers[0].parameter.removesuffix(".weight")]
                self._refuse_layer(layer, group, {*shared, *shared.values()})
                self._hooks.append(attach_(layer, group.size))
                self._groups[name], self._layers[name] = group, layer
        forget_compiled()
        if not self._groups:
            kinds = sorted({group.kind for group in groups.values()})
            raise LotteryError(
                f"{self.label} finds no {' or '.join(self.kinds)} with a coefficient in {type(module).__name__}, "
                f"which has units of the kind {' and '.join(kinds)}: name another one in `kinds`."
            )

    def _refuse_layer(self, layer: nn.Module, group: Group, shared: Collection[str]) -> None:
        if group.consumers[0].parameter in shared:
            raise LotteryError(
                f"{self.label} cannot fold the coefficients of '{group.name}': the weight that reads its "
                f"{group.kind}s is tied to another module's."
            )
        if has_coefficients(layer):
            raise LotteryError(
                f"'{group.name}' still has coefficients of a fit that was broken off: go on with its NetworkSlimming, "
                "or call its `fold()` first."
            )

    def _fit_state(self, module: LightningModule, state: dict[str, Any], *_: Any) -> None:
        """Fold what is loaded into a module without coefficients: ``test`` and ``validate`` read any checkpoint."""
        plain = folded(state)
        if self._layers and len(plain) == len(state) and module.trainer.ckpt_path is not None:
            raise LotteryError(
                f"'{module.trainer.ckpt_path}' has no slimming coefficients: it was saved without NetworkSlimming, or "
                "when its fit had ended and they were folded. To slim from its weights, load them into the module, "
                "and fit that without `ckpt_path`."
            )
        # Not where another NetworkSlimming has attached some that this state is to fill.
        if not any(isinstance(child, Coefficients) for child in module.modules()):
            for key in state.keys() - plain.keys():
                del state[key]
            state.update(plain)

    def _part_coefficients(self, optimizer: Optimizer, *_: Any) -> None:
        """Put decayed coefficients into a group of their own while the optimizer steps; schedulers never see it."""
        # For the step alone: a group that stayed would be one more than the project's schedulers were built for, and
        # its checkpoints would load into no optimizer without NetworkSlimming.
        self._rejoin_coefficients()
        ids = {id(coefficients_of(layer)) for layer in self._parted}
        for group in list(optimizer.param_groups):
            decayed = [p for p in group["params"] if id(p) in ids] if group.get("weight_decay") else []
            if decayed:
                self._decayed.append((group, group["params"]))
                group["params"] = [p for p in group["params"] if id(p) not in ids]
                optimizer.param_groups.append({**group, "params": decayed, "weight_decay": 0.0, NAME: True})

    def _rejoin_coefficients(self, *_: Any) -> None:
        for group, params in self._decayed:
            group["params"] = params
        self._decayed = []
        for optimizer in self._by_optimizer:
            optimizer.param_groups[:] = [group for group in optimizer.param_groups if NAME not in group]

    def _warn_of_unreached(self, optimizer: Optimizer) -> None:
        unreached = {id(c) for c in self._by_optimizer.get(optimizer, ()) if c.grad is None}
        if names := [name for name, c in self.coefficients.items() if id(c) in unreached]:
            rank_zero_warn(
                f"{self.label}: no gradient reaches the coefficients of {', '.join(names)}: the layer that reads "
                "these units is not called, or not with a gradient."
            )

    def _log(self, trainer: Trainer) -> None:
        with torch.no_grad():
            by_layer = {name: c.abs().float() for name, c in self.coefficients.items()}
            kinds = dict.fromkeys(group.kind for group in self._groups.values())
            sizes = {
                f"slimming/{kind}": torch.cat(
                    [size for name, size in by_layer.items() if self._groups[name].kind == kind]
                )
                for kind in kinds
            }
            if self.log_layers:
                sizes |= {f"slimming_of/{name}": size for name, size in by_layer.items()}
            pairs = [torch.stack([size.mean(), size.min()]) for size in sizes.values()]
            values = torch.stack(pairs).tolist()  # one transfer
        named = {
            self._key(f"{name}/{what}"): value
            for name, pair in zip(sizes, values, strict=True)
            for what, value in zip(("mean", "min"), pair, strict=True)
        }
        log_to_all(trainer, named)
