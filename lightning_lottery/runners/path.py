"""Judge finished networks: the straight line between every two of them."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from inspect import signature
from itertools import combinations
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.connectivity import (
    Stability,
    State,
    check_alphas,
    distances,
    error_barrier,
    has_batch_norm,
    interpolate_,
    judge,
    layers_of,
    recalibrate_batch_norm_,
)
from lightning_lottery.functional.masks import hamming
from lightning_lottery.runners.evaluation import Batches, Evaluator, loader_of, stage_of, sum_over_ranks
from lightning_lottery.runners.path_report import Curve, LayerKey, Pair, PathReport
from lightning_lottery.runners.training import device_of
from lightning_lottery.scope import ties

ALPHAS = tuple(float(alpha) for alpha in np.linspace(0, 1, 21))
"""Where the line is evaluated by default: both ends and the middle among them."""


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
    layer_alphas: Sequence[float] = (),
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
        layer_alphas: Places, in [0, 1], at which each layer alone, and all layers up to it, are interpolated in either
            host; empty for none. (0, 0.5, 1) are Adilova's.
        submodule: Where in the module the checkpoints' weights go, such as ``"model"``; for checkpoints of the inner
            network.
        memory: Bytes of batches that are kept in memory; what does not fit is loaded anew for every place.
        predict: Given the module and a batch, the predicted classes; for the share of samples the ends disagree on.

    Raises:
        LotteryError: Fewer than two checkpoints, one that does not fit or holds NaN, different masks, alphas outside
            the line, a module that logs nothing or not the monitor, an accuracy in percent, no training batches to
            recalibrate with.

    Source: Frankle et al. 2020, section 2; Adilova et al. 2023, section 3, for single layers.
    """
    if mode not in ("max", "min") or not threshold > 0:
        raise LotteryError(f"`mode` is 'max' or 'min' and `threshold` above 0, got {mode!r} and {threshold!r}.")
    places, layer_places = check_alphas(alphas), tuple(float(alpha) for alpha in layer_alphas)
    if any(not 0 <= alpha <= 1 for alpha in layer_places):
        raise LotteryError(f"`layer_alphas` are places in [0, 1], got {list(layer_alphas)}.")
    names = tuple(str(checkpoint) for checkpoint in checkpoints)
    if len(names) < 2:
        raise LotteryError(f"A line needs two networks, got {len(names)} checkpoint(s).")
    if is_overridden("configure_model", module):
        module.trainer = trainer
        module.configure_model()
    if submodule not in dict(module.named_modules()):
        raise LotteryError(f"{type(module).__name__} has no submodule '{submodule}' for the weights to go to.")
    target = module.get_submodule(submodule)
    states = [read_state(Path(name), target) for name in names]
    _refuse_different_masks(names)
    split = stage_of(module, data)
    ranks = {"rank": trainer.global_rank, "world_size": trainer.world_size}
    batches = Batches(loader_of(module, data, split, trainer), **ranks, memory=memory)
    training = []
    if recalibrate and has_batch_norm(module):
        source = data if isinstance(data, LightningDataModule) else None  # a loader given holds what is evaluated
        training = _first(loader_of(module, source, "train", trainer), recalibrate)
    groups = _with_aliases(layers_of(target), target) if layer_places else {}
    pairs = list(combinations(range(len(states)), 2))
    evaluations = len(pairs) * (len(places) * (2 if training else 1) + 4 * len(groups) * len(layer_places))
    evaluations += len(states) if predict else 0
    before = {name: value.clone() for name, value in _tensors(target.state_dict()).items()}
    curves: dict[Pair, Curve] = {}
    recalibrated: dict[Pair, Curve] = {}
    layers: dict[Pair, dict[LayerKey, Curve]] = {}
    evaluate = Evaluator(module, trainer, batches, split, data=data, evaluations=evaluations)

    def line(a: State, b: State, at: Sequence[float], *recalibrating: Any) -> Curve:
        found = [evaluate(_setting(a, b, alpha, submodule, *recalibrating)) for alpha in at]
        return _curve(found, monitor, mode)

    try:
        for i, j in pairs:
            curves[i, j] = line(states[i], states[j], places)
            if training:
                recalibrated[i, j] = line(states[i], states[j], places, training, split)
            if groups:
                mixed = _layer_ends(states[i], states[j], groups)
                layers[i, j] = {key: line(a, b, layer_places) for key, a, b in mixed}
        predictions = [_predictions(evaluate, state, submodule, predict) for state in states] if predict else []
    finally:
        evaluate.close()
        target.load_state_dict(before, strict=False)
    between: dict[Pair, dict[str, float]] = {}
    trained = [name for name, _ in target.named_parameters()]  # tied ones once
    for i, j in pairs:
        between[i, j] = distances(*({name: state[name] for name in trained} for state in (states[i], states[j])))
        if predictions:
            differing = int((predictions[i] != predictions[j]).sum())
            all_samples = sum_over_ranks(len(predictions[i]), trainer)
            between[i, j]["disagreement"] = sum_over_ranks(differing, trainer) / all_samples
    report = PathReport(
        names=names,
        alphas=places,
        monitor=monitor,
        mode=mode,
        threshold=threshold,
        curves=curves,
        between=between,
        samples=evaluate.samples,
        device=device_of(trainer),
        stability=judge({(0, 1): 0.0}),
        recalibrated=recalibrated,
        layer_alphas=layer_places,
        layers=layers,
    )
    return replace(report, stability=_stability(report))


