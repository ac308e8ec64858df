"""What must be true of one cell: this module in this loop under this callback, seen from outside."""

import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from foreign.loops import LOOPS, Night
from foreign.modules import MODULES
from helpers.projects import Batches, fit
from helpers.states import same
from lightning_lottery import (
    PLATON,
    SNIP,
    DynamicMask,
    EarlyBird,
    GraSP,
    HammingFIFO,
    LotteryError,
    MagnitudePruning,
    MaskFreezing,
    NetworkSlimming,
    SynFlow,
    Ticket,
)

WORKS = "works"
SPARSITY = 0.4
SHORT = {"max_epochs": 2, "num_sanity_val_steps": 0}
END = 5  # of eight steps: when schedules have ended


def by_ticket(module: LightningModule, sparsity: float) -> MaskFreezing:
    """A ticket of the module's scope that removes the first entries of each weight, or none."""
    weights = {name: module.get_parameter(name) for name in module.scope}
    masks = {name: torch.arange(w.numel()).view_as(w) >= round(sparsity * w.numel()) for name, w in weights.items()}
    return MaskFreezing(Ticket(masks))


NEURONS = {"neuron": [{"up": "0", "down": "3"}, {"up": "3", "down": "5"}]}
READERS = {"net.0": "net.3", "net.3": "net.5"} | {f"net.{i}.down": f"net.{i}.up" for i in (0, 3)}
"""Which layer reads the neurons of which; of an adapter, those of its low rank."""


def bird(module: LightningModule, sparsity: float) -> EarlyBird:
    """Draws as soon as masks of two steps are alike."""
    return EarlyBird([HammingFIFO(2, 0.9, interval=1)], [sparsity], scores="weights", action="prune", patterns=NEURONS)


Make = Callable[[LightningModule, float], Callback]
OF_WEIGHTS: dict[str, Make] = {
    "PLATON": lambda module, sparsity: PLATON(sparsity, interval=1, begin=0, end=END),
    "MagnitudePruning": lambda module, sparsity: MagnitudePruning(sparsity, interval=1, begin=0, end=END),
    "SynFlow": lambda module, sparsity: SynFlow(sparsity, iterations=3),
    "SNIP": lambda module, sparsity: SNIP(sparsity, batches=1),
    "GraSP": lambda module, sparsity: GraSP(sparsity, batches=1),
    "MaskFreezing": by_ticket,
    "DynamicMask": lambda module, sparsity: DynamicMask(sparsity, interval=1, end=END),
}
OF_UNITS: dict[str, Make] = {
    "EarlyBird": bird,
    "NetworkSlimming": lambda module, sparsity: NetworkSlimming(1e-3, patterns=NEURONS),
}

CALLBACKS = OF_WEIGHTS | OF_UNITS

Cell = tuple[str, str, str]  # module, loop, callback
FAILS_WITHOUT_US = {("frozen until epoch 1", "LBFGS")}  # it takes no second group of parameters
PAIRS = [(module, loop) for module in MODULES for loop in LOOPS if (module, loop) not in FAILS_WITHOUT_US]


def product(callbacks: Iterable[str]) -> list[Cell]:
    """Every module in every loop under each of these callbacks."""
    return [(*pair, callback) for pair in PAIRS for callback in callbacks]


def covering(callbacks: Iterable[str]) -> list[Cell]:
    """Cells of the product in which every two of a module, a loop and a callback meet: few more than of the first two.

    A Latin square, where the callback's number is the sum of the others', and what pairs that cannot be leave open.
    """
    modules, loops, names = list(MODULES), list(LOOPS), list(callbacks)
    square = [(m, o, names[(modules.index(m) + loops.index(o)) % len(names)]) for m, o in PAIRS]
    cells, met = [], set[tuple[str, str]]()
    for cell in [*square, *product(names)]:
        if not met.issuperset(combinations(cell, 2)):
            cells.append(cell)
            met.update(combinations(cell, 2))
    return cells


