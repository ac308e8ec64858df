"""The variance of a mean over networks that were measured on the same test samples: both are sampled, and crossed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lightning_lottery.errors import LotteryError

Floats = npt.NDArray[np.float64]

LEAST_BLOCKS = 8
"""With fewer blocks of samples their variance is too uncertain to stand beside that of networks."""


def upper_quantile(level: float, freedom: float) -> float:
    """Upper quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 1 - level))


def rounding_variance(size: float) -> float:
    """A variance that metrics of that size, logged in float32, have where nothing varies."""
    return (1e-7 * (1 + abs(size))) ** 2


class Form(NamedTuple):
    """How networks alone estimate the variance of a mean: the quadratic form ``values' matrix values``.

    Args:
        matrix: (values, values).
        freedom: Its degrees of freedom.
    """

    matrix: Floats
    freedom: float


@dataclass(frozen=True)
class Crossed:
    """The variance of a mean over networks and samples.

    Args:
        networks: What networks add beside the samples' noise.
        samples: What the samples add: the variance that the same networks would have on other samples.
        networks_freedom: Degrees of freedom of the first.
        samples_freedom: Of the second.
    """

    networks: float
    samples: float
    networks_freedom: float
    samples_freedom: float

    @property
    def variance(self) -> float:
        """The sum."""
        return self.networks + self.samples

    @property
    def freedom(self) -> float:
        """Degrees of freedom of the sum, Satterthwaite's."""
        if not self.variance:
            return self.samples_freedom
        return self.variance**2 / (self.networks**2 / self.networks_freedom + self.samples**2 / self.samples_freedom)


def covariance_of_samples(values: Floats, weights: Floats) -> Floats:
    """Covariance, over samples, of quantities that are means over the same samples.

    Args:
        values: (quantities, blocks): each quantity's mean over the samples of each block.
        weights: (blocks,): the samples in each block, > 0.

    Returns:
        (quantities, quantities).

    Raises:
        LotteryError: Fewer than two blocks.

    Example:
        >>> covariance_of_samples(np.array([[0.0, 1.0]]), np.array([5.0, 5.0]))
        array([[0.25]])

    Source: The jackknife over groups of samples that are drawn at once (Efron & Stein 1981).
    """
    if (blocks := len(weights)) < 2:
        raise LotteryError(f"What samples add is seen in two blocks of them or more, got {blocks}.")
    shares = weights / weights.sum()
    centred = (values - (values @ shares)[:, None]) * shares
    covariance: Floats = blocks / (blocks - 1) * centred @ centred.T
    return covariance


def crossed_variance(means: Floats, covariance: Floats, weights: Floats, forms: Sequence[Form], blocks: int) -> Crossed:
    """The variance of a weighted mean of quantities over both networks and samples.

    What varies between networks holds the samples' noise as well, so that is subtracted, and what remains, never less
    than 0, is added to the whole of the samples' own.

    Args:
        means: (quantities,): over all samples.
        covariance: (quantities, quantities): of ``covariance_of_samples``.
        weights: (quantities,): of each in the mean.
        forms: Estimates by networks alone: the one that leaves most counts. None where networks are not sampled, and
            the statement is about these.
        blocks: How many blocks of samples the covariance comes from.

    Example:
        >>> means, half = np.array([1.0, 3.0]), np.array([0.5, 0.5])
        >>> of_two = Form(np.array([[0.25, -0.25], [-0.25, 0.25]]), freedom=1)  # their variance / 2
        >>> crossed = crossed_variance(means, 0.5 * np.eye(2), half, [of_two], blocks=10)
        >>> crossed.networks, crossed.samples, round(crossed.freedom, 2)
        (0.75, 0.25, 1.76)

    Source: Obuchowski & Rockette 1995; Gallas 2006. Satterthwaite 1946 for the degrees of freedom.
    """
    networks, freedom = 0.0, 1.0
    for form in forms:
        beside = float(means @ form.matrix @ means - np.sum(form.matrix * covariance))
        if beside > networks:
            networks, freedom = beside, form.freedom
    return Crossed(networks, float(weights @ covariance @ weights), freedom, float(blocks - 1))


@dataclass(frozen=True)
class Blocks:
    """An error along lines between networks, block by block of the same test samples.

    Args:
        weights: (blocks,): the samples in each block.
        lines: Parent to pair of its children to (places, blocks): the error at each place of the line, the ends first
            and last.

    Raises:
        LotteryError: Not as many blocks everywhere as weights, or fewer than ``LEAST_BLOCKS``.
    """

    weights: Floats
    lines: Mapping[int, Mapping[tuple[int, int], Floats]]

    def __post_init__(self) -> None:
        if len(self.weights) < LEAST_BLOCKS or not (np.asarray(self.weights) > 0).all():
            raise LotteryError(
                f"Samples are judged in {LEAST_BLOCKS} blocks or more, none of them empty, got {len(self.weights)}."
            )
        every = [line for pairs in self.lines.values() for line in pairs.values()]
        if any(line.ndim != 2 or len(line) < 2 or line.shape[1] != len(self.weights) for line in every):
            raise LotteryError(f"A line has a value at each place for each of the {len(self.weights)} blocks.")

    def highest(self) -> Floats:
        """(pairs, blocks): the error where each line is highest, above the mean of its ends."""
        return np.stack([self._above_ends(line, self._top(line)) for line in self._every()])

    def cross_fitted(self) -> Floats:
        """(pairs, blocks): the same, where half of the blocks says which place is the highest in the other half.

        A maximum over places on the samples that it is read from is too high, this one is too low.
        """
        odd = np.arange(len(self.weights)) % 2 == 1  # every other one, as test sets are often sorted
        rises = []
        for line in self._every():
            by_even, by_odd = (self._above_ends(line, self._top(line, half)) for half in (~odd, odd))
            rises.append(np.where(odd, by_even, by_odd))
        return np.stack(rises)

    def noise_floor(self) -> float:
        """What the barrier would be, on average, if the error were the same all along the lines: samples alone.

        For a share of wrong answers it is 0.68 sqrt(d / n), with d the share of n samples on which one network of a
        pair is right and the other wrong.

        Source: Simulated, with 21 places.
        """
        differences = np.stack([line[0] - line[-1] for line in self._every()])
        return float(
            np.mean([0.68 * covariance_of_samples(row[None], self.weights)[0, 0] ** 0.5 for row in differences])
        )

    def _every(self) -> list[Floats]:
        return [line for pairs in self.lines.values() for line in pairs.values()]

    def _top(self, line: Floats, chosen: npt.NDArray[np.bool_] | slice = slice(None)) -> int:
        return int(np.argmax(line[:, chosen] @ self.weights[chosen]))

    def _above_ends(self, line: Floats, top: int) -> Floats:
        rise: Floats = line[top] - (line[0] + line[-1]) / 2
        return rise
