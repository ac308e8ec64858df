"""The matrix as a table: a cell sums up what all callbacks do with one module in one loop."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from foreign.oracle import CALLBACKS, WORKS, Cell

README = Path(__file__).parents[1] / "README.md"
WORDS = 10  # of a refusal


def table(outcomes: Mapping[Cell, str]) -> str:
    """Markdown: modules by loops, below it the refusals by their first words."""
    loops = list(dict.fromkeys(loop for _, loop, _ in outcomes))
    lines = [f"| | {' | '.join(loops)} |", "|---" * (len(loops) + 1) + "|"]
    for module in dict.fromkeys(module for module, _, _ in outcomes):
        lines.append(f"| {module} | {' | '.join(_summary(outcomes, module, loop) for loop in loops)} |")
    refusals = Counter(" ".join(text.split()[:WORDS]) for text in outcomes.values() if text != WORKS)
    return "\n".join([*lines, "", *(f"- {words} ... ({number} cells)" for words, number in sorted(refusals.items()))])


def _summary(outcomes: Mapping[Cell, str], module: str, loop: str) -> str:
    texts = {name: outcomes[module, loop, name] for name in CALLBACKS if (module, loop, name) in outcomes}
    refused = [name for name, text in texts.items() if text != WORKS]
    working = [name for name in texts if name not in refused]
    if not refused or not working:
        return "refused" if refused else "all" if working else ""
    return f"not {', '.join(refused)}" if len(refused) < len(working) else f"only {', '.join(working)}"
