"""Judge finished networks: the straight line between every two of them."""

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import combinations, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn

from lightning_lottery.connectivity.aligning import Aligner, Moved, aligner_of
from lightning_lottery.connectivity.averaging import Averaging
from lightning_lottery.connectivity.batches import Batches, Repeated, loader_of, split_of
from lightning_lottery.connectivity.blocks import blocks_of, cut_into_blocks
from lightning_lottery.connectivity.checkpoints import masks_of, read_state, weights_kept, write_in_form_of
from lightning_lottery.connectivity.evaluation import Evaluator
from lightning_lottery.connectivity.judging import ALPHAS, Judging, check_ratio
from lightning_lottery.connectivity.lines import Lines, layer_ends, with_aliases
from lightning_lottery.connectivity.report import Curve, Kind, Pair, PathReport
from lightning_lottery.connectivity.soups import judge_averages, validation_batches
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.alignment import average, permute
from lightning_lottery.functional.connectivity import State, distances, has_batch_norm, layers_of
from lightning_lottery.functional.masks import Masks, jaccard
from lightning_lottery.hooks.loggers import device_of
from lightning_lottery.hooks.means import ByBatch, sum_over_ranks

FURTHER = 15
"""Batches of a trial after the first, where that one does not tell a fraction from percent."""


def path(
    module: LightningModule,
    data: Any,
    ckpt_paths: Sequence[str | os.PathLike[str]],
    *,
    trainer: Trainer,
    monitor: str = "test_acc",
    mode: Literal["max", "min"] = "max",
    alphas: Sequence[float] = ALPHAS,
    threshold: float = 0.02,
    threshold_ratio: float | None = None,
    recalibrate: int = 0,
    align: bool = False,
    soup: bool = False,
    save_midpoint: str | os.PathLike[str] | None = None,
    layer_alphas: Sequence[float] = (),
    train_split: bool = False,
    submodule: str = "",
    memory: int = 2**31,
    predict: Callable[[LightningModule, Any], Tensor] | None = None,
    allow_diverged: bool = False,
) -> PathReport:
    """The straight line between every pair of networks: each metric along it, barriers, and a verdict.

    Batches are loaded once for all pairs and alphas and divided over the ranks of the Trainer. The module's own
    ``test_step`` (or ``validation_step``) says what is measured; it is left with the weights that it had.

    Args:
        module: A module of the networks' kind; its own weights do not matter.
        data: LightningDataModule, or a loader; None for the module's own loader.
        ckpt_paths: Lightning checkpoints, or files of plain state dicts; at least two.
        trainer: Runs the evaluations. Give it none of the project's callbacks.
        monitor: The logged metric that is judged, a fraction.
        mode: ``"max"`` for an accuracy, ``"min"`` for an error or a loss (then the threshold is in its units).
        alphas: Fractions of the line at which it is evaluated, in [0, 1], both ends included.
        threshold: Error barrier below which networks are called stable, a fraction; with ``soup`` also what an average
            may lose against the best network.
        threshold_ratio: In place of ``threshold``: a barrier of that fraction of the mean error of the ends, such as
            0.02 for a loss that rises by 2 %.
        recalibrate: Training batches for estimating batch norm's statistics anew at each alpha; 0 for none.
        align: Also the line to each second network with its units in the order of the first's (git re-basin), which is
            the same function; recalibrated where ``recalibrate`` says so. The verdict stays that of the raw barrier.
            Masks move along: then they may differ, and ``distances`` says how much of what either of two keeps both
            keep, as they are and aligned.
        soup: Also whether the networks may be averaged, beside the best single one: all of them, else a greedy soup of
            some, else only some layers. What may be worse than the best by more than the threshold may not.
        save_midpoint: Where to write the mean of all networks (for two the middle of their line), as a checkpoint of
            the first one's form without optimizers; recalibrated, and aligned to the first, where these are asked. With
            ``soup`` the average that may take the best network's place, and nothing where none may.
        layer_alphas: Fractions of the line, in [0, 1], at which each layer alone, and all layers up to it, are
            interpolated in either host; empty for none. (0, 0.5, 1) are Adilova's.
        train_split: Also the raw lines on the training split, by the same step in evaluation mode: the batches that
            the training loader gives once, augmented as they are, ``limit_train_batches`` of them. The verdict stays
            that of the test split.
        submodule: Where in the module the checkpoints' weights go, such as ``"model"``; for checkpoints of the inner
            network.
        memory: Bytes of batches that are kept in memory; what does not fit is loaded anew for every alpha.
        predict: Given the module and a batch, the predicted classes; for the share of samples the ends disagree on.
        allow_diverged: Lines to a network whose weights are not finite are NaN, and not refused.

    Raises:
        LotteryError: Fewer than two checkpoints, one that does not fit or holds NaN, different masks, alphas outside
            the line, a module that logs nothing or not the monitor, an accuracy in percent, no training batches to
            recalibrate with; ``align`` without units that can be permuted, or where networks with masks are averaged.

    Source: Frankle et al. 2020, section 2; Adilova et al. 2023, section 3, for single layers; Ainsworth et al. 2023 for
    the alignment; Wortsman et al. 2022 for the mean and the greedy soup. On both splits: Frankle et al. 2020, appendix;
    Neyshabur et al. 2020.
    """
    judging = Judging(monitor, mode, threshold, alphas, recalibrate, layer_alphas, threshold_ratio, train_split)
    names = _check_names(ckpt_paths, save_midpoint)
    _have_shards(module, data, trainer, align=align)
    averaged = soup or save_midpoint is not None
    networks = read_networks(
        names, module, trainer, submodule, aligned=align, averaged=averaged, allow_diverged=allow_diverged
    )
    beside = (len(names) if predict else 0) + (save_midpoint is not None) + 2 * soup
    lines, aligner, layers = _prepare(networks, module, data, trainer, judging, align, memory, beside)
    midpoint: dict[str, float] = {}
    averaging: Averaging | None = None
    with closing(lines.evaluate), weights_kept(networks.target):
        measured = _measure(networks, lines, aligner, layers)
        predictions = [lines.predictions(state, predict) for state in networks.states] if predict else []
        mean: State | None
        if soup:
            averaging, mean = _judge_averages(networks, measured.in_first_order, lines, data)
        else:
            mean = average(measured.in_first_order) if save_midpoint is not None else None
        if save_midpoint is not None and mean is not None:
            midpoint = _save_midpoint(networks, mean, lines, Path(save_midpoint))
    distances_of = {
        pair: _distances(networks, pair, predictions, trainer) | measured.shared.get(pair, {})
        for pair in networks.pairs
    }
    report = _report(networks, lines, measured, distances_of)
    if train_split:
        report = replace(report, train=_on_train_split(networks, module, data, trainer, judging, memory, distances_of))
    left = aligner.left if aligner else {}
    return replace(report, moved=measured.moved, left=left, midpoint=midpoint, averaging=averaging)


