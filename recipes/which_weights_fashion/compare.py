"""Each ticket's test accuracy beside its controls', paired by seed: ``python compare.py runs/which_weights_fashion``.

Writes ``compared/summary.json`` and the picture ``controls.png`` into the run's folder. Bounds are two-sided, 95 %,
of the seeds alone: for this test set, one comparison at a time.
"""

import json
import sys
from pathlib import Path

from matplotlib.figure import Figure

from lightning_lottery import results
from lightning_lottery.functional import judge_matching

METHODS = ("synflow", "snip", "grasp", "magnitude")
ARMS = {"ticket": "o", "effective": "s", "shuffled": "^"}
LINES = {"dense": "-", "erk": "--", "uniform": ":"}

run = Path(sys.argv[1])
frame = results(run)
accuracy = frame[frame.metric == "test_acc"].pivot(index="seed", columns="stage", values="value")
accuracy.columns = [stage.partition("-")[2] for stage in accuracy.columns]  # without their numbers
compared = {}
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
            about = {"color": f"C{number}", "marker": marker, "label": None if place else arm}
            axes.scatter([place + (number - 1) / 5] * len(values), values, s=18, **about)
        for control in ("effective", "shuffled", "erk", "uniform", "dense"):
            beside = accuracy[{**stages, **of_lines}[control]]
            judged = judge_matching([*accuracy[ticket]], [*beside], level=0.025)
            difference = {"difference": judged.mean, "low": judged.low, "high": judged.high}
            compared.setdefault(ticket, {})[control] = difference
    axes.set_xticks(range(len(METHODS)), METHODS)
    axes.set_title(f"{percent} % of the weights removed", fontsize="medium")
    axes.grid(axis="y", alpha=0.3)
figure.axes[0].set_ylabel("test accuracy")
figure.axes[1].legend(fontsize="small")
(run / "compared").mkdir(exist_ok=True)
(run / "compared" / "summary.json").write_text(json.dumps(compared, indent=1))
figure.savefig(run / "controls.png", dpi=120)
