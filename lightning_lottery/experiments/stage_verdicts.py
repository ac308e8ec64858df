"""What a recipe's analyses of stability say over its seeds: each seed is a parent."""

from collections.abc import Iterator, Mapping, Sequence

from lightning_lottery.children.child import Child
from lightning_lottery.connectivity.report import PathReport
from lightning_lottery.connectivity.stability import on_more, stability_of
from lightning_lottery.experiments.siblings import REPORT
from lightning_lottery.functional.verdicts import Stability


def verdicts_of(runs: Mapping[int, Sequence[Child]]) -> dict[str, Stability]:
    """The verdict of each stage that is an analysis, over all seeds.

    Args:
        runs: Seed to the children of all stages, done.

    Raises:
        LotteryError: A report is damaged, or of another test set than those of other seeds.
    """
    reports: dict[str, dict[int, PathReport]] = {}
    for seed, children in runs.items():
        for child in children:
            if child.command == "instability":
                reports.setdefault(child.folder.name, {})[seed] = PathReport.load(child.folder / REPORT)
    return {stage: stability_of(of_seeds) for stage, of_seeds in reports.items()}


def sentences_of_stages(verdicts: Mapping[str, Stability], seeds: int) -> Iterator[str]:
    """Each stage's verdict in words, and what would decide it."""
    about = "its children" if seeds == 1 else f"networks like these {seeds}"
    for stage, stability in verdicts.items():
        yield f"{stage}, {about}: {stability.in_words}, mean error barrier {stability.mean:.4f}; {stability.reason}."
        for sentence in on_more(stability):
            yield f"{stage}: {sentence}"