def _report(
    networks: "Networks", lines: Lines, measured: "_Measured", distances_of: Mapping[Pair, Mapping[str, float]]
) -> PathReport:
    raw = {pair: curve[lines.judging.monitor] for pair, curve in measured.curves["raw"].items()}
    blocks, networks_alone = blocks_of(measured.by_batch, raw)
    return PathReport(
        names=networks.names,
        judging=lines.judging,
        curves=measured.curves,
        distances=distances_of,
        samples=lines.evaluate.samples,
        device=device_of(lines.evaluate.trainer),
        blocks=blocks,
        networks_alone=networks_alone,
    )


def _on_train_split(
    networks: "Networks",
    module: LightningModule,
    data: Any,
    trainer: Trainer,
    judging: Judging,
    memory: int,
    distances_of: Mapping[Pair, Mapping[str, float]],
) -> PathReport:
    """The raw lines on the training split, as ``PathReport.train`` holds them."""
    judging, split = replace(judging, recalibrate=0, layer_alphas=(), train_split=False), split_of(module, data)
    batches = Batches(_train_split(module, data, trainer), **_ranks(trainer), memory=memory)
    limit = f"limit_{split}_batches"
    limit_before = getattr(trainer, limit)
    setattr(trainer, limit, 1.0)
    try:
        cut_into_blocks(batches, module, trainer, split, data, judging.monitor)
        evaluations = len(networks.pairs) * len(judging.alphas)
        evaluator = Evaluator(module, trainer, batches, split, data=data, evaluations=evaluations)
        lines = Lines(evaluator, networks.submodule, judging)
        with closing(evaluator), weights_kept(networks.target):
            measured = _measure(networks, lines, None, {})
    finally:
        setattr(trainer, limit, limit_before)
    return _report(networks, lines, measured, distances_of)


