"""May networks be averaged? What averages of them are worth beside the best single one, and the verdict in words."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lightning_lottery.checks import is_count, is_number
from lightning_lottery.functional.matching import Matching

Recipe = Literal["mean", "soup", "layers"]
"""What is averaged: all networks; those that a greedy selection takes; some layers of all networks."""

Verdict = Literal["may be averaged", "only these networks", "only these layers", "not", "undecided"]

FIT: Mapping[Recipe, Verdict] = {
    "mean": "may be averaged",
    "soup": "only these networks",
    "layers": "only these layers",
}
"""What is said where an average is the first one that is fit to take the best network's place."""

GAINS = {"matching": "no loss of", "worse": "a loss above", "undecided": "perhaps a loss of"}
"""Verdicts on a gain to what is said of the threshold."""

LISTED = 6
"""Layers that a sentence names."""


@dataclass(frozen=True)
class Average:
    """An average of networks beside the best single one of them, on the same samples.

    Args:
        recipe: What is averaged.
        networks: The numbers of the networks.
        layers: Those that are averaged, while all others are the best network's; empty for whole networks.
        value: The judged metric.
        gain: How far the error lies below that of the best single network, with its bounds; ``"matching"`` where it is
            shown to be no worse by more than the threshold.
    """

    recipe: Recipe
    networks: Sequence[int]
    layers: Sequence[str]
    value: float
    gain: Matching

    @property
    def is_fit(self) -> bool:
        """Whether it is shown to be no worse than the best single network by more than the threshold."""
        return self.gain.verdict == "matching"


@dataclass(frozen=True)
class Averaging:
    """Whether networks may be averaged, and which average may take the place of the best single network.

    The averages are judged one after another, each at a level of 5 %, and the first that is fit gives the verdict. If
    all three were worse by just the threshold, and chosen on other samples, one would be called fit in at most 15 %.

    Args:
        best: Number of the best single network.
        chosen_on: How many samples the best network, soup and layers were chosen on; 0 for those they are judged by.
        averages: In the order of ``FIT``, as far as they were made; the first is the mean of all networks.
    """

    best: int
    chosen_on: int
    averages: Sequence[Average]

    @property
    def fit(self) -> Average | None:
        """The first average that may take the best network's place."""
        return next((average for average in self.averages if average.is_fit), None)

    @property
    def verdict(self) -> Verdict:
        """``"not"`` where the mean of all is shown to be worse by more than the threshold, and nothing else is fit."""
        if self.fit is not None:
            return FIT[self.fit.recipe]
        return "not" if self.averages[0].gain.verdict == "worse" else "undecided"

    def rows(self) -> Iterator[tuple[str, dict[str, float]]]:
        """What was averaged, to the judged metric's gain and its bounds as far as they are known."""
        for average in self.averages:
            gain = {"gain": average.gain.mean, "gain_low": average.gain.low, "gain_high": average.gain.high}
            yield average.recipe, {name: value for name, value in gain.items() if value is not None}

    def sentences(self, names: Sequence[str], monitor: str, samples: int) -> list[str]:
        """The verdict, what each average gains, and on which samples it was chosen.

        Args:
            names: Of the networks.
            monitor: The judged metric.
            samples: That it is judged on.
        """
        chosen = f"on {self.chosen_on} validation samples; averages are judged on {samples} others"
        if not self.chosen_on:
            chosen = f"on the {samples} samples that all are judged by, which favours it over the mean"
            chosen += " and flatters what else was chosen" if len(self.averages) > 1 else ""
        return [
            f"{self._verdict_in_words(names)}.",
            *(
                f"{_in_words(average, names, self.best)} has {monitor} {average.value:.4f}, "
                f"{_gain_in_words(average.gain)}."
                for average in self.averages
            ),
            f"The best single network is {names[self.best]}, chosen {chosen}.",
        ]

    def _verdict_in_words(self, names: Sequence[str]) -> str:
        if self.fit is None:
            return "They may not be averaged" if self.verdict == "not" else "Undecided whether they may be averaged"
        if self.fit.recipe == "layers":
            return f"Only these layers may be averaged: {_listed(self.fit.layers)}"
        if self.fit.recipe == "soup":
            return f"Only these networks may be averaged: {', '.join(names[number] for number in self.fit.networks)}"
        return f"All {len(names)} networks may be averaged"

    def check(self, networks: int) -> None:
        """Refuse what no file of ours holds.

        Raises:
            ValueError: Numbers that are none, or of no network.
        """
        gains = [average.gain for average in self.averages]
        numbers = [number for gain in gains for number in (gain.mean, gain.low, gain.high, gain.margin)]
        numbers += [average.value for average in self.averages]
        if not all(number is None or is_number(number) for number in numbers) or not is_count(self.chosen_on):
            raise ValueError("what averages gain is no number")
        numbered = [self.best, *(number for average in self.averages for number in average.networks)]
        if not self.averages or not all(is_count(number) and number < networks for number in numbered):
            raise ValueError("its averages are none of its networks")
        words = [word for average in self.averages for word in (*average.layers, average.gain.reason)]
        are_known = {a.recipe for a in self.averages} <= {*FIT} and {gain.verdict for gain in gains} <= {*GAINS}
        if not all(isinstance(word, str) for word in words) or not are_known:
            raise ValueError("what was averaged, or what follows, is no text of ours")

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> "Averaging":
        """What ``dataclasses.asdict`` made of one."""
        averages = (
            Average(
                item["recipe"], tuple(item["networks"]), tuple(item["layers"]), item["value"], Matching(**item["gain"])
            )
            for item in content["averages"]
        )
        return cls(content["best"], content["chosen_on"], tuple(averages))


def _in_words(average: Average, names: Sequence[str], best: int) -> str:
    if average.recipe == "layers":
        return f"{names[best]} with the mean of all networks in {_listed(average.layers)}"
    some = ", ".join(names[number] for number in average.networks)
    return f"The greedy soup of {some}" if average.recipe == "soup" else f"The mean of all {len(names)} networks"


def _listed(layers: Sequence[str]) -> str:
    more = f" and {len(layers) - LISTED} more" if len(layers) > LISTED else ""
    return f"{', '.join(layers[:LISTED])}{more}"


def _gain_in_words(gain: Matching) -> str:
    mean = gain.mean if abs(gain.mean) >= 5e-5 else 0.0  # a rounding error of a sum has a sign, and says nothing
    against = f"{mean:+.4f} against the best single network"
    if gain.low is None or gain.high is None:
        return f"{against}, without bounds: {gain.reason}"
    return f"{against} ({gain.low:+.4f} to {gain.high:+.4f}): {GAINS[gain.verdict]} {gain.margin:.4g}"
