"""``lightning-lottery predict-tickets``: does stability at a step go with a good ticket found there?"""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from lightning_lottery.command.options import parsed, parser_of
from lightning_lottery.errors import LotteryError
from lightning_lottery.experiments.prediction import predict_tickets
from lightning_lottery.functional.prediction import parents_needed


def predict(arguments: Sequence[str]) -> None:
    """Join finished sweeps and iterative pruning, and write what their barriers say of their tickets."""
    options = parsed(parser_of("predict-tickets", predict_tickets), arguments).as_dict()
    if (text := options.pop("plan")) is not None:
        plan(text)
        return
    out, sweep, imps = Path(options.pop("out")), options.pop("sweep"), options.pop("imps")
    report = predict_tickets(sweep, imps, **options)
    report.write(out)
    console = Console()
    console.print(report.table())
    for sentence in report.sentences():
        console.print(sentence, soft_wrap=True)
    console.print(f"Points: {out / 'points.csv'}. Figure: {out / 'prediction.png'}", soft_wrap=True)


def plan(text: str) -> None:
    """Say how many parents it takes to show a correlation.

    Args:
        text: ``r=0.5`` or ``r=0.5,steps=7``.
    """
    try:
        values = dict(part.split("=") for part in text.split(","))
        r, steps = float(values.pop("r")), int(values.pop("steps", 7))
    except (ValueError, KeyError) as error:
        raise LotteryError(f"--plan is 'r=0.5' or 'r=0.5,steps=7', got '{text}'.") from error
    if values:
        raise LotteryError(f"--plan takes r and steps, got {', '.join(values)}.")
    number = parents_needed(r, steps)
    answer = "More than 60 parents" if number is None else f"{number} parents"
    print(  # noqa: T201
        f"{answer} show a correlation of {r:g} within steps with a probability of 80 %, at {steps} steps each: two "
        f"children of each for the barrier, a third seed for the dense child and each ticket, {steps} x "
        f"{number or 60} x (3 + tickets) trainings."
    )
