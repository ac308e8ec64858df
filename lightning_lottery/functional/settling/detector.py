"""One rule on one series, online or from a log."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from operator import index
from typing import Any, NamedTuple

from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.masks import Masks
from lightning_lottery.functional.settling.rules import (
    ADF,
    HammingFIFO,
    MannKendall,
    Rule,
    SlopeEquivalence,
    SlopeHAC,
)


class Settled(NamedTuple):
    """What a probe found. ``settled``: the criterion held at ``patience`` probes in a row, from ``min_steps`` on.

    The rest is as in :class:`Finding`.
    """

    step: int
    statistic: float
    p_value: float | None
    lags: int | None
    holds: bool
    settled: bool
    least_margin: float | None = None
    least_change: float | None = None


class Detector:
    """One rule on one series, online: push every step's mask or norm, a verdict comes back at each probe.

    Holds as many values as the rule looks at, whatever the length of training; masks on the CPU.

    Args:
        rule: The rule.

    Example:
        >>> import torch
        >>> from lightning_lottery.functional.settling.rules import HammingFIFO
        >>> detector = Detector(HammingFIFO(length=2, interval=10))
        >>> mask = {"heads": torch.tensor([True, False])}
        >>> [step for step in range(1, 31) if (verdict := detector.push(step, mask)) and verdict.settled]
        [20, 30]
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._observed: deque[Any] = deque(maxlen=rule.memory)
        self._last = 0
        self._streak = 0

    def push(self, step: int, observed: float | Masks) -> Settled | None:
        """The verdict on the series so far where a probe is due and the window is full, else None.

        A step that is left out ends the series, and a new one begins: push nothing where the scores do not tell the
        units apart (`scores_differ`). Masks at other steps than multiples of ``interval`` are ignored.

        Args:
            step: Optimizer steps so far, >= 1, rising.
            observed: The masks of that step, or their nuclear norm: what ``rule.watches`` says.

        Raises:
            LotteryError: A step that does not come after the last one, or a norm that is not finite.
        """
        if step <= self._last:
            raise LotteryError(f"Steps are pushed in order, from 1 on: got step {step} after step {self._last}.")
        if step % self.rule.stride:
            return None
        if step != self._last + self.rule.stride:
            self._observed.clear()
            self._streak = 0
        self._observed.append(self.rule.keep(observed))
        self._last = step
        if step % self.rule.interval or len(self._observed) < self.rule.memory:
            return None
        finding = self.rule.judge(tuple(self._observed))
        self._streak = self._streak + 1 if finding.holds and step >= self.rule.min_steps else 0
        return Settled(step, settled=self._streak >= self.rule.patience, **finding._asdict())

    def state_dict(self) -> dict[str, Any]:
        """The rule and what it remembers, as plain data and mask tensors."""
        return {
            "rule": described(self.rule),
            "observed": list(self._observed),
            "last": self._last,
            "streak": self._streak,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where ``state_dict`` was taken.

        Raises:
            LotteryError: It was taken under another rule.
        """
        if {**_defaults(self.rule), **state["rule"]} != described(self.rule):
            raise LotteryError(f"The saved state is of the rule {state['rule']}, not of {described(self.rule)}.")
        self._observed = deque(map(self.rule.keep, state["observed"]), maxlen=self.rule.memory)
        self._last, self._streak = index(state["last"]), index(state["streak"])


def replay(rule: Rule, series: Iterable[tuple[int, float | Masks]]) -> list[Settled]:
    """The verdicts of a rule on a logged series of ``(step, norm)`` or ``(step, masks)``.

    Example:
        >>> from lightning_lottery.functional.settling.rules import ADF
        >>> [verdict.settled for verdict in replay(ADF(), ((step, 23.0) for step in range(1, 601)))]
        [True, True]
    """
    detector = Detector(rule)
    return [verdict for step, observed in series if (verdict := detector.push(step, observed)) is not None]


def _defaults(rule: Rule) -> dict[str, Any]:
    """What the state of an older release lacks of a rule: arguments that it had not yet."""
    return {one.name: one.default for one in fields(rule)}  # type: ignore[arg-type]


def described(rule: Rule) -> dict[str, Any]:
    """A rule as plain values: the name of its class, and its arguments.

    Example:
        >>> from lightning_lottery.functional.settling.rules import HammingFIFO
        >>> rule_of(described(HammingFIFO(3))) == HammingFIFO(3)
        True
    """
    return {"name": type(rule).__name__, **asdict(rule)}  # type: ignore[call-overload]


def rule_of(description: Mapping[str, Any]) -> Rule:
    """The rule that ``described`` was given, of this package's own.

    Raises:
        LotteryError: No such rule, or arguments that it does not take.
    """
    arguments = {name: value for name, value in description.items() if name != "name"}
    for rule in (HammingFIFO, SlopeHAC, MannKendall, SlopeEquivalence, ADF):
        if rule.__name__ == description.get("name"):
            try:
                return rule(**arguments)
            except TypeError as error:
                raise LotteryError(f"{rule.__name__} does not take {arguments}: {error}.") from error
    raise LotteryError(f"There is no rule {description.get('name')!r} to be made anew: give it yourself.")