def build(module: str, loop: str) -> Any:
    """The module in its loop, as the project would write it."""
    return type(module.title().replace(" ", ""), (LOOPS[loop], MODULES[module]), {})()


def promised_masks(callback: Any) -> Mapping[str, Tensor]:
    """The masks whose removed weights are to be zero now, whoever looks."""
    if isinstance(callback, EarlyBird):
        return callback.freezing.masks if callback.freezing else {}
    if isinstance(callback, NetworkSlimming):
        return {}
    return callback.masks if callback.frozen or callback.step >= END else {}


class Look(Callback):
    """Wherever a batch or validation may see weights: removed ones are zero once that is promised, copies untouched."""

    lottery_order = 2

    def __init__(self, callback: Callback) -> None:
        self.callback, self.wrong, self.looks = callback, set[str](), 0

    def _look(self, where: str, module: LightningModule) -> None:
        self.looks += 1
        # Copies have slimming coefficients too, which are folded into them.
        is_slimmed = isinstance(self.callback, NetworkSlimming)
        if not is_slimmed and not same([p.detach() for p in module.copied()], module.copy_written):
            self.wrong.add(f"the copy was written {where}")
        params = dict(module.named_parameters())
        alive = [name for name, mask in promised_masks(self.callback).items() if params[name].detach()[~mask].any()]
        self.wrong |= {f"removed weights of {name} are not zero {where}" for name in alive}

    def on_train_batch_start(self, trainer, pl_module, *_):
        self._look("when a batch begins", pl_module)

    def on_train_batch_end(self, trainer, pl_module, *_):
        # The module's average is written in its own hook, which comes later.
        self._look("at a batch's end", pl_module)

    def on_validation_batch_start(self, trainer, pl_module, *_):
        self._look("when validation begins", pl_module)

    def on_fit_end(self, trainer, pl_module):
        self._look("when the fit has ended", pl_module)


def train(folder: Path, module: Any, make: Callable[[], list[Callback]]) -> tuple[Trainer, list[Callback], list[str]]:
    """The loop's fit with fresh callbacks, its callbacks, and what was warned of; where one breaks off, two fits."""
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        if module.breaks:
            before = {name: value.clone() for name, value in module.state_dict().items()}
            with pytest.raises(RuntimeError, match="night"):
                fit(folder / "broken", *make(), *module.others(), Night(), module=module, **SHORT)
            module.load_state_dict(before, strict=False)  # slimming coefficients may be there still
            module.after_loading()
        callbacks = make()
        trainer = fit(folder, *callbacks, *module.others(), module=module, **SHORT)
    return trainer, callbacks, [str(one.message) for one in shown]


def outcome(folder: Path, cell: Cell) -> tuple[str, list[str]]:
    """Works, or the sentence of a refusal that came in time; and everything that is wrong."""
    name, loop, method = cell
    module = build(name, loop)
    initial = {key: value.clone() for key, value in module.state_dict().items()}
    looks: list[Look] = []

    def make() -> list[Callback]:
        # A fit that is broken off removes more, so that it shows where its masks live on.
        callback = CALLBACKS[method](module, 0.8 if module.breaks and not looks else SPARSITY)
        looks.append(Look(callback))
        return [looks[-1], callback]

    try:
        trainer, (look, callback), warned = train(folder, module, make)
    except LotteryError as error:
        late = module.trainer.global_step > module.latest_refusal
        return str(error), [f"refused only after step {module.trainer.global_step}"] if late else []
    wrong = [*look.wrong, *wrong_everywhere(module, trainer, look, initial)]
    if isinstance(callback, EarlyBird):
        wrong += wrong_units(folder, module, callback)
    elif isinstance(callback, MaskFreezing):
        wrong += wrong_masks(folder, module, callback, initial, kept_by_ticket(module))
    elif not isinstance(callback, NetworkSlimming):
        total = sum(initial[name].numel() for name in module.scope)
        wrong += wrong_masks(folder, module, callback, initial, round((1 - SPARSITY) * total))
        if module.left_out and not any(module.left_out in text for text in warned):
            wrong.append(f"no warning names {module.left_out}")
    return WORKS, sorted(wrong)


