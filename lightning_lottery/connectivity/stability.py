"""The verdict on lines between children: of one parent, or of several."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from lightning_lottery.connectivity.blocks import LineBlocks
from lightning_lottery.connectivity.judging import Judging
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.connectivity import error_barrier
from lightning_lottery.functional.crossed import Blocks
from lightning_lottery.functional.verdicts import Barriers, Stability, judge

Pair = tuple[int, int]


class Lines(Protocol):
    """Lines between the children of one parent, as they are reported."""

    @property
    def judging(self) -> Judging:
        """How they are judged."""

    @property
    def pairs(self) -> Sequence[Pair]:
        """Of children."""

    @property
    def samples(self) -> int:
        """In the test set."""

    @property
    def blocks(self) -> LineBlocks | None:
        """The monitor along the lines, block by block."""

    @property
    def is_null_control(self) -> bool:
        """Whether the children have one seed."""

    @property
    def noise(self) -> str:
        """By what the children differ, in words."""

    @property
    def error_of_ends(self) -> float | None:
        """Mean error of the children; None where it is no share of samples."""

    def errors(self, pair: Pair) -> list[float]:
        """The error along a pair's line."""


def stability_of(reports: Mapping[int, Lines]) -> Stability:
    """What the raw lines between the children of one or several parents say.

    Networks and test samples are judged together where every report has its lines in blocks of samples, else networks
    alone. With a ``threshold_ratio`` everything is in units of the mean error of the ends.

    Args:
        reports: Parent to the lines between its children, all judged alike.

    Raises:
        LotteryError: They are of different test sets.
    """
    first = next(iter(reports.values()))
    _check_test_sets(reports)
    unit = unit_of(reports)
    barriers: Barriers = {
        parent: {pair: error_barrier(report.errors(pair)) / unit for pair in report.pairs}
        for parent, report in reports.items()
    }
    is_finite = all(math.isfinite(barrier) for pairs in barriers.values() for barrier in pairs.values())
    are_shares = first.judging.threshold_ratio is None and all(
        report.error_of_ends is not None for report in reports.values()
    )
    stability = judge(
        barriers,
        first.judging.bound,
        blocks=_blocks(reports, unit) if is_finite else None,
        samples=first.samples if are_shares else 0,
    )
    stability = replace(stability, noise=first.noise)
    if any(report.is_null_control for report in reports.values()):
        reason = "the same seed twice, or a perturbation of 0, is a null control: its barrier is 0"
        return replace(stability, verdict="undecided", reason=reason)
    if math.isnan(unit) and all(map(math.isfinite, _ends(reports))):
        return replace(stability, reason="an error of 0, or below it, has no fraction: give a `threshold` in its units")
    return stability


def unit_of(reports: Mapping[int, Lines]) -> float:
    """What barriers are divided by: 1, or with a ``threshold_ratio`` the mean error of the ends; NaN if not positive.

    Args:
        reports: As for ``stability_of``.
    """
    if next(iter(reports.values())).judging.threshold_ratio is None:
        return 1.0
    ends = _ends(reports)
    mean = float(np.mean(ends))
    return mean if min(ends) >= 0 and mean > 0 else math.nan


ABOUT = {
    "these two networks": "these two networks",
    "children of this parent": "children of this checkpoint",
    "parents": "networks like these parents",
}
"""What a verdict is about, as sentences say it."""

ABOUT_ANY = {**ABOUT, "children of this parent": "networks made as these were"}
"""The same where nothing says that they have a common parent."""


def on_train_split(stability: Stability, samples: int) -> str:
    """What the training split says of the same lines."""
    bounds = "" if stability.low is None else f", bounds {stability.low:.4f} and {stability.high:.4f}"
    verdict = f"{stability.verdict}, mean error barrier {stability.mean:.4f}{bounds}"
    return f"On {samples} samples of the training split: {verdict}."


def on_constant(error: float) -> str:
    """What a flat line is worth whose networks all have the same error."""
    return (
        f"All networks and all places between have the same error, {error:.4f}: so have networks that learnt nothing "
        "and give every sample one answer, and no line between such says anything."
    )


