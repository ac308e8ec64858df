"""Does a small error barrier at a step go with a good ticket found there? Parents are compared within steps."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import numpy.typing as npt

from lightning_lottery.checks import check_positive
from lightning_lottery.errors import LotteryError

Floats = npt.NDArray[np.float64]
Order = npt.NDArray[np.int_]

ALL_ORDERS = 7
"""Up to so many parents every arrangement is looked at; of more, ``ARRANGEMENTS`` are drawn."""

ARRANGEMENTS = 9_999
DRAWS = 2_000
DESCRIPTIVE = 5
"""Fewer parents describe; they show nothing."""

BOOTSTRAPPED = 8
"""From so many parents on the correlation has bounds."""


@dataclass(frozen=True)
class Prediction:
    """Whether, among parents at the same step, a lower barrier goes with a better ticket.

    Args:
        rho: Spearman's correlation of barrier and deficit over parents within steps, in [-1, 1]: positive where a lower
            barrier goes with a better ticket.
        p: Of a rho so high by chance, one-sided, by permuting whole parents.
        low: Bound of rho from below, 95 % two-sided, from a bootstrap of parents; None for few parents.
        high: Bound from above, or None.
        partial: The same correlation beyond what a third quantity explains; None without one, or where it explains all.
        partial_p: Of ``partial``, or None; where the third explains most of both, 5 % are rather 9 % (10 parents at 7
            steps, loadings of .8, simulated).
        auc: Of pairs of a matching and another ticket at the same step, the share in which the matching one's barrier
            is lower, ties counting half; None where no step has both kinds.
        auc_pooled: The same over all steps together: confounded with the step, as both merely change with it.
        parents: How many are compared.
        steps: At how many steps.
    """

    rho: float
    p: float
    low: float | None
    high: float | None
    partial: float | None
    partial_p: float | None
    auc: float | None
    auc_pooled: float | None
    parents: int
    steps: int

    @property
    def is_descriptive(self) -> bool:
        """Whether there are too few parents to show anything."""
        return self.parents < DESCRIPTIVE


def predict_deficits(
    barriers: Floats, deficits: Floats, beside: Floats | None = None, *, margin: float = 0.01, seed: int = 0
) -> Prediction:
    """How well barriers tell, among parents at the same step, which tickets will match.

    The unit is the parent: its steps are repeated measures, so whole parents are permuted and resampled. Ranks are
    taken within each step, so that what merely changes with the step says nothing.

    Args:
        barriers: (parents, steps): error barrier of children that the deficits know nothing of.
        deficits: (parents, steps): error of the ticket found at the step, minus that of the dense network.
        beside: (parents, steps): a quantity beyond which barriers shall say something, such as the dense error.
        margin: Deficit up to which a ticket matches.
        seed: Of arrangements and resamples, where not all are looked at.

    Raises:
        LotteryError: Other shapes, fewer than three parents, a value that is not finite, or one value at every step.

    Example:
        >>> barriers = np.array([[0.1, 0.05], [0.2, 0.1], [0.4, 0.3], [0.5, 0.4]])
        >>> prediction = predict_deficits(barriers, barriers / 10)
        >>> prediction.rho, round(prediction.p, 3), prediction.is_descriptive
        (1.0, 0.042, True)

    Source: Spearman 1904, stratified by step; permutations of whole units as in Welch 1990.
    """
    _check(barriers, deficits, beside)
    x, y = _ranks(barriers), _ranks(deficits)
    z = None if beside is None else _ranks(beside)
    if not x.any() or not y.any():
        raise LotteryError(
            "All parents have the same barriers, or the same deficits, at every step: nothing to compare."
        )
    count, steps = barriers.shape
    random = np.random.default_rng(seed)
    orders = list(_orders(count, random))
    rho = _correlation(x, y)
    low = high = None
    if count >= BOOTSTRAPPED:
        low, high = _bootstrap(barriers, deficits, random)
    partial = partial_p = None
    if z is not None and z.any() and max(abs(_correlation(x, z)), abs(_correlation(y, z))) < 1 - 1e-12:
        partial = _partial(x, y, z)
        # Barrier and third quantity stay together, so that their own correlation is not taken for a chance one.
        partial_p = _share(partial, (_partial(x, y[order], z) for order in orders))
    is_match = deficits <= margin
    return Prediction(
        rho=rho,
        p=_share(rho, (_correlation(x, y[order]) for order in orders)),
        low=low,
        high=high,
        partial=partial,
        partial_p=partial_p,
        auc=_area([(barriers[:, step], is_match[:, step]) for step in range(steps)]),
        auc_pooled=_area([(barriers.ravel(), is_match.ravel())]),
        parents=count,
        steps=steps,
    )


def parents_needed(r: float, steps: int = 7, *, power: float = 0.8, shared: float = 0.5, seed: int = 0) -> int | None:
    """How many parents it takes to show a correlation at a level of 5 %, by simulation; None for more than 60.

    Args:
        r: Correlation of barrier and deficit over parents at a step, in (0, 1).
        steps: At which every parent is looked at.
        power: Probability of showing it.
        shared: Share of the variance between parents that is the same at all steps; the rest is new at each.
        seed: Of the simulation.

    Raises:
        LotteryError: A correlation outside of (0, 1), or no step.
    """
    check_positive("r", r, "the correlation within a step that is to be shown")
    if r >= 1 or steps < 1:
        raise LotteryError(f"A plan is made for a correlation below 1 and one step or more, got {r} and {steps}.")
    for parents in (4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 18, 20, 24, 28, 32, 36, 40, 50, 60):
        if _power(r, parents, steps, shared, np.random.default_rng(seed)) >= power:
            return parents
    return None


def _check(barriers: Floats, deficits: Floats, beside: Floats | None) -> None:
    arrays = [array for array in (barriers, deficits, beside) if array is not None]
    if barriers.ndim != 2 or any(array.shape != barriers.shape for array in arrays):
        raise LotteryError("Barriers and deficits are of the same parents at the same steps.")
    if len(barriers) < 3 or not barriers.shape[1]:
        raise LotteryError(f"Parents are compared with each other: three are the least, got {len(barriers)}.")
    if not all(np.isfinite(array).all() for array in arrays):
        raise LotteryError("A barrier or deficit is not finite: leave its step out.")


def _ranks(values: Floats) -> Floats:
    """Ranks of parents at each step, ties sharing theirs, around 0."""
    from scipy.stats import rankdata

    ranks: Floats = rankdata(values, axis=0) - (len(values) + 1) / 2
    return ranks


def _correlation(x: Floats, y: Floats) -> float:
    """Of ranks within steps, summed over the steps."""
    length = math.sqrt(float((x * x).sum()) * float((y * y).sum()))
    return float((x * y).sum()) / length if length else 0.0


def _partial(x: Floats, y: Floats, z: Floats) -> float:
    """Correlation of two beyond what a third explains of both."""
    xy, xz, yz = _correlation(x, y), _correlation(x, z), _correlation(y, z)
    rest = (1 - xz**2) * (1 - yz**2)
    return (xy - xz * yz) / math.sqrt(rest) if rest > 1e-12 else 0.0


def _orders(parents: int, random: np.random.Generator) -> Iterator[Order]:
    """Arrangements of parents, the one that was seen among them."""
    if parents <= ALL_ORDERS:
        yield from (np.array(order) for order in permutations(range(parents)))
        return
    yield np.arange(parents)
    for _ in range(ARRANGEMENTS):
        yield random.permutation(parents)


def _share(seen: float, others: Iterator[float]) -> float:
    """Share of arrangements that give at least as much; the seen one is among them."""
    return float(np.mean([value >= seen - 1e-12 for value in others]))


def _bootstrap(barriers: Floats, deficits: Floats, random: np.random.Generator) -> tuple[float, float]:
    drawn = [random.integers(0, len(barriers), len(barriers)) for _ in range(DRAWS)]
    values = [_correlation(_ranks(barriers[some]), _ranks(deficits[some])) for some in drawn]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _area(strata: list[tuple[Floats, npt.NDArray[np.bool_]]]) -> float | None:
    wins = pairs = 0.0
    for values, is_match in strata:
        lower = values[is_match][:, None] - values[~is_match][None]
        wins += float((lower < 0).sum() + (lower == 0).sum() / 2)
        pairs += lower.size
    return wins / pairs if pairs else None


def _power(r: float, parents: int, steps: int, shared: float, random: np.random.Generator) -> float:
    """Share of simulated experiments in which the permutation test of ``predict_deficits`` shows the correlation."""
    repetitions, arrangements = 300, 199
    mix = np.linalg.cholesky(np.array([[1, r], [r, 1]]))

    def normal(columns: int) -> Floats:
        drawn: Floats = random.normal(size=(repetitions, parents, columns, 2)) @ mix.T
        return drawn

    values = math.sqrt(shared) * normal(1) + math.sqrt(1 - shared) * normal(steps)
    x, y = (values[..., which].argsort(1).argsort(1) - (parents - 1) / 2 for which in (0, 1))
    products = np.einsum("rps,rqs->rpq", x, y)  # which parent's barrier beside which parent's deficits
    orders = np.array([random.permutation(parents) for _ in range(arrangements)])
    seen = np.trace(products, axis1=1, axis2=2)
    others = products[:, np.arange(parents), orders].sum(-1)
    p_values = (1 + (others >= seen[:, None] - 1e-9).sum(1)) / (1 + arrangements)
    return float((p_values <= 0.05).mean())