def _train_split(module: LightningModule, data: Any, trainer: Trainer) -> Repeated:
    """The training loader; the module's own where the data is a loader, which holds what is evaluated."""
    source = data if isinstance(data, LightningDataModule) else None
    return Repeated(loader_of(module, source, "train", trainer), trainer.limit_train_batches)


def check_evaluation(
    module: LightningModule,
    data: Any,
    ckpt_path: str | os.PathLike[str],
    *,
    trainer: Trainer,
    judging: Judging,
    predict: Callable[[LightningModule, Any], Tensor] | None = None,
) -> None:
    """Refuse, before anything is trained, what ``path`` would refuse of the networks that are to be trained.

    One batch is evaluated; where an accuracy is 0 on it, some more, as a 0 does not tell a fraction from percent, and
    where it raises, as of one batch a metric may not be defined.

    Args:
        module: As for ``path``; it keeps the weights that it had.
        data: As for ``path``.
        ckpt_path: A checkpoint of a fit of this module.
        trainer: As for ``path``; its limits of batches are lowered.
        judging: How the networks will be judged.
        predict: As for ``path``.

    Raises:
        LotteryError: A checkpoint that does not load or does not fit the module; no step, no loader or several, a
            monitor that is not logged or in percent, or negative where a ratio is asked for, no training batches to
            recalibrate with.
    """
    _have_shards(module, data, trainer, align=False)
    networks = read_networks((str(ckpt_path),), module, trainer, allow_diverged=True)
    (state,) = networks.states
    split = split_of(module, data)
    loader = iter(loader_of(module, data, split, trainer))
    training = _training_batches(module, data, trainer, min(judging.recalibrate, 1))
    batches, limit = list(islice(loader, 1)), getattr(trainer, f"limit_{split}_batches")
    for further in (0, FURTHER):
        batches += islice(loader, further)
        setattr(trainer, f"limit_{split}_batches", at_most(limit, len(batches)))
        evaluator = Evaluator(module, trainer, Batches(batches, **_ranks(trainer)), split, data=data)
        lines = Lines(evaluator, "", judging, training)
        try:
            with closing(evaluator), weights_kept(module):
                curve = lines.between(state, state, [1.0], recalibrated=bool(training))
                check_ratio(curve, judging)
                if predict is not None:
                    lines.predictions(state, predict)
        except LotteryError:
            raise
        except Exception:  # of a single batch a metric may not be defined
            if further:
                raise
            continue
        if judging.mode == "min" or curve[judging.monitor] != [0.0]:
            break
    if judging.train_split:
        setattr(trainer, f"limit_{split}_batches", 1)
        first = Batches(list(islice(_train_split(module, data, trainer), 1)), **_ranks(trainer))
        evaluator = Evaluator(module, trainer, first, split, data=data)
        with closing(evaluator), weights_kept(module):
            Lines(evaluator, "", judging).between(state, state, [1.0])


def at_most(limit: float, batches: int) -> float:
    """A Trainer's limit of batches, lowered to so many; one that evaluates none stays so."""
    # Lightning's rule: an int limits the number of batches, a float is a fraction of them.
    return batches if limit and isinstance(limit, float) else min(limit, batches)


@dataclass(frozen=True)
class Networks:
    """The networks that are judged; ``names`` are the paths of their checkpoints."""

    names: tuple[str, ...]
    states: Sequence[State]  # on the CPU
    submodule: str  # where in the module they go
    target: nn.Module  # what stands there
    masks: Sequence[Masks]  # that they were trained with; empty for none

    @property
    def pairs(self) -> list[Pair]:
        """The numbers of every two networks."""
        return list(combinations(range(len(self.states)), 2))


def _check_names(
    ckpt_paths: Sequence[str | os.PathLike[str]], save_midpoint: str | os.PathLike[str] | None
) -> tuple[str, ...]:
    """The networks' names, which are the paths of their checkpoints."""
    alone = isinstance(ckpt_paths, (str, os.PathLike))  # a word would be as many paths as it has letters
    names = tuple(str(ckpt_path) for ckpt_path in ([ckpt_paths] if alone else ckpt_paths))
    if len(names) < 2:
        raise LotteryError(f"A line needs two networks, got {len(names)} checkpoint(s).")
    if save_midpoint is not None and Path(save_midpoint).resolve() in [Path(name).resolve() for name in names]:
        raise LotteryError(f"`save_midpoint` would overwrite '{save_midpoint}', which is one of the networks.")
    return names


