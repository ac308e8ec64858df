"""Is a network stable to SGD noise? The straight line between networks that were trained apart."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from rich.table import Table
from torch import Tensor

from lightning_lottery.errors import LotteryError
from lightning_lottery.figures import lines_between
from lightning_lottery.functional.connectivity import (
    Stability,
    State,
    check_alphas,
    distances,
    error_barrier,
    excess,
    has_batch_norm,
    interpolate_,
    judge,
    recalibrate_batch_norm_,
)
from lightning_lottery.functional.masks import hamming
from lightning_lottery.runners.evaluation import Batches, Evaluator, loader_of, stage_of, sum_over_ranks
from lightning_lottery.ticket import write_whole

Pair = tuple[int, int]
Curve = dict[str, list[float]]

ALPHAS = tuple(float(alpha) for alpha in np.linspace(0, 1, 21))
"""Where the line is evaluated by default: both ends and the middle among them."""


@dataclass(frozen=True)
class PathReport:
    """What the lines between several networks look like.

    Args:
        names: Of the networks, in the order of the pairs' numbers.
        alphas: Places on each line; 1 is the pair's first network.
        monitor: The metric that is judged, a fraction.
        mode: Whether the monitor is better when high (``"max"``, an accuracy) or low (``"min"``, an error or a loss).
        curves: For each pair every metric along the line.
        recalibrated: The same with batch norm's statistics estimated anew at each place; empty without batch norm.
        between: For each pair ``l2`` and ``cosine`` distance, and ``disagreement`` where predictions were compared.
        samples: In the evaluation set, over all ranks.
        stability: The verdict on the raw barrier.
    """

    names: tuple[str, ...]
    alphas: tuple[float, ...]
    monitor: str
    mode: Literal["max", "min"]
    curves: Mapping[Pair, Curve]
    recalibrated: Mapping[Pair, Curve]
    between: Mapping[Pair, Mapping[str, float]]
    samples: int
    stability: Stability

    def errors(self, pair: Pair, *, recalibrated: bool = False) -> list[float]:
        """The monitor as an error along a pair's line: one minus it where it is better when high."""
        values = (self.recalibrated if recalibrated else self.curves)[pair][self.monitor]
        return [1 - value for value in values] if self.mode == "max" else list(values)

    def measures(self, pair: Pair, *, recalibrated: bool = False) -> dict[str, float]:
        """Barrier, excess, value in the middle, and ratio of the highest to the ends' mean, of error and of losses."""
        along = {"error": self.errors(pair, recalibrated=recalibrated)}
        curves = (self.recalibrated if recalibrated else self.curves)[pair]
        along |= {name: values for name, values in curves.items() if "loss" in name}
        found: dict[str, float] = {}
        for name, values in along.items():
            ends = (values[0] + values[-1]) / 2
            found[f"{name}_barrier"] = error_barrier(values)
            found[f"{name}_excess"] = excess(values, self.alphas)
            found[f"{name}_ratio"] = max(values) / ends if ends else float("nan")
            if 0.5 in self.alphas:
                found[f"{name}_middle"] = values[self.alphas.index(0.5)]
        return found

    def rows(self) -> list[dict[str, Any]]:
        """Records: one row for every pair, place and metric, then one for every pair and measure."""
        rows: list[dict[str, Any]] = []
        for (i, j), curve in self.curves.items():
            base = {"stage": "path", "parent": None, "seeds": [self.names[i], self.names[j]], "n": self.samples}
            for kind, curves in (("raw", curve), ("recalibrated", self.recalibrated.get((i, j), {}))):
                for metric, values in curves.items():
                    rows += [
                        {**base, "method": kind, "alpha": alpha, "metric": metric, "value": value}
                        for alpha, value in zip(self.alphas, values, strict=True)
                    ]
            found = {"raw": {**self.measures((i, j)), **self.between[i, j]}}
            if (i, j) in self.recalibrated:
                found["recalibrated"] = self.measures((i, j), recalibrated=True)
            for kind, measures in found.items():
                rows += [{**base, "method": kind, "alpha": None, "metric": m, "value": v} for m, v in measures.items()]
        return rows