def sentences_on(
    stability: Stability, judging: Judging, samples: int, networks_alone: str, *, are_children: bool = True
) -> list[str]:
    """A verdict in words: what it says and of what, what samples alone would show, and what would decide it.

    Args:
        stability: What was judged.
        judging: How.
        samples: Of the test set.
        networks_alone: Why samples are not judged; else empty.
        are_children: Whether the networks are known to be children of one checkpoint.
    """
    unit = "" if judging.threshold_ratio is None else " of the ends' mean error"
    sentences = [
        f"{stability.in_words}: mean error barrier {stability.mean:.4f}{unit}; {stability.reason}. "
        f"This is about {(ABOUT if are_children else ABOUT_ANY)[stability.about]}."
    ]
    if stability.noise_floor is not None:
        sentences.append(
            f"Equal errors all along the line would show a barrier of {stability.noise_floor:.4f} on these {samples} "
            "samples."
        )
    elif networks_alone and stability.low is not None:
        sentences.append(f"Networks alone are judged, on these samples and no others: {networks_alone}.")
    if stability.about == "these two networks" and stability.noise_floor is not None:
        kind = "child" if are_children else "network"
        sentences.append(
            f"Of other {'children' if are_children else 'networks'} it says nothing: a third {kind} would."
        )
    return sentences + list(on_more(stability))


def barrier_in_words(stability: Stability, *, are_shares: bool) -> str:
    """The mean barrier and its bounds for a picture: ``0.15 % (0.05 to 0.25)``.

    Args:
        stability: What was judged.
        are_shares: Whether barriers are fractions, read in per cent.
    """
    numbers = [bound for bound in (stability.mean, stability.low, stability.high) if bound is not None]
    mean, *bounds = (f"{100 * number:.2f}" if are_shares else f"{number:.4g}" for number in numbers)
    return f"{mean}{' %' if are_shares else ''}" + (f" ({' to '.join(bounds)})" if len(bounds) == 2 else "")


def on_more(stability: Stability) -> Iterator[str]:
    """How many more children or parents would decide what is undecided, or that none would."""
    mores = {("parent", "parents"): stability.more_parents, ("child", "children"): stability.more_children}
    for (one, several), more in mores.items():
        if more is not None:
            what = (one if more.even == 1 else several) + (" of each parent" if one == "child" else "")
            likely = "" if more.likely is None else f", {more.likely} with 80 %"
            yield f"{more.even} more {what} would decide with even odds{likely}, estimates staying as they are."
    is_hopeless = stability.low is not None and not any(mores.values()) and stability.about != "these two networks"
    if stability.verdict == "undecided" and is_hopeless:
        yield "No number of children or parents would decide it on this test set."


def _check_test_sets(reports: Mapping[int, Lines]) -> None:
    """Refuse parents that were judged on different samples."""
    (first, one), *others = reports.items()
    for parent, lines in others:
        weights = [list(each.blocks.weights) for each in (one, lines) if each.blocks is not None]
        same_blocks = len(weights) < 2 or weights[0] == weights[1]
        if lines.samples != one.samples or not same_blocks:
            raise LotteryError(
                f"The lines of parents {first} and {parent} were evaluated on {one.samples} and {lines.samples} "
                "samples, or in other batches: judge them anew on one test set, in one order."
            )


def _ends(reports: Mapping[int, Lines]) -> list[float]:
    """The error at both ends of every line."""
    return [report.errors(pair)[end] for report in reports.values() for pair in report.pairs for end in (0, -1)]


def _blocks(reports: Mapping[int, Lines], unit: float) -> Blocks | None:
    """The errors along all lines, block by block, in a unit; None where a report has none."""
    lines, weights = {}, None
    for parent, report in reports.items():
        if report.blocks is None:
            return None
        weights = np.array(report.blocks.weights)
        values = {pair: np.array(line, dtype=float) for pair, line in report.blocks.values.items()}
        is_high = report.judging.mode == "max"
        lines[parent] = {pair: ((1 - line) if is_high else line) / unit for pair, line in values.items()}
    return None if weights is None else Blocks(weights, lines)