def _have_shards(module: LightningModule, data: Any, trainer: Trainer, *, align: bool) -> None:
    """Under a strategy that shards, let it build the layers: it does so in a run, as only there the ranks are."""
    if not isinstance(trainer.strategy, ModelParallelStrategy):
        return
    if align:
        raise LotteryError("`align` looks at whole networks, and ModelParallelStrategy shards them: use one device.")
    module.trainer = trainer
    split = split_of(module, data)
    first = list(islice(loader_of(module, data, split, trainer), 1))
    with closing(Evaluator(module, trainer, Batches(first, **_ranks(trainer)), split, data=data)) as evaluate:
        evaluate(lambda module: None)


def read_networks(
    names: tuple[str, ...],
    module: LightningModule,
    trainer: Trainer,
    submodule: str = "",
    *,
    aligned: bool = False,
    averaged: bool = False,
    allow_diverged: bool = False,
) -> Networks:
    """The networks of checkpoints, found to fit the module, with masks that fit what is done with them.

    Raises:
        LotteryError: As ``read_state`` and ``masks_of``; no such submodule.
    """
    module.trainer = trainer
    # Layers that a module makes in `configure_model` must be there before names and shapes are compared. Lightning
    # calls it again on each run of the Trainer: it says that the hook must do nothing the second time. Of shards a run
    # has made them, as only there the ranks know each other.
    if is_overridden("configure_model", module) and not isinstance(trainer.strategy, ModelParallelStrategy):
        module.configure_model()
    if submodule not in dict(module.named_modules()):
        raise LotteryError(f"{type(module).__name__} has no submodule '{submodule}' for the weights to go to.")
    target = module.get_submodule(submodule)
    states = [read_state(Path(name), target, allow_diverged=allow_diverged) for name in names]
    return Networks(names, states, submodule, target, masks_of(names, aligned=aligned, averaged=averaged))


def _prepare(
    networks: Networks,
    module: LightningModule,
    data: Any,
    trainer: Trainer,
    judging: Judging,
    align: bool,
    memory: int,
    beside: int,
) -> tuple[Lines, Aligner | None, Mapping[str, Sequence[str]]]:
    """Load batches, and find what is aligned and which layers there are; ``beside`` counts evaluations of no line.

    Returns:
        What evaluates lines; what aligns, None where that is not asked; each layer that is interpolated alone, to its
        names in a state.
    """
    split = split_of(module, data)
    loader = loader_of(module, data, split, trainer)
    batches = Batches(loader, **_ranks(trainer), memory=memory)
    cut_into_blocks(batches, module, trainer, split, data, judging.monitor)
    training = _training_batches(module, data, trainer, judging.recalibrate)
    aligner = aligner_of(module, networks.submodule, networks.states[0], data, loader, split) if align else None
    layers = with_aliases(layers_of(networks.target), networks.target) if judging.layer_alphas else {}
    of_pair = len(judging.alphas) * (1 + bool(training) + align)
    of_pair += len(judging.layer_alphas) * len(layers) * 4  # in two hosts, alone and with all layers up to it
    evaluations = len(networks.pairs) * of_pair + beside
    evaluator = Evaluator(module, trainer, batches, split, data=data, evaluations=evaluations)
    return Lines(evaluator, networks.submodule, judging, training), aligner, layers


def _ranks(trainer: Trainer) -> dict[str, int]:
    return {"rank": trainer.global_rank, "world_size": trainer.world_size}


def _training_batches(module: LightningModule, data: Any, trainer: Trainer, number: int) -> list[Any]:
    """The first batches of the training loader, for batch norm's statistics; none where there is no batch norm."""
    if not number or not has_batch_norm(module):
        return []
    # A loader that is given as the data holds what is evaluated: training batches come from the module then.
    source = data if isinstance(data, LightningDataModule) else None
    return list(islice(loader_of(module, source, "train", trainer), number))


class _Measured(NamedTuple):
    """What was measured along the lines."""

    curves: dict[Kind, dict[Pair, Curve]]  # for each kind of line and each pair every metric
    by_batch: dict[Pair, list[ByBatch | None]]  # the monitor batch by batch, at each place of each raw line
    moved: dict[Pair, Moved]  # of an aligned pair: how many units of each group changed places
    shared: dict[Pair, dict[str, float]]  # of an aligned pair with masks: what they share before and after
    in_first_order: list[State]  # the networks, units in the order of the first's where they are aligned


