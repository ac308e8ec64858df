"""What rules would have drawn from a finished fit: its logged scores judged again, by any rules at any sparsities."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.settling.detector import Settled, rule_of
from lightning_lottery.functional.settling.rules import Rule
from lightning_lottery.functional.settling.watch import Per, Probe, Watch, names_of
from lightning_lottery.units.draws import check_what_draws, name_of
from lightning_lottery.units.score_log import FILE, LoggedScores
from lightning_lottery.units.watcher import check_per


class Drawn(NamedTuple):
    """What a rule drew, or, where it never settled, would leave of the last step."""

    rule: str
    kind: str
    sparsity: float
    step: int
    settled: bool
    verdict: Settled | None
    """What the rule said then; None where it never settled."""
    units: dict[str, Tensor]
    """The masks of all units at that step."""


class Replay(NamedTuple):
    """What rules said of logged scores."""

    draws: dict[str, Drawn]
    """By the names that tickets have: ``RULE-KIND-SPARSITY``."""
    probes: list[Probe]
    """What the rules said, in order."""
    norms: dict[str, list[tuple[int, float]]]
    """Step and nuclear norm of the masks, for each kind and sparsity."""
    first: int
    """The first step that the log holds."""
    last: int
    """The last one."""

    def table(self) -> list[dict[str, Any]]:
        """A row for each rule, kind of unit and sparsity: the step of its draw, and what the rule said then."""
        return [
            {
                "rule": draw.rule,
                "kind": draw.kind,
                "sparsity": draw.sparsity,
                "step": draw.step,
                "settled": draw.settled,
                "statistic": draw.verdict and draw.verdict.statistic,
                "p_value": draw.verdict and draw.verdict.p_value,
            }
            for draw in self.draws.values()
        ]


def replay_draws(
    folder: str | os.PathLike[str],
    rules: Sequence[Rule] | None = None,
    sparsities: Sequence[float] | None = None,
    *,
    per: Mapping[str, Per] | None = None,
) -> Replay:
    """The draws that ``EarlyBird`` would have made in a fit, bit for bit, by other rules and at other sparsities.

    Nothing is trained: the scores that the fit logged are judged again, as they came.

    Args:
        folder: The fit's ``early_bird`` folder, in which ``scores.log`` lies, or the folder above it.
        rules: Rules; default: those of the fit.
        sparsities: Fractions of the units of each kind to remove, in [0, 1); default: those of the fit.
        per: Kind to ``"tensor"`` (ranked in each layer) or ``"all"``, where it is to be otherwise than in the fit.

    Returns:
        Draws, probes and norms; of a fit that was broken off, up to where its log goes (``last``).

    Raises:
        LotteryError: No log, one that is damaged, or a rule that looks at steps that the log does not hold: it holds
            every step where a rule on norms watched the fit, else the steps that its rules looked at.
    """
    scores = LoggedScores(_file_in(Path(folder)))
    header, steps = scores.header, scores.steps
    try:
        named = {name: rule_of(saved) for name, saved in header["rules"].items()} if rules is None else names_of(rules)
        asked = [float(value) for value in (header["sparsities"] if sparsities is None else sparsities)]
        ranked: dict[str, Per] = {**header["per"], **(per or {})}
        kinds, is_absolute = [str(kind) for kind in header["watch"]], header["scores"] == "coefficients"
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, LotteryError):
            raise
        raise LotteryError(f"The header of '{scores.path}' is not what EarlyBird writes: {error}.") from error
    if not {*kinds} <= scores.layers.keys() <= ranked.keys():
        raise LotteryError(f"The header of '{scores.path}' watches {kinds}, and its units are {list(scores.layers)}.")
    check_per(ranked)
    check_what_draws(list(named.values()), asked, at=[] if named else [1])
    if not steps:
        raise LotteryError(f"'{scores.path}' holds no step yet: the fit has not come to its first probe.")
    _refuse_gaps(named, steps, scores.path)
    watch = Watch(scores.layers, named, asked, ranked, kinds)
    sees_all = any(rule.watches == "norms" for rule in named.values())
    probes: list[Probe] = []
    draws: dict[str, Drawn] = {}
    for noted, rows in scores.rows():
        rows = rows.abs() if is_absolute else rows
        looked_at = [i for i, step in enumerate(noted) if sees_all or _is_probe(named, step)]
        # A block ends at each probe: what is drawn there is drawn from the masks of its own step, the last one pushed.
        ends = [i for i in looked_at if _is_probe(named, noted[i])]
        for begin, end in zip([-1, *ends], [*ends, len(noted)], strict=True):
            part = [i for i in looked_at if begin < i <= end]
            if part:
                judged = watch.push([noted[i] for i in part], rows[part])
                probes += judged
                for probe in sorted(judged, key=lambda probe: asked.index(probe.sparsity)):
                    name, units = name_of(probe.rule, probe.kind, probe.sparsity), watch.masks(probe.sparsity)
                    if probe.verdict.settled and name not in draws and units:
                        verdict = probe.verdict
                        draws[name] = Drawn(probe.rule, probe.kind, probe.sparsity, verdict.step, True, verdict, units)
    for sparsity in asked:
        for rule in named:
            for kind in kinds:
                name, units = name_of(rule, kind, sparsity), watch.masks(sparsity)
                if name not in draws and units:
                    draws[name] = Drawn(rule, kind, sparsity, watch.last_step, False, None, units)
    return Replay(draws, probes, watch.norms, steps[0], steps[-1])


def table_of_draws(
    folders: Sequence[str | os.PathLike[str]],
    rules: Sequence[Rule] | None = None,
    sparsities: Sequence[float] | None = None,
    *,
    per: Mapping[str, Per] | None = None,
) -> list[dict[str, Any]]:
    """When each rule would have drawn in each of several fits: a row for each rule, kind of unit and sparsity.

    Args:
        folders: Of fits, as ``replay_draws`` takes them, such as of one recipe's seeds.
        rules: As of ``replay_draws``, like the others.
        sparsities: As of ``replay_draws``.
        per: As of ``replay_draws``.

    Returns:
        ``rule``, ``kind``, ``sparsity``, ``settled`` (in how many fits), ``fits``, ``mean_step`` (of those in which it
        settled; None where it never did) and ``steps`` (in the order of ``folders``; None where it did not).

    Raises:
        LotteryError: As of ``replay_draws``.
    """
    steps: dict[tuple[str, str, float], list[int | None]] = {}
    for folder in folders:
        for draw in replay_draws(folder, rules, sparsities, per=per).draws.values():
            alike = steps.setdefault((draw.rule, draw.kind, draw.sparsity), [])
            alike.append(draw.step if draw.settled else None)
    rows = []
    for (rule, kind, sparsity), by_fit in steps.items():
        settled = [step for step in by_fit if step is not None]
        known = {"rule": rule, "kind": kind, "sparsity": sparsity, "settled": len(settled), "fits": len(by_fit)}
        rows.append({**known, "mean_step": sum(settled) / len(settled) if settled else None, "steps": by_fit})
    return rows


def _file_in(folder: Path) -> Path:
    for path in (folder / FILE, folder / "early_bird" / FILE):
        if path.is_file():
            return path
    raise LotteryError(f"There is no {FILE} in '{folder}': EarlyBird leaves it in a run's folder 'early_bird'.")


def _is_probe(rules: Mapping[str, Rule], step: int) -> bool:
    return any(step % rule.interval == 0 for rule in rules.values())


def _refuse_gaps(rules: Mapping[str, Rule], steps: Sequence[int], path: Path) -> None:
    logged = set(steps)
    for name, rule in rules.items():
        first = -(-steps[0] // rule.stride) * rule.stride
        missing = next((step for step in range(first, steps[-1] + 1, rule.stride) if step not in logged), None)
        if missing is not None:
            raise LotteryError(
                f"{name} looks at step {missing}, which '{path}' does not hold: a fit logs every step where one of its "
                "rules watches norms, else those that its rules look at. Replay a rule whose interval is a multiple of "
                "theirs, or fit again with a rule on norms beside."
            )