def wrong_everywhere(module, trainer, look, initial) -> Iterator[str]:
    """What is not as it must be when a fit under any callback has ended."""
    if list(module.state_dict()) != list(initial):
        yield "the state has other keys"
    held = {id(p) for optimizer in trainer.optimizers for group in optimizer.param_groups for p in group["params"]}
    params = dict(module.named_parameters())
    yield from (f"no optimizer trains {name}" for name in promised_masks(look.callback) if id(params[name]) not in held)
    with torch.no_grad():
        if not module.eval().loss(next(iter(Batches()))).isfinite():
            yield "the loss is not finite"
    if look.looks <= 2 * 8:
        yield f"looked {look.looks} times only"


def wrong_masks(folder, module, callback, initial, kept) -> Iterator[str]:
    """What is not as it must be under a callback that masks weights: counts, zeros, tickets."""
    masks, params = callback.masks, dict(module.named_parameters())
    if {name: mask.shape for name, mask in masks.items()} != {name: initial[name].shape for name in module.scope}:
        yield f"masks are of {sorted(masks)}"
        return
    if (count := sum(int(mask.sum()) for mask in masks.values())) != kept:
        yield f"{count} are kept"
    for name, mask in masks.items():
        zero, may_be_zero = params[name].detach() == 0, ~mask | (initial[name] == 0)  # what began so may stay so
        if not zero[~mask].all() or not may_be_zero[zero].all():
            yield f"{name} has {int(zero.sum())} zeros, its mask {int((~mask).sum())}"
    for ticket in (callback.ticket(), Ticket.load(folder / "ticket.safetensors")):
        if not same(ticket.distinct, masks):
            yield "the ticket says other masks"


def kept_by_ticket(module: LightningModule) -> int:
    return sum(int(mask.sum()) for mask in by_ticket(module, SPARSITY).masks.values())


def wrong_units(folder, module, callback) -> Iterator[str]:
    """What is not as it must be under a callback that removes neurons of the trained network."""
    ticket = Ticket.load(folder / "ticket.safetensors")
    units = ticket.units
    if not units or not units.keys() <= READERS.keys():
        yield f"the units removed are of {sorted(units)}"
        return
    total, kept = (sum(int(n) for n in ns) for ns in zip(*((u.numel(), u.sum()) for u in units.values()), strict=True))
    if kept != round((1 - SPARSITY) * total):
        yield f"{kept} of {total} units are kept"
    for name, unit in units.items():
        if module.get_submodule(READERS[name]).weight.detach()[:, ~unit].any():
            yield f"what reads removed units of {name} is not zero"


# What removes nothing.


def ending(folder: Path, module: Any, make: Callable[[], list[Callback]]) -> dict[str, Any]:
    """All that a fit leaves behind."""
    trainer, _, _ = train(folder, module, make)
    return {
        "weights": module.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "random numbers": [torch.get_rng_state(), random.getstate()],
        "step": trainer.global_step,
    }


DENSE: dict[tuple[str, str], dict[str, Any]] = {}


def differences_where_nothing_is_removed(folder: Path, cell: Cell, sparsity: float) -> list[str]:
    """In what a fit under a callback that removes nothing differs from the fit without it; nothing where refused."""
    name, loop, method = cell
    if (name, loop) not in DENSE:
        DENSE[name, loop] = ending(folder / "dense", build(name, loop), list)
    module = build(name, loop)
    try:
        end = ending(folder, module, lambda: [CALLBACKS[method](module, sparsity)])
    except LotteryError:
        return []  # whether that is in time, `outcome` says
    return [what for what, value in DENSE[name, loop].items() if not same(end[what], value)]