def _measure(
    networks: Networks, lines: Lines, aligner: Aligner | None, layers: Mapping[str, Sequence[str]]
) -> _Measured:
    """Evaluate every kind of line between every pair of networks."""
    alphas, layer_alphas = lines.judging.alphas, lines.judging.layer_alphas
    curves: dict[Kind, dict[Pair, Curve]] = defaultdict(dict)
    by_batch: dict[Pair, list[ByBatch | None]] = {}
    moved: dict[Pair, Moved] = {}
    shared: dict[Pair, dict[str, float]] = {}
    in_first_order = list(networks.states)
    for i, j in networks.pairs:
        a, b = networks.states[i], networks.states[j]
        curves["raw"][i, j], by_batch[i, j] = lines.in_batches(a, b, alphas)
        if lines.training:
            curves["recalibrated"][i, j] = lines.between(a, b, alphas, recalibrated=True)
        if aligner:
            orders = aligner.orders(a, b)
            twin, moved[i, j] = aligner.permuted(b, orders), aligner.moved(orders)
            if networks.masks[i]:
                masks = networks.masks[j], permute(networks.masks[j], aligner.by_plain_names, orders)
                overlaps = [jaccard(networks.masks[i], each) for each in masks]
                shared[i, j] = dict(zip(("mask_overlap", "mask_overlap_aligned"), overlaps, strict=True))
            curves["aligned"][i, j] = lines.between(a, twin, alphas, recalibrated=True)
            if i == 0:  # a mean needs all networks in one order, and there is one order for each pair
                in_first_order[j] = twin
        for layer, end, start in layer_ends(a, b, layers):
            curves[layer][i, j] = lines.between(end, start, layer_alphas)
    # A line to a diverged network is not evaluated, so only here it is known which metrics the module logs.
    curves["raw"] = lines.with_every_metric(curves["raw"])
    return _Measured(dict(curves), by_batch, moved, shared, in_first_order)


def _judge_averages(
    networks: Networks, states: Sequence[State], lines: Lines, data: Any
) -> tuple[Averaging, State | None]:
    """Judge averages on the lines' batches; what is chosen is chosen on validation batches where there are any."""
    evaluate, judging = lines.evaluate, lines.judging
    module, trainer = evaluate.module, evaluate.trainer
    layers = with_aliases(layers_of(networks.target), networks.target)
    batches = validation_batches(module, data, trainer, evaluate.split, evaluate.batches, judging.monitor)
    if batches is None:
        return judge_averages(states, lines, None, layers)
    evaluations = 2 * len(states) + 2 * len(layers)  # at most
    with closing(Evaluator(module, trainer, batches, evaluate.split, data=data, evaluations=evaluations)) as chooser:
        return judge_averages(states, lines, replace(lines, evaluate=chooser), layers)


def _save_midpoint(networks: Networks, mean: State, lines: Lines, save_midpoint: Path) -> dict[str, float]:
    """Write an average, batch norm recalibrated where there are batches for it, and give its metrics."""
    metrics, reached = lines.at(mean)
    if lines.training:
        # Only buffers: weights went through the module's precision, which may hold fewer bits than the checkpoint.
        mean = {**mean} | {name: reached[name] for name, _ in networks.target.named_buffers() if name in mean}
    if lines.evaluate.trainer.is_global_zero:
        write_in_form_of(Path(networks.names[0]), mean, save_midpoint)
    lines.evaluate.trainer.strategy.barrier()  # no rank reads the file before it is there
    return metrics


def _distances(networks: Networks, pair: Pair, predictions: Sequence[Tensor], trainer: Trainer) -> dict[str, float]:
    """How far two networks lie apart, and on how many samples they disagree where that is known."""
    weights = [name for name, _ in networks.target.named_parameters()]  # tied ones once
    a, b = ({name: networks.states[number][name] for name in weights} for number in pair)
    between = distances(a, b)
    if predictions:
        one, two = (predictions[number] for number in pair)
        between["disagreement"] = sum_over_ranks(int((one != two).sum()), trainer) / sum_over_ranks(len(one), trainer)
    return between
