"""Align the networks of a LightningModule: which of its units may change places, checked on its own step."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torchmetrics import Metric

from lightning_lottery.connectivity.batches import Split, samples_in, share_of
from lightning_lottery.connectivity.evaluation import forward_of
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.alignment import Coupling, Couplings, Orders, match_weights, permute
from lightning_lottery.functional.connectivity import State
from lightning_lottery.hooks.quiet import logging_to
from lightning_lottery.scope import plain_name, ties
from lightning_lottery.units.tracing import permutable

Moved = Mapping[str, tuple[int, int]]
"""Name of a group to the number of its units that changed places, and of all."""


@dataclass(frozen=True)
class Aligner:
    """Puts the units of one network into the order of another's; a function of the two states alone.

    Args:
        couplings: What changes places together.
        left: Modules whose weights stay where they are, and why.
        weights: Names of the parameters, tied ones once: what is compared.
        aliases: Further names of tied parameters.
    """

    couplings: Couplings
    left: Mapping[str, str]
    weights: Sequence[str]
    aliases: Mapping[str, str]

    def orders(self, a: State, b: State) -> Orders:
        """The order of ``b``'s units in which it lies nearest to ``a``."""
        # Weights only: batch norm's statistics move along, but their size says nothing about which units are alike.
        weights_a, weights_b = ({name: state[name] for name in self.weights} for state in (a, b))
        return match_weights(weights_a, weights_b, self.couplings)

    def moved(self, orders: Orders) -> Moved:
        """How many units of each group an order moves."""
        return {
            name: (int((order != torch.arange(len(order))).sum()), self.couplings[name].size)
            for name, order in orders.items()
        }

    @property
    def by_plain_names(self) -> Couplings:
        """The couplings by names of parameters as masks have them, where a module is compiled, too."""
        return {
            name: Coupling(coupling.size, [(plain_name(part[0]), *part[1:]) for part in coupling.parts])
            for name, coupling in self.couplings.items()
        }

    def permuted(self, state: State, orders: Orders) -> dict[str, Tensor]:
        """A state with its units in another order, tied weights under all their names."""
        permuted = permute(state, self.couplings, orders)
        return permuted | {alias: permuted[first] for alias, first in self.aliases.items() if alias in permuted}


def aligner_of(module: LightningModule, submodule: str, state: State, data: Any, batches: Any, split: Split) -> Aligner:
    """What aligns networks of a module's kind, after a check that it changes no function.

    The module's own step is run for some samples, in float64 on a copy on the CPU, before and after all groups are
    permuted at random. A group that changes what the step gives is left out, and named.

    Args:
        module: Holds the networks.
        submodule: Where in it the states go.
        state: Of a trained network: with it the check is done.
        data: The project's data module, whose hooks around the transfer of a batch are used.
        batches: A loader; its first samples are used.
        split: Whether the module's test or its validation step is run.

    Raises:
        LotteryError: The module has no group that passes the check, or its step does not run on such a copy.
    """
    target = module.get_submodule(submodule)
    groups, left = permutable(target)
    # Groups and ties go by plain names; in the states of a compiled module names contain `_orig_mod.`.
    in_states = {plain_name(name): name for name in target.state_dict()}
    couplings = {
        name: Coupling(g.size, [(in_states.get(part[0], part[0]), *part[1:]) for part in g.parts])
        for name, g in groups.items()
    }
    aliases = {in_states[alias]: in_states[first] for alias, first in ties(target).items() if alias in in_states}
    aligner = Aligner(couplings, left, [name for name, _ in target.named_parameters()], aliases)
    if couplings:
        run = _outcome_of(module, submodule, data, batches, split)
        aligner = _checked(aligner, state, run)
    if not aligner.couplings:
        why = "; ".join(f"'{name}' ({reason})" for name, reason in list(aligner.left.items())[:4])
        raise LotteryError(f"{type(target).__name__} has no units that could be aligned: {why}. Judge without `align`.")
    return aligner


def _checked(aligner: Aligner, state: State, run: Callable[[State], list[Tensor]]) -> Aligner:
    """An aligner with only those groups whose permutation leaves what the module's step gives as it is."""
    generator = torch.Generator().manual_seed(0)
    orders = {name: _random_order(coupling.size, generator) for name, coupling in aligner.couplings.items()}
    before = run(state)
    if not before:
        raise LotteryError("The module's step logs and computes nothing by which an alignment could be checked.")

    def leave_it_as_it_is(names: Sequence[str]) -> bool:
        after = run(aligner.permuted(state, {name: orders[name] for name in names}))
        return len(before) == len(after) and all(map(_equal, before, after))

    # All at once first: nearly every network passes, in two runs of its step instead of one for each group.
    if leave_it_as_it_is(list(orders)):
        return aligner
    kept = [name for name in orders if leave_it_as_it_is([name])]
    if not leave_it_as_it_is(kept):  # two groups may pass alone and not together, where a tensor lies in both
        kept = []
    left = {name: "permuting its units changes what the network computes" for name in orders if name not in kept}
    couplings = {name: aligner.couplings[name] for name in kept}
    return Aligner(couplings, {**aligner.left, **left}, aligner.weights, aligner.aliases)