def _stability(report: PathReport) -> Stability:
    errors = {pair: report.errors(pair) for pair in report.curves}
    ends = float(np.mean([along[end] for along in errors.values() for end in (0, -1)]))
    is_error = report.mode == "max" or (ends <= 1 and "loss" not in report.monitor)
    barriers = {pair: error_barrier(along) for pair, along in errors.items()}
    return judge(barriers, report.threshold, error=ends if is_error else None, samples=report.samples)


def _with_aliases(groups: Mapping[str, Sequence[str]], target: torch.nn.Module) -> dict[str, tuple[str, ...]]:
    """Layers with the further names of their tied weights, which a state lists as well."""
    aliases = ties(target)
    return {
        layer: (*names, *(alias for alias, first in aliases.items() if first in names))
        for layer, names in groups.items()
    }


def _layer_ends(a: State, b: State, groups: Mapping[str, Sequence[str]]) -> Iterator[tuple[LayerKey, State, State]]:
    """Ends of the lines on which one layer, or all up to it, differ and the rest is the host's."""
    so_far: tuple[str, ...] = ()
    for layer, own in groups.items():
        so_far = (*so_far, *own)
        for kind, names in (("single", own), ("cumulative", so_far)):
            yield (layer, 0, kind), a, {**a, **{name: b[name] for name in names}}
            yield (layer, 1, kind), {**b, **{name: a[name] for name in names}}, b


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


def read_state(checkpoint: Path, module: torch.nn.Module) -> dict[str, Tensor]:
    """The weights and buffers of a checkpoint, found to fit a module; on the CPU.

    Raises:
        LotteryError: No such file, not loadable without pickle, names or shapes that differ, or NaN.
    """
    loaded = load_plain(checkpoint, "cpu")
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
    weights = {name for name, _ in module.named_parameters()}
    broken = [name for name, value in state.items() if name in weights and not value.isfinite().all()]
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
                numbered = len(signature(step).parameters) > 1
                with precision.test_step_context():
                    recalibrate_batch_norm_(module, lambda batch: step(*((batch, 0) if numbered else (batch,))), moved)
            finally:
                module.__dict__["log"] = log

    return prepare


def _curve(line: Sequence[Mapping[str, float]], monitor: str, mode: str) -> Curve:
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
    evaluate: Evaluator, state: State, submodule: str, predict: Callable[[LightningModule, Any], Tensor]
) -> Tensor:
    found: list[Tensor] = []
    evaluate(_setting(state, state, 1.0, submodule), lambda module, batch: found.append(predict(module, batch).cpu()))
    return torch.cat(found)


def _first(loader: Any, count: int) -> list[Any]:
    return [batch for batch, _ in zip(loader, range(count), strict=False)]
