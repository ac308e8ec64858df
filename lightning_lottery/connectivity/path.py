"""Judge finished networks: the straight line between every two of them."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from itertools import combinations
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from lightning_lottery.connectivity.aligning import Moved, aligner_of
from lightning_lottery.connectivity.batches import Batches
from lightning_lottery.connectivity.evaluation import Evaluator, loader_of, stage_of, sum_over_ranks
from lightning_lottery.connectivity.lines import Lines, layer_ends, tensors_in, with_aliases
from lightning_lottery.connectivity.path_report import Curve, LayerKey, Pair, PathReport
from lightning_lottery.errors import LotteryError
from lightning_lottery.files import write_whole
from lightning_lottery.functional.alignment import average
from lightning_lottery.functional.connectivity import (
    State,
    check_alphas,
    distances,
    error_barrier,
    has_batch_norm,
    layers_of,
)
from lightning_lottery.functional.masks import hamming
from lightning_lottery.functional.verdicts import Stability, judge
from lightning_lottery.hooks.loggers import device_of

ALPHAS = tuple(float(alpha) for alpha in np.linspace(0, 1, 21))
"""Where the line is evaluated by default: both ends and the middle among them."""

_OF_TRAINING = ("optimizer_states", "lr_schedulers", "callbacks", "MixedPrecision")
"""Parts of a checkpoint that a mean of networks does not have."""


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
    align: bool = False,
    save_midpoint: str | os.PathLike[str] | None = None,
    layer_alphas: Sequence[float] = (),
    submodule: str = "",
    memory: int = 2**31,
    predict: Callable[[LightningModule, Any], Tensor] | None = None,
    allow_diverged: bool = False,
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
        align: Also the line to each second network with its units in the order of the first's (git re-basin), which is
            the same function; recalibrated where ``recalibrate`` says so. The verdict stays that of the raw barrier.
        save_midpoint: Where to write the mean of all networks (for two the middle of their line), as a checkpoint of
            the first one's form without optimizers; recalibrated, and aligned to the first, where these are asked.
        layer_alphas: Places, in [0, 1], at which each layer alone, and all layers up to it, are interpolated in either
            host; empty for none. (0, 0.5, 1) are Adilova's.
        submodule: Where in the module the checkpoints' weights go, such as ``"model"``; for checkpoints of the inner
            network.
        memory: Bytes of batches that are kept in memory; what does not fit is loaded anew for every place.
        predict: Given the module and a batch, the predicted classes; for the share of samples the ends disagree on.
        allow_diverged: Lines to a network whose weights are not finite are NaN, and not refused.

    Raises:
        LotteryError: Fewer than two checkpoints, one that does not fit or holds NaN, different masks, alphas outside
            the line, a module that logs nothing or not the monitor, an accuracy in percent, no training batches to
            recalibrate with; ``align`` for networks with masks, or without units that can be permuted.

    Source: Frankle et al. 2020, section 2; Adilova et al. 2023, section 3, for single layers; Ainsworth et al. 2023 for
    the alignment; Wortsman et al. 2022 for the mean.
    """
    if mode not in ("max", "min") or not threshold > 0:
        raise LotteryError(f"`mode` is 'max' or 'min' and `threshold` above 0, got {mode!r} and {threshold!r}.")
    places, layer_places = check_alphas(alphas), tuple(float(alpha) for alpha in layer_alphas)
    if any(not 0 <= alpha <= 1 for alpha in layer_places):
        raise LotteryError(f"`layer_alphas` are places in [0, 1], got {list(layer_alphas)}.")
    names = tuple(str(checkpoint) for checkpoint in checkpoints)
    if len(names) < 2:
        raise LotteryError(f"A line needs two networks, got {len(names)} checkpoint(s).")
    if save_midpoint is not None and Path(save_midpoint).resolve() in [Path(name).resolve() for name in names]:
        raise LotteryError(f"`save_midpoint` would overwrite '{save_midpoint}', which is one of the networks.")
    module.trainer = trainer
    if is_overridden("configure_model", module):
        module.configure_model()
    if submodule not in dict(module.named_modules()):
        raise LotteryError(f"{type(module).__name__} has no submodule '{submodule}' for the weights to go to.")
    target = module.get_submodule(submodule)
    states = [read_state(Path(name), target, allow_diverged=allow_diverged) for name in names]
    _refuse_masks(names, aligned=align)
    split = stage_of(module, data)
    ranks = {"rank": trainer.global_rank, "world_size": trainer.world_size}
    batches = Batches(loader_of(module, data, split, trainer), **ranks, memory=memory)
    training = []
    if recalibrate and has_batch_norm(module):
        source = data if isinstance(data, LightningDataModule) else None  # a loader given holds what is evaluated
        training = _first(loader_of(module, source, "train", trainer), recalibrate)
    aligner = aligner_of(module, submodule, states[0], data, batches.loader, split) if align else None
    groups = with_aliases(layers_of(target), target) if layer_places else {}
    pairs = list(combinations(range(len(states)), 2))
    evaluations = len(pairs) * (len(places) * (1 + bool(training) + align) + 4 * len(groups) * len(layer_places))
    evaluations += (len(states) if predict else 0) + (save_midpoint is not None)
    before = {name: value.clone() for name, value in tensors_in(target.state_dict()).items()}
    curves: dict[Pair, Curve] = {}
    recalibrated: dict[Pair, Curve] = {}
    aligned: dict[Pair, Curve] = {}
    moved: dict[Pair, Moved] = {}
    layers: dict[Pair, dict[LayerKey, Curve]] = {}
    midpoint: dict[str, float] = {}
    in_one_order = list(states)  # the first's, where they are aligned
    evaluate = Evaluator(module, trainer, batches, split, data=data, evaluations=evaluations)
    lines = Lines(evaluate, submodule, monitor, mode, training)
    try:
        for i, j in pairs:
            curves[i, j] = lines.between(states[i], states[j], places)
            if training:
                recalibrated[i, j] = lines.between(states[i], states[j], places, recalibrated=True)
            if aligner:
                other, moved[i, j] = aligner(states[i], states[j])
                aligned[i, j] = lines.between(states[i], other, places, recalibrated=True)
                in_one_order[j] = other if i == 0 else in_one_order[j]
            if groups:
                mixed = layer_ends(states[i], states[j], groups)
                layers[i, j] = {key: lines.between(a, b, layer_places) for key, a, b in mixed}
        predictions = [lines.predictions(state, predict) for state in states] if predict else []
        if save_midpoint is not None:
            mean, midpoint = _mean_of(in_one_order, lines, target)
            if trainer.is_global_zero:
                _write_like(Path(names[0]), mean, Path(save_midpoint))
        curves = lines.with_every_metric(curves)
    finally:
        evaluate.close()
        target.load_state_dict(before, strict=False)
    report = PathReport(
        names=names,
        alphas=places,
        monitor=monitor,
        mode=mode,
        threshold=threshold,
        curves=curves,
        between={pair: _between(pair, states, predictions, target, trainer) for pair in pairs},
        samples=evaluate.samples,
        device=device_of(trainer),
        stability=judge({0: {(0, 1): 0.0}}),
        recalibrated=recalibrated,
        layer_alphas=layer_places,
        layers=layers,
        aligned=aligned,
        moved=moved,
        left=dict(aligner.left) if aligner else {},
        midpoint=midpoint,
    )
    return replace(report, stability=_stability(report))


