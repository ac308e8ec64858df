"""What a campaign tried, as a table that README keeps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


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


def table(rows: Mapping[str, tuple[int, int]]) -> str:
    """Markdown: what was tried of each kind, how many held, how many failed."""
    lines = [f"| {kind} | {tried:,} | {tried - failed:,} | {failed:,} |" for kind, (tried, failed) in rows.items()]
    tried, failed = (sum(column) for column in zip(*rows.values(), strict=True))
    total = f"| all | {tried:,} | {tried - failed:,} | {failed:,} |"
    return "\n".join(["| kind | tried | held | failed |", "|---|---|---|---|", *lines, total])
