"""Units cut out of a module in the middle of its fit: whoever holds its tensors goes on with the smaller ones."""

import weakref
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_lottery.errors import LotteryError
from lightning_lottery.hooks.competing import Patterns, every_group, slimming_in
from lightning_lottery.hooks.costs import Costs, savings
from lightning_lottery.hooks.explaining import Explanation, Sheet
from lightning_lottery.hooks.holders import follow_, refuse_holders, refuse_optimizers
from lightning_lottery.hooks.left_out import copies, held_by
from lightning_lottery.hooks.loggers import folder_of
from lightning_lottery.hooks.mask_callback import MaskCallback
from lightning_lottery.hooks.masked import averaged_copies
from lightning_lottery.hooks.named import NamedCallback
from lightning_lottery.hooks.private import why_not_wrapped_anew, wrap_anew_
from lightning_lottery.scope import Scope, plain_name
from lightning_lottery.ticket import Ticket
from lightning_lottery.units.coefficients import forget_compiled
from lightning_lottery.units.cuts import Cut
from lightning_lottery.units.draws import Frame, frame_of
from lightning_lottery.units.open_attention import open_attention_
from lightning_lottery.units.parts import Groups, owners_of, tensor_at
from lightning_lottery.units.removal import Units, cut_out_, first_of, refuse_uncuttable
from lightning_lottery.units.saved import size_in

UNITS_LEFT = "lightning_lottery.units_left"
"""Where the checkpoint of a module that was made smaller says so: how many units each of its groups has."""


