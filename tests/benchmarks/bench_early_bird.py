"""Early-bird detection per optimizer step: noting the units' scores, their masks and norms, and the rules' probes."""

import warnings
from functools import partial

import torch

from benchmarks.measure import Row, ratio, seconds
from benchmarks.stopwatch import Stopwatch, fit, vit_of_5_million
from lightning_lottery import ADF, EarlyBird, MannKendall, NetworkSlimming, SlopeHAC
from lightning_lottery.functional.settling.watch import Watch, unit_masks_of

RULES = {"hac": SlopeHAC(), "mann_kendall": MannKendall(), "adf": ADF()}
EVERY = 100  # steps between two probes


def run(toy: bool = False) -> list[Row]:
    """Beside a dense step; heads and neurons, one sparsity, three rules."""
    early_bird = EarlyBird([SlopeHAC()], [0.5], at=[1.0])
    watch = Stopwatch(early_bird)
    steps = 4 if toy else 13
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*before these rules can settle")
        fit(vit_of_5_million(toy), steps, NetworkSlimming(), early_bird, *watch.around, batch_size=2 if toy else 16)
    noting, _, dense = (times[:-1] for times in watch.by(1, skip=1))  # the last step draws a ticket
    layers = {kind: {f"{kind}{i}": size for i in range(12)} for kind, size in (("head", 6), ("neuron", 768))}
    rounds = 2 if toy else len(noting)
    probing = Watch(layers, RULES, [0.5], {"head": "tensor", "neuron": "all"}, list(layers))
    torch.manual_seed(0)
    scores = torch.rand(12 * (6 + 768))
    masks, probes, svd = [], [], []
    for chunk in range(6 + rounds):
        rows = torch.stack([scores + 0.05 * torch.rand_like(scores) for _ in range(EVERY)])
        at = range(chunk * EVERY + 1, chunk * EVERY + EVERY + 1)
        between = seconds(partial(probing.push, at[:-1], rows[:-1])) / (EVERY - 1)
        at_probe = seconds(partial(probing.push, at[-1:], rows[-1:]))
        if chunk >= 6:  # before, the rules have not seen enough
            masks.append(between)
            probes.append(max(0.0, at_probe - between) / EVERY)
            stacked = unit_masks_of(rows[:1, 72:], [768] * 12, 0.5, "all").view(12, 768).double()
            svd.append(seconds(partial(torch.linalg.svdvals, stacked)))
    return [
        ratio("early bird: noting scores / dense step", noting[:rounds], dense[:rounds], unit="%"),
        ratio(
            "early bird: masks and nuclear norms of a step / dense step",
            masks,
            dense[:rounds],
            unit="%",
            goal="<= 0.2 %",
        ),
        ratio(
            "early bird: three rules' probes of two series, amortised / dense step",
            probes,
            dense[:rounds],
            unit="%",
        ),
        ratio(
            "early bird: the same for one series / dense step",
            [of_two / 2 for of_two in probes],
            dense[:rounds],
            unit="%",
            goal="<= 0.05 %",
        ),
        ratio("early bird: one norm by singular values / dense step", svd, dense[:rounds], unit="%"),
    ]
