"""What `run` does once every stage is done: effective weights of each ticket, and its accuracy beside its controls'.

Writes ``effective-STAGE/summary.json``, ``compared/summary.json`` and ``controls.png``. Bounds are two-sided,
95 %, of the seeds alone: for this test set, one comparison at a time.
"""

import json
from pathlib import Path

from matplotlib.figure import Figure

from lightning_lottery import results
from lightning_lottery.command.main import main
from lightning_lottery.functional import judge_matching

METHODS = ("synflow", "snip", "grasp", "magnitude")
ARMS = {"ticket": "o", "effective": "s", "shuffled": "^"}
LINES = {"dense": "-", "erk": "--", "uniform": ":"}

for stage in sorted(path.parent.name for path in Path("seed-0").glob("*/ticket.safetensors")):
    if stage != "01-dense":
        tickets = sorted(map(str, Path().glob(f"seed-*/{stage}/ticket.safetensors")))
        about = ["--config", "seed-0/01-dense/config.yaml", "--out", f"effective-{stage}/summary.json"]
        main(["ticket", "show", *tickets, *about])
frame = results(".")
accuracy = frame[frame.metric == "test_acc"].pivot(index="seed", columns="stage", values="value")
accuracy = accuracy.dropna()  # a seed of an earlier run may be half done
accuracy.columns = [stage.partition("-")[2] for stage in accuracy.columns]  # without their numbers
compared, lowest = {}, 1.0
figure = Figure(figsize=(9, 4), layout="constrained")
for axes, percent in zip(figure.subplots(1, 2, sharey=True), (90, 98), strict=True):
    of_lines = {"dense": "dense", **{layers: f"random-{percent}-{layers}" for layers in ("erk", "uniform")}}
    for name, stage in of_lines.items():
        axes.axhline(accuracy[stage].mean(), linestyle=LINES[name], color="0.5", label=name)
    for place, method in enumerate(METHODS):
        ticket = f"{method}-{percent}"
        stages = {"ticket": ticket, **{arm: f"{ticket}-{arm}" for arm in ("effective", "shuffled")}}
        for number, (arm, marker) in enumerate(ARMS.items()):
            values = accuracy[stages[arm]]
            look = {"color": f"C{number}", "marker": marker, "label": None if place else arm}
            axes.scatter([place + (number - 1) / 5] * len(values), values, s=18, **look)
        pairs = {control: (ticket, stage) for control, stage in {**stages, **of_lines}.items() if control != "ticket"}
        pairs["effective beside shuffled"] = (stages["effective"], stages["shuffled"])
        compared[ticket] = {}
        for name, (one, beside) in pairs.items():
            judged = judge_matching([*accuracy[one]], [*accuracy[beside]], level=0.025)
            compared[ticket][name] = {"difference": judged.mean, "low": judged.low, "high": judged.high}
    lowest = min(
        lowest, *(accuracy[f"{method}-{percent}{arm}"].min() for method in METHODS for arm in ("", "-shuffled"))
    )
    axes.set_xticks(range(len(METHODS)), METHODS)
    axes.set_title(f"{percent} % of the weights removed", fontsize="medium")
    axes.grid(axis="y", alpha=0.3)
figure.axes[0].set(ylabel="test accuracy", ylim=(lowest - 0.01, None))  # random masks that barely train are left out
figure.axes[1].legend(fontsize="small")
Path("compared").mkdir(exist_ok=True)
Path("compared/summary.json").write_text(json.dumps(compared, indent=1))
figure.savefig("controls.png", dpi=120)