def _random_order(size: int, generator: torch.Generator) -> Tensor:
    """An order in which some unit moves: the one that there is would pass any check."""
    order, as_is = torch.randperm(size, generator=generator), torch.arange(size)
    return as_is.roll(1) if torch.equal(order, as_is) else order


def _equal(before: Tensor, after: Tensor) -> bool:
    if before.shape != after.shape:
        return False
    before, after = before.double(), after.double()
    # Sums over units are added up in another order, so float64 leaves some 1e-15 of the largest entry; a permutation
    # that matters changes entries by about their own size. Entries near 0 are judged by the largest, not by themselves.
    scale = float(before.nan_to_num(0, 0, 0).abs().max()) if before.numel() else 0.0
    return torch.allclose(before, after, rtol=0, atol=1e-9 * (scale + 1e-3), equal_nan=True)


def _outcome_of(
    module: LightningModule, submodule: str, data: Any, batches: Any, split: Split
) -> Callable[[State], list[Tensor]]:
    """What a module's step logs, returns and last computed for a few samples, as a function of the state."""
    # The copy's Trainer is the module's: steps may ask it. Loading the batch may draw random numbers, put back here.
    with _saying_why(module, split), torch.random.fork_rng(devices=[]):
        twin = deepcopy(module).cpu().double().eval()
        twin.trainer = module.trainer
        batch = _samples_for(twin, data, batches)
        step, watcher = forward_of(twin, split), _Watcher()
        watcher.watch(twin)

    def run(state: State) -> list[Tensor]:
        twin.get_submodule(submodule).load_state_dict(state, strict=False)
        watcher.logged, watcher.last_output = [], None
        with (
            _saying_why(twin, split),
            logging_to(twin, watcher.log),
            torch.random.fork_rng(devices=[]),
            torch.no_grad(),
        ):
            torch.manual_seed(0)  # a step may draw random numbers: the same in every run
            returned = step(batch)
        # The last output as well: an accuracy is the same for many functions, and a test step often returns nothing.
        values = tree_leaves([watcher.logged, watcher.last_output, returned])
        return [torch.as_tensor(value).detach().clone() for value in values if isinstance(value, (Tensor, float))]

    return run


@contextmanager
def _saying_why(module: LightningModule, split: Split) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of anybody's step
        raise LotteryError(
            f"Whether units may change places is checked on a copy on the CPU in float64, where the {split} step of "
            f"{type(module).__name__} fails: {error}. Judge without `align`."
        ) from error


class _Watcher:
    """Keeps what a module logs, and the output of the module that its step called last."""

    def __init__(self) -> None:
        self.logged: list[Any] = []
        self.last_output: Any = None
        self.depth = 0  # of calls of modules within each other

    def log(self, name: str, value: Any, *_: Any, **__: Any) -> None:
        """Stands in for ``LightningModule.log``."""
        self.logged.append(value)

    def watch(self, module: LightningModule) -> None:
        for child in module.modules():
            if not isinstance(child, Metric):  # a metric is a module too, called after the network
                child.register_forward_pre_hook(self.enter)
                child.register_forward_hook(self.leave)

    def enter(self, *_: Any) -> None:
        self.depth += 1

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.depth -= 1
        if self.depth == 0:  # a call by the step, not by another module: units within it may be in any order
            self.last_output = output


def _samples_for(module: LightningModule, data: Any, batches: Any) -> Any:
    """A few samples of the first batch, as the step gets them, in float64 on the CPU."""
    batch = next(iter(batches))
    # A quarter of a batch: a check in float64 on the CPU is slow, and a few samples tell one function from another.
    with suppress(LotteryError):  # tensors that do not all begin with the samples: the whole batch
        batch = share_of(batch, 0, max(1, samples_in(batch) // 4))
    for hook in ("on_before_batch_transfer", "on_after_batch_transfer"):
        source = data if isinstance(data, LightningDataModule) and is_overridden(hook, data) else module
        batch = getattr(source, hook)(batch, 0)
    return apply_to_collection(batch, Tensor, lambda t: t.double() if t.is_floating_point() else t)
