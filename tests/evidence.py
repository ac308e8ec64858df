"""Keep what a finished run of a recipe measured beside the recipe: ``make evidence RUN=runs/quickstart``.

Writes ``recipes/NAME/summary.json``, NAME being the run's: when and on what it was measured, every stage's metrics, the
verdicts, what its sweeps, analyses and iterative pruning found, and what other commands left as ``summary.json`` in a
folder of the run, such as ``prediction``. A run of stages that are new beside those kept joins them; the same stages at
another sparsity or on other data are kept beside them under a name: ``RUN=runs/fashion/imp_lenet_digits ARM=fashion``.
``tests/test_evidence.py`` compares the pages with it.
"""

import json
import math
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lightning_lottery.children.records import read_rows

RECIPES = Path(__file__).parents[1] / "recipes"
LONGEST = 12
"""Numbers of a list that is kept: longer ones are lines, which figures show."""


def collect(run: Path) -> dict[str, Any]:
    """What a finished run measured.

    Args:
        run: Its folder, ``OUT/RECIPE``.
    """
    rows = read_rows(run / "results.jsonl")
    times = sorted(row["time"] for row in rows)
    made = {
        "stages": sorted({path.name for path in run.glob("seed-*/[0-9]*") if path.is_dir()}),
        "seeds": sorted(int(path.name.removeprefix("seed-")) for path in run.glob("seed-*")),
        "device": sorted({row["device"] for row in rows if row["device"]}),
        "first record": times[0],
        "last record": times[-1],
        "lightning_lottery": sorted({row["version"] for row in rows if row["version"]}),
        # Records do not say these: keep a run with the environment that it ran in.
        "kept with": {"python": platform.python_version(), **{name: version(name) for name in ("torch", "lightning")}},
    }
    of_stages = {
        str(path.parent.relative_to(run)): json.loads(path.read_text())
        for path in sorted([*run.glob("seed-*/*/summary.json"), *run.glob("*/summary.json")])
    }
    stages = json.loads((run / "summary.json").read_text())
    verdicts = json.loads((run / "verdicts.json").read_text())
    return {"made": [made], **thin({"stages": stages, "verdicts": verdicts, "experiments": of_stages})}


def joined(before: dict[str, Any], now: dict[str, Any], arm: str | None = None) -> dict[str, Any]:
    """Two summaries of a recipe as one.

    Args:
        before: What is kept.
        now: Of a run: takes the place of what is kept where a stage is in both, but for the arms.
        arm: Its name, where the run is one: then it stands under this name in ``arms``, beside everything else.
    """
    if arm is not None:
        return {**before, "arms": {**before.get("arms", {}), arm: now}}
    arms = {"arms": before["arms"]} if "arms" in before else {}
    if "stages" not in before:
        return {**now, **arms}
    ran, kept = ({name.split("/")[0] for name in summary["stages"]} for summary in (now, before))
    if ran & kept:
        return {**now, **arms}
    parts = {key: {**before.get(key, {}), **now.get(key, {})} for key in ("stages", "verdicts", "experiments")}
    return {"made": before["made"] + now["made"], **{key: part for key, part in parts.items() if part}, **arms}


def thin(value: Any) -> Any:
    """The value with floats of six digits, without long lists, and without what is None or empty."""
    if isinstance(value, dict):
        kept = {key: thin(each) for key, each in value.items()}
        return {key: each for key, each in kept.items() if each is not None and each != {} and each != []}
    if isinstance(value, list):
        return [thin(each) for each in value] if len(value) <= LONGEST else None
    return float(f"{value:.6g}") if isinstance(value, float) and math.isfinite(value) else value


def main() -> None:
    if len(sys.argv) not in (2, 3):
        sys.exit(
            "The folder of one finished run, and its name where it is an arm: python tests/evidence.py runs/quickstart"
        )
    run, *arm = sys.argv[1:]
    target = RECIPES / Path(run).name / "summary.json"
    before = json.loads(target.read_text()) if target.is_file() else {}
    summary = joined(before, collect(Path(run)), *arm)
    target.write_text(json.dumps(summary, indent=1) + "\n")
    print(f"{target}: {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