def path(
    module: LightningModule,
    data: Any,
    checkpoints: Sequence[str | os.PathLike[str]],
    *,
    trainer: Trainer,
    monitor: str = "test_acc",
    mode: Literal["max", "min"] = "max",
    alphas: Sequence[float] = ALPHAS,
    threshold: float = 0.02,
    recalibrate: int = 0,
    submodule: str = "",
    memory: int = 2**31,
    predict: Callable[[LightningModule, Any], Tensor] | None = None,
) -> PathReport:
    """The straight line between every pair of networks: each metric along it, barriers, and a verdict.

    Batches are loaded once for all pairs and places and divided over the ranks of the Trainer. The module's own
    ``test_step`` (or ``validation_step``) says what is measured; it is left with the weights that it had.

    Args:
        module: A module of the networks' kind; its own weights do not matter.
        data: LightningDataModule, or a loader; None for the module's own loader.
        checkpoints: Lightning checkpoints, or files of plain state dicts; at least two.
        trainer: Runs the evaluations. Give it none of the project's callbacks.
        monitor: The logged metric that is judged, a fraction.
        mode: ``"max"`` for an accuracy, ``"min"`` for an error or a loss (then the threshold is in its units).
        alphas: Places on the line, in [0, 1], both ends included.
        threshold: Error barrier below which networks are called stable, a fraction.
        recalibrate: Training batches for estimating batch norm's statistics anew at each place; 0 for none.
        submodule: Where in the module the checkpoints' weights go, such as ``"model"``; for checkpoints of the inner
            network.
        memory: Bytes of batches that are kept in memory; what does not fit is loaded anew for every place.
        predict: Given the module and a batch, the predicted classes; for the share of samples the ends disagree on.

    Raises:
        LotteryError: Fewer than two checkpoints, one that does not fit or holds NaN, different masks, alphas outside
            the line, a module that logs nothing or not the monitor, an accuracy in percent, no training batches to
            recalibrate with.

    Source: Frankle et al. 2020, section 2.
    """
    places = check_alphas(alphas)
    names = tuple(str(checkpoint) for checkpoint in checkpoints)
    if len(names) < 2:
        raise LotteryError(f"A line needs two networks, got {len(names)} checkpoint(s).")
    if is_overridden("configure_model", module):
        module.configure_model()
    target = module.get_submodule(submodule)
    states = [read_state(Path(name), target) for name in names]
    _refuse_different_masks(names)
    split = stage_of(module, data)
    ranks = {"rank": trainer.global_rank, "world_size": trainer.world_size}
    batches = Batches(loader_of(module, data, split), **ranks, memory=memory)
    evaluate = Evaluator(module, trainer, batches, split)
    before = {name: value.clone() for name, value in _tensors(target.state_dict()).items()}
    training = []
    if recalibrate and has_batch_norm(module):
        source = data if isinstance(data, LightningDataModule) else None  # a loader given holds what is evaluated
        training = _first(loader_of(module, source, "train"), recalibrate)
    curves: dict[Pair, Curve] = {}
    recalibrated: dict[Pair, Curve] = {}
    try:
        for i, j in combinations(range(len(states)), 2):
            line = [evaluate(_setting(states[i], states[j], alpha, submodule)) for alpha in places]
            curves[i, j] = _curve(line, monitor, mode)
            if training:
                line = [evaluate(_setting(states[i], states[j], alpha, submodule, training, split)) for alpha in places]
                recalibrated[i, j] = _curve(line, monitor, mode)
        predictions = [_predictions(module, state, submodule, batches, predict) for state in states] if predict else []
    finally:
        target.load_state_dict(before, strict=False)
    between: dict[Pair, dict[str, float]] = {}
    for i, j in curves:
        between[i, j] = distances(states[i], states[j])
        if predictions:
            differing = int((predictions[i] != predictions[j]).sum())
            between[i, j]["disagreement"] = sum_over_ranks(differing, trainer) / sum_over_ranks(
                batches.samples, trainer
            )
    samples = evaluate.samples
    unjudged = PathReport(names, places, monitor, mode, curves, recalibrated, between, samples, judge({(0, 1): 0.0}))
    barriers = {pair: error_barrier(unjudged.errors(pair)) for pair in curves}
    ends = float(np.mean([error for pair in curves for error in (unjudged.errors(pair)[0], unjudged.errors(pair)[-1])]))
    is_error = mode == "max" or (ends <= 1 and "loss" not in monitor)
    verdict = judge(barriers, threshold, error=ends if is_error else None, samples=samples)
    return PathReport(names, places, monitor, mode, curves, recalibrated, between, samples, verdict)


