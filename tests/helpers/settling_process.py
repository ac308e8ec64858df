"""Simulated norms whose truth is known: how often is a run drawn that never settles, and how late one that does?

``python tests/helpers/settling_process.py`` prints the tables.
"""

import math
from dataclasses import replace

import numpy as np
from scipy.signal import lfilter

from lightning_lottery.functional.settling.detector import replay
from lightning_lottery.functional.settling.rules import ADF, SlopeEquivalence

MARGIN = 0.002  # norm per step: over a window of 500 a norm of 23 moves by 1
NOISE = 0.3  # standard deviation of the norm around its trend
SETTLES = 1500  # the step from which on the norm of a run that settles is flat


def autocorrelated(shape, phi=0.9, seed=0):
    """Stationary AR(1) series of variance 1 along the last axis."""
    noise = np.random.default_rng(seed).standard_normal((*shape[:-1], shape[-1] + 500))
    return (lfilter([1.0], [1.0, -phi], noise, axis=-1) * math.sqrt(1 - phi**2))[..., 500:]


def around(trend, runs, phi=0.9, seed=0):
    """Norms of several runs with this trend: [runs, steps]."""
    return 23 + np.asarray(trend) + NOISE * autocorrelated((runs, len(trend)), phi, seed)


def line(steps, slope=MARGIN):
    return slope * np.arange(1, steps + 1)


def never_settling(runs, steps, slope=MARGIN, seed=0):
    """Norms that move by ``slope`` or more a step, some of them in jumps or on the average: [runs, steps] each."""
    time, draw = np.arange(1, steps + 1), np.random.default_rng(seed)
    trends = {
        "line": slope * time,
        "line downwards": -slope * time,
        "square root": 2 * slope * math.sqrt(steps) * np.sqrt(time),
        "logarithm": slope * steps * np.log(time),
        "steps of 50": slope * (50 * (time // 50)),
        "steps of 200": slope * (200 * (time // 200)),
        "steps of 400": slope * (400 * (time // 400)),
    }
    walk = 23 + np.cumsum(slope + 0.01 * draw.standard_normal((runs, steps)), axis=1)
    return {**{name: around(trend, runs, seed=seed) for name, trend in trends.items()}, "walk with drift": walk}


def draws(rule, runs, patiences=(1, 2, 3)):
    """Patience to the step at which each run was drawn, infinite for never: [runs]."""
    eager, at = replace(rule, patience=1), {patience: [] for patience in patiences}
    for series in runs:
        verdicts, streak, first = replay(eager, enumerate(series, start=1)), 0, {}
        for verdict in verdicts:
            streak = streak + 1 if verdict.holds else 0
            first.setdefault(streak, verdict.step)
        for patience in patiences:
            at[patience].append(first.get(patience, math.inf))
    return {patience: np.array(steps) for patience, steps in at.items()}


def _row(name, values):
    print(f"| {name} | " + " | ".join(values) + " |", flush=True)


def at_the_margin(runs):
    print(f"Share of {runs} runs drawn although the norm moves by exactly the margin in every step; patience 1, 2, 3")
    for phi in (0.0, 0.9, 0.98):
        at = draws(SlopeEquivalence(MARGIN), around(line(10_000), runs, phi, seed=1))
        for steps in (3_000, 5_000, 10_000):
            _row(f"AR({phi}), {steps:,} steps", [f"{(drawn <= steps).mean():.3f}" for drawn in at.values()])


def delays(runs):
    print(f"Step at which {runs} runs are drawn that are flat from step 1, or {SETTLES} on: mean; patience 1, 2, 3")
    late = np.minimum(line(6_000, 5 * MARGIN), 5 * MARGIN * SETTLES)
    for phi in (0.9, 0.98):
        for name, trend in (("flat", np.zeros(6_000)), ("settles", late)):
            at = draws(SlopeEquivalence(MARGIN), around(trend, runs, phi, seed=2))
            never = [f"{(drawn == math.inf).mean():.3f}" for drawn in at.values()]
            early = [f"{(drawn < SETTLES).mean():.3f}" for drawn in at.values()]
            cells = [f"{drawn[drawn < math.inf].mean():.0f}" for drawn in at.values()]
            _row(f"AR({phi}), {name}; never {never}, before {SETTLES} {early}", cells)


def shapes(runs):
    print(
        f"Share of {runs} runs of 5,000 steps that SlopeEquivalence draws although they never settle; patience 1, 2, 3"
    )
    for factor in (1, 1.5, 2):
        for name, norms in never_settling(runs, 5_000, factor * MARGIN, seed=3).items():
            at = draws(SlopeEquivalence(MARGIN), norms)
            _row(f"{factor} margins, {name}", [f"{(drawn < math.inf).mean():.3f}" for drawn in at.values()])


def of_adf(runs):
    print(f"Share of {runs} runs that ADF draws although they never settle, in 3,000 and in 5,000 steps")
    for slope in (0.001, 0.002, 0.004):
        for name, norms in never_settling(runs, 5_000, slope, seed=4).items():
            if name in ("line", "square root", "logarithm"):
                (drawn,) = draws(ADF(), norms, patiences=(1,)).values()
                _row(f"slope {slope}, {name}", [f"{(drawn <= steps).mean():.3f}" for steps in (3_000, 5_000)])


if __name__ == "__main__":
    # A share p has a standard error of sqrt(p (1 - p) / runs).
    at_the_margin(1000)
    delays(300)
    shapes(100)
    of_adf(100)