def _between(
    pair: Pair, states: Sequence[State], predictions: Sequence[Tensor], target: torch.nn.Module, trainer: Trainer
) -> dict[str, float]:
    """How far two networks lie apart, and on how many samples they disagree where that is known."""
    trained = [name for name, _ in target.named_parameters()]  # tied ones once
    found = distances(*({name: states[number][name] for name in trained} for number in pair))
    if predictions:
        one, other = (predictions[number] for number in pair)
        differing = sum_over_ranks(int((one != other).sum()), trainer)
        found["disagreement"] = differing / sum_over_ranks(len(one), trainer)
    return found


def _mean_of(
    states: Sequence[State], lines: Lines, target: torch.nn.Module
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The mean of networks, with batch norm recalibrated where there are batches for it, and its metrics."""
    mean = average(states)
    metrics, reached = lines.at(mean)
    buffers = [name for name, _ in target.named_buffers() if name in mean]
    return mean | ({name: reached[name] for name in buffers} if lines.training else {}), metrics


def _stability(report: PathReport) -> Stability:
    barriers = {pair: error_barrier(report.errors(pair)) for pair in report.curves}
    return judge({0: barriers}, report.threshold, error=report.error_of_ends, samples=report.samples)


def load_plain(checkpoint: Path, device: str) -> Any:
    """A checkpoint, loaded without executing what is in it.

    Raises:
        LotteryError: No such file, or one that does not load so.
    """
    try:
        return torch.load(checkpoint, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise LotteryError(f"There is no checkpoint '{checkpoint}'.") from error
    except UnpicklingError as error:
        raise LotteryError(
            f"'{checkpoint}' does not load as a checkpoint without executing what is in it: it is none, or holds more "
            "than tensors and plain values (hyper-parameters? `save_hyperparameters(ignore=...)`)."
        ) from error
    except Exception as error:  # torch has many for a file that is none
        raise LotteryError(f"'{checkpoint}' does not load as a checkpoint: {str(error).splitlines()[0]}") from error


def read_state(checkpoint: Path, module: torch.nn.Module, *, allow_diverged: bool = False) -> dict[str, Tensor]:
    """The weights and buffers of a checkpoint, found to fit a module, and to be finite unless told; on the CPU.

    Raises:
        LotteryError: No such file, not loadable without pickle, names or shapes that differ, or NaN.
    """
    loaded = load_plain(checkpoint, "cpu")
    state = tensors_in(loaded.get("state_dict", loaded)) if isinstance(loaded, dict) else {}
    own = tensors_in(module.state_dict())
    odd = sorted(state.keys() ^ own.keys())
    odd += [f"{name} (shape)" for name in state.keys() & own.keys() if state[name].shape != own[name].shape]
    if odd:
        listed = ", ".join(odd[:4]) + (", ..." if len(odd) > 4 else "")
        raise LotteryError(
            f"'{checkpoint}' is of another model than {type(module).__name__}: {listed}. For a checkpoint of an inner "
            "network say where it belongs with `submodule`."
        )
    weights = {name for name, _ in module.named_parameters()}
    broken = [name for name, value in state.items() if name in weights and not value.isfinite().all()]
    if broken and not allow_diverged:
        raise LotteryError(f"'{checkpoint}' holds NaN or infinite weights in {', '.join(broken[:4])}.")
    return state


def _refuse_masks(names: Sequence[str], *, aligned: bool) -> None:
    """Refuse networks of different masks, and to permute a network that has masks."""
    masks = []
    for name in names:
        loaded = load_plain(Path(name), "cpu")
        states = loaded.get("callbacks", {}) if isinstance(loaded, dict) else {}
        ours = [state["masks"] for key, state in states.items() if key.startswith("lightning_lottery.")]
        masks.append({parameter: mask for of in ours for parameter, mask in of.items()})
    for name, own in zip(names[1:], masks[1:], strict=True):
        if own.keys() != masks[0].keys() or hamming(own, masks[0]):
            raise LotteryError(f"'{names[0]}' and '{name}' were trained with different masks: the line mixes them.")
    if aligned and any(not mask.all() for mask in masks[0].values()):
        raise LotteryError(
            f"'{names[0]}' was trained with masks: with its units in another order a network's weights lie outside of "
            "them, and the line mixes two tickets. Judge without `align`."
        )


def _write_like(first: Path, state: Mapping[str, Tensor], path: Path) -> None:
    """Write a state in the form of a checkpoint that there is, without what only training reads."""
    loaded = load_plain(first, "cpu")
    content = {name: value for name, value in loaded.items() if name not in _OF_TRAINING}
    if "state_dict" in loaded:
        content["state_dict"] = {**loaded["state_dict"], **state}
    else:
        content |= state
    file = BytesIO()
    torch.save(content, file)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, file.getvalue(), "midpoint")


def _first(loader: Any, count: int) -> list[Any]:
    return [batch for batch, _ in zip(loader, range(count), strict=False)]