def write_report(report: PathReport, folder: Path, threshold: float) -> None:
    """Write ``results.jsonl``, ``summary.json``, ``path.png`` and curves for TensorBoard on an axis of 1000 alpha.

    Raises:
        LotteryError: A file cannot be written.
    """
    from torch.utils.tensorboard import SummaryWriter

    write_whole(folder / "results.jsonl", "".join(json.dumps(row) + "\n" for row in report.rows()).encode(), "records")
    measures = {f"{i}-{j}": {**report.measures((i, j)), **report.between[i, j]} for i, j in report.curves}
    for i, j in report.recalibrated:
        again = report.measures((i, j), recalibrated=True)
        measures[f"{i}-{j}"] |= {f"recalibrated_{name}": value for name, value in again.items()}
    summary = {"networks": report.names, "pairs": measures, "stability": asdict(report.stability), "n": report.samples}
    write_whole(folder / "summary.json", json.dumps(summary, indent=1).encode(), "summary")
    losses = [name for name in next(iter(report.curves.values())) if "loss" in name][:1]
    errors = [report.errors(pair) for pair in report.curves]
    along = [curve[name] for curve in report.curves.values() for name in losses]
    figure, image = lines_between(report.alphas, errors, along, threshold), BytesIO()
    figure.savefig(image, format="png", dpi=120)
    write_whole(folder / "path.png", image.getvalue(), "figure")
    with SummaryWriter(str(folder / "path")) as writer:
        for (i, j), curve in report.curves.items():
            for metric, values in curve.items():
                for alpha, value in zip(report.alphas, values, strict=True):
                    writer.add_scalar(f"path/{metric}/{i}-{j}", value, round(1000 * alpha))
        writer.add_figure("path", figure)


def table_of(report: PathReport) -> Table:
    """A row for each pair: ends, barrier, excess and distance."""
    table = Table(title=f"{report.monitor} over {report.samples} samples")
    for column in ("pair", "error at 1", "error at 0", "error barrier", "excess", "L2 distance"):
        table.add_column(column, justify="left" if column == "pair" else "right")
    for (i, j), between in report.between.items():
        errors, found = report.errors((i, j)), report.measures((i, j))
        numbers = (errors[-1], errors[0], found["error_barrier"], found["error_excess"], between["l2"])
        table.add_row(f"{i} - {j}", *(f"{number:.4f}" for number in numbers))
    table.caption = "\n".join(f"{number}: {name}" for number, name in enumerate(report.names))
    return table