class Cutting:
    """Cuts units out of a fit's module, once, and out of a whole one before a checkpoint of a smaller one is loaded.

    Args:
        label: What messages call the callback.
        name: Of the callback, for whose files no other callback may write.
        patterns: Names of blocks to look for, as ``groups_of`` takes them.

    Attributes:
        whole: What the module was before; None while it is whole.
        units_left: How many units each group has since.
        costs: Of a step, before and after.
    """

    def __init__(self, label: str, name: str | None, patterns: Patterns | None) -> None:
        self._label, self._name, self._patterns = label, name, patterns
        self._hook: RemovableHandle | None = None
        self.costs = Costs()
        self.reset()

    def reset(self) -> None:
        """No module was cut yet."""
        self.whole: Frame | None = None
        self.units_left: dict[str, int] = {}
        self._has_begun = False
        self.costs.reset()

    # Before the first step.

    def listen(self, trainer: Trainer, module: LightningModule, *, is_fitting: bool) -> None:
        """From ``setup`` on: cut a module to what is loaded into it."""
        self.end()
        self._has_begun = False
        here, fitting, fitted = weakref.ref(self), weakref.ref(trainer), weakref.ref(module)

        # A function, no method: a deep copy of the module has it, too, and must not copy all that we hold.
        def fit_to_state(loaded: nn.Module, state: Mapping[str, Tensor], *_: Any) -> None:
            cutting, trainer, module = here(), fitting(), fitted()
            if cutting is not None and trainer is not None and module is not None and loaded is module:
                cutting._fit_to(trainer, module, state, is_fitting=is_fitting)

        self._hook = module.register_load_state_dict_pre_hook(fit_to_state)  # type: ignore[no-untyped-call]

    def end(self) -> None:
        """Leave no hook on the module."""
        if self._hook is not None:
            self._hook.remove()
        self._hook = None

    def begin(self, trainer: Trainer, module: LightningModule, groups: Groups) -> None:
        """In ``on_train_start``, when everybody's hooks have prepared: as ``check``, for a module that is whole."""
        self._has_begun = True
        if self.whole is None:
            self.check(trainer, module, groups)

    def check(self, trainer: Trainer, module: LightningModule, groups: Groups) -> None:
        """Refuse a fit that could not go on with a smaller module.

        Raises:
            LotteryError: Somebody holds tensors of the units where nobody could put smaller ones.
        """
        who = f"{self._label} is to cut units out of the running fit, and"
        if why := why_not_wrapped_anew(trainer):
            raise LotteryError(f"{who} cannot under {type(trainer.strategy).__name__}: {why}. {_INSTEAD}")
        refuse_uncuttable(module, groups, groups)
        tensors = tensors_of(module, groups)
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        for callback in callbacks:
            if isinstance(callback, NamedCallback) and getattr(callback, "cutting", self) is not self:
                raise LotteryError(f"{who} {callback.label} watches them as well: let one EarlyBird have all rules.")
            if isinstance(callback, MaskCallback) and callback.name == self._name:
                raise LotteryError(f"{who} {callback.label} would write a ticket of the same name: give it a `name`.")
            if isinstance(callback, MaskCallback) and (shared := sorted(tensors.keys() & callback.parameters.keys())):
                raise LotteryError(f"{who} {callback.label} masks '{shared[0]}' of them: part their scopes.")
        refuse_holders(module, callbacks, tensors, who)
        refuse_optimizers(trainer.optimizers, tensors, who)
        candidates = Scope().explain(module, held_by(trainer.optimizers))
        for copy, original in copies(module, candidates).items():
            rank_zero_warn(
                f"{self._label}: '{copy}' is built as '{original}' and is not trained, so it keeps its units. If "
                "weights are averaged into it, their shapes will differ: let Lightning's WeightAveraging do that."
            )

    def take_up(self, groups: Groups, state: Mapping[str, Any]) -> None:
        """Go on with a module that was whole, and was made smaller when the weights of a checkpoint were loaded.

        Raises:
            LotteryError: The checkpoint is of another version, or the module was not whole.
        """
        if "costs" not in state:
            raise LotteryError(
                f"The checkpoint of {self._label} is of a version that cut units out when the fit had ended, and its "
                "module is whole: finish that fit with the version that began it."
            )
        if {name: group.size for name, group in groups.items()} != state["units"]:
            raise LotteryError(
                f"{self._label} goes on from a checkpoint of a smaller module by making a whole one smaller, and this "
                "module is not whole: give `fit` a new one."
            )
        self.costs.load_state_dict(state["costs"])

    def state_dict(self, groups: Groups) -> dict[str, Any]:
        """What ``take_up`` reads, of the whole module's groups."""
        return {"units": {name: group.size for name, group in groups.items()}, "costs": self.costs.state_dict()}

    # Cutting.

    def cut_(
        self,
        trainer: Trainer,
        module: LightningModule,
        groups: Groups,
        units: Units,
        *,
        step: int,
        batch: tuple[Any, int],
    ) -> None:
        """Cut units out of the module of a running fit, after an optimizer's step.

        Args:
            trainer: The fit's.
            module: The fit's.
            groups: All whose units the fit may lose.
            units: Name of a group to its mask.
            step: Optimizer steps that happened.
            batch: The present one and its number, by which multiply-adds are counted.

        Raises:
            LotteryError: An optimizer keeps something that cannot be cut; nothing has been changed.
        """
        refuse_optimizers(trainer.optimizers, tensors_of(module, groups), self._label, is_tried=False)
        self.costs.count(trainer, *batch)
        self.whole, self.costs.step = frame_of(module, groups), step
        for cut in (cuts := self._cut_modules(trainer, module, groups, units)):
            if cut.before.grad is not None:  # callbacks after this one may read it, and a manual loop may add to it
                cut.after.grad = cut.entries_of(cut.before.grad)
        for optimizer in trainer.optimizers:
            follow_(optimizer, cuts)
        wrap_anew_(trainer)
        self._tell(trainer, module)
        self.costs.count(trainer, *batch)

    def _fit_to(
        self, trainer: Trainer, module: LightningModule, state: Mapping[str, Tensor], *, is_fitting: bool
    ) -> None:
        """Cut a module to the sizes that its units have in what is about to be loaded."""
        groups = every_group(trainer, module, self._patterns)
        shapes = {plain_name(name): tuple(value.shape) for name, value in state.items()}
        sizes = {name: size_in(shapes, group) for name, group in groups.items()}
        if larger := [name for name, group in groups.items() if sizes[name] > group.size]:
            group = groups[larger[0]]
            raise LotteryError(
                f"'{trainer.ckpt_path or 'What is loaded'}' has {sizes[group.name]} {group.kind}s in '{group.name}', "
                f"and this module {group.size}: {self._label} has cut units out of the module since it was saved. Load "
                f"it into a new {type(module).__name__}."
            )
        units = {n: first_of(sizes[n], group.size) for n, group in groups.items() if sizes[n] < group.size}
        if not units or self._has_begun:  # in a running fit optimizers would keep the old ones
            return
        if is_fitting:
            self.whole = frame_of(module, groups)
        self._cut_modules(trainer, module, groups, units)
        open_attention_(module)  # as the fit had it that saved this
        self._tell(trainer, module)

    def _cut_modules(self, trainer: Trainer, module: LightningModule, groups: Groups, units: Units) -> list[Cut]:
        """Cut units out of the module and of its averages; what was cut of the module itself."""
        for average in averaged_copies(trainer.callbacks):  # type: ignore[attr-defined]
            cut_out_(average, groups, units)
        return cut_out_(module, groups, units)

    def _tell(self, trainer: Trainer, module: LightningModule) -> None:
        self.units_left = {name: group.size for name, group in every_group(trainer, module, self._patterns).items()}
        forget_compiled()
        for slimming in slimming_in(trainer):
            slimming.look_again(trainer, module)

    def explanation(self, module: nn.Module, groups: Groups) -> Explanation:
        """Which units may go, and what is in them."""
        entries = {name: tensors_of(module, {name: group}) for name, group in groups.items()}
        rows = [
            (name, group.kind, f"{group.size:,}", f"{sum(t.numel() for t in entries[name].values()):,}")
            for name, group in groups.items()
        ]
        sheet = Sheet(
            f"Units that {self._label} may cut out of the running fit",
            ("layer", "kind", "units", "entries"),
            ("units", "entries"),
            rows,
        )
        memory = "From the draw on, module, gradients, optimizer state and averages are smaller; nothing is added."
        return Explanation(self._label, sheet, [], None, memory)

    # Records.

    def say_in(self, checkpoint: dict[str, Any]) -> None:
        """Let a checkpoint of a smaller module say so."""
        if self.whole is not None:
            checkpoint[UNITS_LEFT] = dict(self.units_left)

    def write(self, trainer: Trainer, drawn: str, ticket: Ticket) -> None:
        """Write what was cut out and what a step costs before and after, at the draw and at the end. Collective."""
        folder = folder_of(trainer)  # collective: asked for on every rank
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        names = [stem if self._name is None else f"{stem}-{self._name}" for stem in ("ticket", "shrunk")]
        ticket.save(folder / f"{names[0]}.safetensors")
        rows = self.costs.write(folder / f"{names[1]}.csv")
        rank_zero_info(
            f"{self._label}: what '{drawn}' removes was cut out at step {self.costs.step}: {savings(rows)}. "
            "Checkpoints from before hold the whole module, and load into a new one only."
        )


_INSTEAD = "Let it prune, action='prune', and call `shrink` when the fit has ended."


def tensors_of(module: nn.Module, groups: Groups) -> dict[str, Tensor]:
    """The parameters and buffers that lose entries where units of groups go."""
    owners = owners_of(module)
    return {part.parameter: tensor_at(owners, part.parameter) for group in groups.values() for part in group.parts}
