"""What `run` does once every stage is done: each ticket beside its seed's best one and that of the end.

Writes ``hindsight/summary.json``: for each share of units removed and each ticket its test accuracy, its mean regret
(how far that lies below the accuracy of the seed's best ticket), and the fraction of heads and of neurons in which it
differs from the ticket of the last step.
"""

import json
from pathlib import Path
from statistics import fmean

import yaml

from lightning_lottery import Ticket, results
from lightning_lottery.functional import hamming

UNITS = {"heads": ".attention", "neurons": ".mlp.fc1"}


def ticket_of(stage: Path) -> Path:
    """The file that a stage's masks come from."""
    (freezing,) = yaml.safe_load((stage / "config.yaml").read_text())["trainer"]["callbacks"]
    return Path(freezing["init_args"]["ticket"])


def distances(path: Path, removed: str) -> dict[str, float]:
    """How far a ticket's units are others than at the end of its slimming, for each kind of them."""
    ticket, last = (Ticket.load(file).units for file in (path, path.with_name(f"at=1.0-{removed}.safetensors")))
    kinds = {kind: [name for name in ticket if name.endswith(end)] for kind, end in UNITS.items()}
    return {kind: hamming({n: ticket[n] for n in names}, {n: last[n] for n in names}) for kind, names in kinds.items()}


frame = results(".")
accuracy = frame[frame.metric == "test_acc"].pivot(index="seed", columns="stage", values="value")
accuracy = accuracy.dropna()  # a seed of an earlier run may be half done
hindsight = {}
for share, removed in (("half", "0.5"), ("three-quarters", "0.75")):
    of_share = accuracy[[name for name in accuracy if name.partition("-")[2].startswith(share)]]
    best = of_share.max(axis=1)
    hindsight[share] = {"best": {str(seed): value for seed, value in best.items()}}
    for stage, values in of_share.items():
        apart = [distances(ticket_of(Path(f"seed-{seed}/{stage}")), removed) for seed in of_share.index]
        means = {kind: fmean(each[kind] for each in apart) for kind in UNITS}
        reached = {"mean": values.mean(), "sd": values.std(), "regret": (best - values).mean()}
        hindsight[share][stage] = {**reached, **means}
Path("hindsight").mkdir(exist_ok=True)
Path("hindsight/summary.json").write_text(json.dumps(hindsight, indent=1))