def read_state(checkpoint: Path, module: torch.nn.Module) -> dict[str, Tensor]:
    """The weights and buffers of a checkpoint, found to fit a module; on the CPU.

    Raises:
        LotteryError: No such file, not loadable without pickle, names or shapes that differ, or NaN.
    """
    try:
        loaded = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise LotteryError(f"There is no checkpoint '{checkpoint}'.") from error
    except Exception as error:  # torch has many for a file that is none
        raise LotteryError(f"'{checkpoint}' does not load as a checkpoint: {str(error).splitlines()[0]}") from error
    state = _tensors(loaded.get("state_dict", loaded)) if isinstance(loaded, dict) else {}
    own = _tensors(module.state_dict())
    odd = sorted(state.keys() ^ own.keys())
    odd += [f"{name} (shape)" for name in state.keys() & own.keys() if state[name].shape != own[name].shape]
    if odd:
        listed = ", ".join(odd[:4]) + (", ..." if len(odd) > 4 else "")
        raise LotteryError(
            f"'{checkpoint}' is of another model than {type(module).__name__}: {listed}. For a checkpoint of an inner "
            "network say where it belongs with `submodule`."
        )
    broken = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise LotteryError(f"'{checkpoint}' holds NaN or infinite weights in {', '.join(broken[:4])}.")
    return state


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """A state without what modules keep beside tensors."""
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _refuse_different_masks(names: Sequence[str]) -> None:
    masks = []
    for name in names:
        loaded = torch.load(name, map_location="cpu", weights_only=True)
        states = loaded.get("callbacks", {}) if isinstance(loaded, dict) else {}
        ours = [state["masks"] for key, state in states.items() if key.startswith("lightning_lottery.")]
        masks.append({parameter: mask for of in ours for parameter, mask in of.items()})
    for name, own in zip(names[1:], masks[1:], strict=True):
        if own.keys() != masks[0].keys() or hamming(own, masks[0]):
            raise LotteryError(f"'{names[0]}' and '{name}' were trained with different masks: the line mixes them.")


def _setting(
    a: State, b: State, alpha: float, submodule: str, training: Sequence[Any] = (), split: str = "test"
) -> Callable[[LightningModule], None]:
    """What sets a module to a place on a line, batch norm estimated anew from training batches where there are any."""

    def prepare(module: LightningModule) -> None:
        interpolate_(_tensors(module.get_submodule(submodule).state_dict()), a, b, alpha)
        if training:
            step = module.test_step if split == "test" else module.validation_step
            log, module.__dict__["log"] = module.__dict__["log"], lambda *_, **__: None
            try:
                strategy, precision = module.trainer.strategy, module.trainer.precision_plugin
                moved = (precision.convert_input(strategy.batch_to_device(batch)) for batch in training)
                with precision.test_step_context():
                    recalibrate_batch_norm_(module, lambda batch: step(batch, 0), moved)
            finally:
                module.__dict__["log"] = log

    return prepare


def _curve(line: list[dict[str, float]], monitor: str, mode: str) -> Curve:
    """Every metric along a line; a monitor that is missing, or in percent, is refused."""
    if monitor not in line[0]:
        raise LotteryError(f"The module does not log '{monitor}'; it logs {', '.join(sorted(line[0]))}.")
    curve = {name: [at[name] for at in line] for name in line[0]}
    if mode == "max" and max(curve[monitor]) > 1:
        raise LotteryError(
            f"'{monitor}' goes up to {max(curve[monitor]):.4g}: with mode='max' it must be a fraction in [0, 1]. "
            "Log it as a fraction, or judge an error or a loss with mode='min'."
        )
    return curve


def _predictions(
    module: LightningModule,
    state: State,
    submodule: str,
    batches: Batches,
    predict: Callable[[LightningModule, Any], Tensor],
) -> Tensor:
    module.get_submodule(submodule).load_state_dict(dict(state))
    modes = {child: child.training for child in module.modules()}
    try:
        with torch.no_grad():
            return torch.cat([predict(module.eval(), batch).cpu() for batch in batches])
    finally:
        for child, mode in modes.items():
            child.training = mode


def _first(loader: Any, count: int) -> list[Any]:
    return [batch for batch, _ in zip(loader, range(count), strict=False)]
