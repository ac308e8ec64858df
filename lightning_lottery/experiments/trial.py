"""A trial before training: a fit set up, saved and ended before its first step, and one batch evaluated."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.model_helpers import is_overridden
from rich.console import Console

from lightning_lottery.children.child import Child
from lightning_lottery.children.engine import Engine
from lightning_lottery.children.factories import imported
from lightning_lottery.children.fit import is_recorded, only_bars, train
from lightning_lottery.children.options import LinesTrialOptions, RecordsTrialOptions
from lightning_lottery.children.project import Built, Project, project_of
from lightning_lottery.children.reading import TRIAL
from lightning_lottery.children.records import Row
from lightning_lottery.connectivity.batches import split_of
from lightning_lottery.connectivity.checkpoints import load_plain
from lightning_lottery.connectivity.evaluation import step_name
from lightning_lottery.connectivity.judging import Judging, check_monitor
from lightning_lottery.connectivity.path import FURTHER, at_most, check_evaluation
from lightning_lottery.experiments.plan import child_of
from lightning_lottery.experiments.siblings import Predict
from lightning_lottery.hooks.quiet import without_noise
from lightning_lottery.hooks.strategies import refuse_spawning


def try_before(
    children: Iterable[Child],
    project: Project,
    folder: Path,
    begin: str | None,
    options: LinesTrialOptions | RecordsTrialOptions,
    do: Engine,
    console: Console,
) -> None:
    """Before the first of these children trains, find out in a child of its own whether they can be judged.

    Nothing of it stays, unless it fails; what it leaves then is removed by the next one.

    Args:
        children: Those that are trained for a judgement; where all are done there is nothing to try.
        project: What they train.
        folder: The experiment's.
        begin: The checkpoint that the first of them begins with; None for the module as built.
        options: What they are judged by.
        do: Does the trial, where it does the children.
        console: Shows it.

    Raises:
        LotteryError: Something that would be refused after they were trained.
    """
    if all(child.is_done for child in children):
        return
    trial = child_of(project.with_seed(project.seed), folder / TRIAL, TRIAL, begin, options=options)
    trial.discard()  # of a process that was ended in it
    do([("a trial before training", trial)], console)
    trial.discard()


def try_out(
    child: Child, resume: str, project: Project | None = None, *, predict: Predict | None = None
) -> list[Row] | None:
    """What the child does that is a trial: start a fit, save it before its first step, evaluate one batch from there.

    Nothing is resumed. ``project`` and ``predict`` stand in place of those that the child's files name.
    """
    train(replace(child, command="start"), "", project)
    start = child.folder / "start.ckpt"
    with without_noise():
        built = (project or project_of(child.config)).build(child.folder, "fit", False, only_bars)
        refuse_spawning(built.trainer)
        match child.options:
            case LinesTrialOptions(monitor, mode, recalibrate, address, ratio, train_split):
                predict = predict or (imported(address) if address else None)
                judging = Judging(
                    monitor, mode, recalibrate=recalibrate, threshold_ratio=ratio, train_split=bool(train_split)
                )
                about: dict[str, Any] = {"trainer": built.trainer, "judging": judging, "predict": predict}
                check_evaluation(built.model, built.datamodule, start, **about)
            case RecordsTrialOptions(monitor, mode):
                load_plain(start, "meta")  # which every level does
                _check_records(built, Judging(monitor, mode))
        return [] if built.trainer.is_global_zero else None


def _check_records(built: Built, judging: Judging) -> None:
    """Refuse, by one batch, a metric that children will not record, or one in percent."""
    split_of(built.model, built.datamodule)  # refuses a module that cannot be evaluated
    logged: dict[str, float] = {}
    for split in ("test", "val"):
        try:
            logged |= _logged(built, split, judging)
        except Exception as error:
            from lightning_lottery.children.cli import mistake_in  # the parser takes long to import

            if mistake_in(error) is not None:
                raise
            # Children evaluate what they have trained, in the process that trained it, where this may go well: the
            # module may ask its optimizers, or what its training has left in it.
            tried = "The test" if split == "test" else "Validation"
            rank_zero_info(f"{tried} is not tried, as outside of a fit it raises {type(error).__name__}: {error}")
            return
        if judging.monitor in logged:
            break
    check_monitor([logged], judging)


def _logged(built: Built, split: Literal["val", "test"], judging: Judging) -> dict[str, float]:
    """What a child would record of its test or of its validation, on one batch, or on some more where that is 0."""
    model, trainer = built.model, built.trainer
    source: Any = model if built.datamodule is None else built.datamodule
    run = trainer.test if split == "test" else trainer.validate
    logged: dict[str, float] = {}
    if is_overridden(step_name(split), model) and is_overridden(f"{split}_dataloader", source):
        limit = getattr(trainer, f"limit_{split}_batches")
        for batches in (1, 1 + FURTHER):
            setattr(trainer, f"limit_{split}_batches", at_most(limit, batches))
            try:
                run(model, datamodule=built.datamodule, verbose=False)
            except Exception:  # of a single batch a metric may not be defined
                if batches > 1:
                    raise
                continue
            logged = {name: float(value) for name, value in trainer.callback_metrics.items() if is_recorded(name)}
            if judging.mode == "min" or logged.get(judging.monitor) != 0:
                break
    return logged
