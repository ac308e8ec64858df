"""What `run` does once every stage is done: the prediction, and how far tickets of seeds and steps overlap."""

from pathlib import Path

from lightning_lottery.command.main import main

IMP = "seed-0/*-imp-step-{step}/seed-{seed}/level-3/ticket.safetensors"
SYNFLOW = "seed-0/01-stability/parent-{seed}/synflow-step-{step}/seed-*1/ticket.safetensors"
OVERLAPS = {
    "overlap-02-imp-step-0": [IMP.format(step=0, seed="*")],
    "overlap-06-imp-step-100": [IMP.format(step=100, seed="*")],
    "overlap-08-imp-step-400": [IMP.format(step=400, seed="*")],
    "overlap-synflow-0": [SYNFLOW.format(step=0, seed="*")],
    "overlap-synflow-400": [SYNFLOW.format(step=400, seed="*")],
    "overlap-one-seed": [IMP.format(step="*", seed=0)],
    **{
        f"overlap-imp-synflow-{step}": [IMP.format(step=step, seed=0), SYNFLOW.format(step=step, seed=0)]
        for step in (0, 100, 400)
    },
}

here = Path()
main(["predict-tickets", "seed-0/01-stability", *sorted(map(str, here.glob("seed-0/*-imp-*"))), "--out", "prediction"])
for name, patterns in OVERLAPS.items():
    tickets = sorted(str(path) for pattern in patterns for path in here.glob(pattern))
    if len(tickets) > 1:  # a run with fewer steps or seeds has fewer of them
        main(["ticket", "diff", *tickets, "--out", f"{name}/summary.json"])
