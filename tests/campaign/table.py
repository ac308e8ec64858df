"""What a campaign tried, as a table that README keeps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"

LEAST = {
    "kills of a fit": 700,
    "kills of a runner": 300,
    "signals": 100,
    "damaged files": 500,
    "forged tickets": 100_000,
}
LEAST |= {"forged texts": 1_000, "checkpoints' states": 500}
"""The kinds of a whole campaign, which begin with these words, and of how many tries it is at least."""


@dataclass(frozen=True)
class Outcome:
    """Of so many tries those that failed, each in a sentence."""

    tried: int
    failures: Sequence[str]
    failed: int = 0

    def with_(self, tried: int, failures: Sequence[str], what: str) -> "Outcome":
        """And of further tries, all of which failed where something of them did."""
        told = [f"{what}: {failure}" for failure in failures]
        return Outcome(self.tried + tried, [*self.failures, *told], self.failed + (tried or 1) * bool(failures))


def is_whole(rows: Mapping[str, tuple[int, int]]) -> bool:
    """Whether these are the rows of a whole campaign, not of its short form or a part."""
    tries = {words: sum(tried for kind, (tried, _) in rows.items() if kind.startswith(words)) for words in LEAST}
    return all(tries[words] >= least for words, least in LEAST.items())


def table(rows: Mapping[str, tuple[int, int]]) -> str:
    """Markdown: what was tried of each kind, how many held, how many failed."""
    lines = [
        f"| {kind} | {tried:,} | {tried - failed:,} | {failed:,} |" for kind, (tried, failed) in sorted(rows.items())
    ]
    return "\n".join(["| kind | tried | held | failed |", "|---|---|---|---|", *lines])
