"""Checkpoints that are whole or absent, and the callbacks that write them at optimizer steps."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.fabric.utilities.data import AttributeDict
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.plugins.io import AsyncCheckpointIO, CheckpointIO
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.serialization import get_unsafe_globals_in_checkpoint

from lightning_lottery.errors import LotteryError
from lightning_lottery.files import Location, location, remove_leftovers, written_whole
from lightning_lottery.hooks.clock import StepClock, put_in_order
from lightning_lottery.hooks.loggers import folder_of
from lightning_lottery.hooks.named import NamedCallback
from lightning_lottery.hooks.private import saves_folders
from lightning_lottery.hooks.resuming import reading_state
from lightning_lottery.hooks.strategies import refuse_other_sharding


class SavingCallback(NamedCallback):
    """Counts optimizer steps, keeps the count in checkpoints, and writes checkpoints into the run's folder."""

    # After the callbacks that make masks (1): what is saved holds what they have made of this step.
    lottery_order: ClassVar[int] = 2

    def __init__(self, name: str | None) -> None:
        super().__init__(name)
        self.clock = StepClock()
        self._is_fitting = True

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        put_in_order(self, trainer)
        self._is_fitting = stage == TrainerFn.FITTING
        if not self._is_fitting:
            return
        refuse_other_sharding(trainer, self.label)
        if trainer.global_step == 0:
            self._reset()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        target = folder_of(trainer) / self.file.format(step="K")  # collective: asked for on every rank
        if trainer.is_global_zero:  # here, and where the run that this one goes on from was killed
            for path in (target, *([location(trainer.ckpt_path)] if trainer.ckpt_path else [])):
                if isinstance(path, Path):
                    remove_leftovers(path.parent)
        savers = [c for c in trainer.callbacks if isinstance(c, SavingCallback)]  # type: ignore[attr-defined]
        is_plain = any(isinstance(c, PlainHyperparameters) for c in trainer.callbacks)  # type: ignore[attr-defined]
        if trainer.ckpt_path is None and savers[:1] == [self] and not is_plain:
            self._say_what_does_not_load(trainer, target)

    def _reset(self) -> None:
        self.clock.reset()

    def state_dict(self) -> dict[str, Any]:
        return dict(self.clock.state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._is_fitting:
            with reading_state(self.label):
                self.clock.load_state_dict(state_dict)

    @property
    def file(self) -> str:
        """What it writes in the run's folder; ``{step}`` stands for the optimizer step."""
        raise NotImplementedError

    def save(self, trainer: Trainer) -> None:
        """Save a whole checkpoint in the run's folder; nothing in a fast_dev_run. Collective."""
        folder = folder_of(trainer)  # collective: asked for on every rank
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            save_whole(trainer, folder / self.file.format(step=self.clock.step))

    def _say_what_does_not_load(self, trainer: Trainer, target: Location) -> None:
        if names := untrusted_hyperparameters(trainer):
            rank_zero_warn(
                f"The hyper-parameters {', '.join(names)}, which this run's checkpoints hold, are modules or of other "
                "classes that torch loads only where asked to: resume by "
                f"trainer.fit(..., ckpt_path='{target}', weights_only=False), or leave them out by "
                f"save_hyperparameters(ignore={names})."
            )


class PlainHyperparameters(Callback):
    """Leaves out of all checkpoints of a fit the hyper-parameters with which they would not load as plain values.

    To go on with a fit takes none: they only say how ``load_from_checkpoint`` builds the module.
    """

    def __init__(self) -> None:
        self.left_out: list[str] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find them, before any checkpoint is written."""
        self.left_out = untrusted_hyperparameters(trainer)
        if self.left_out:
            named = ", ".join(f"{name}=..." for name in self.left_out)
            rank_zero_info(
                f"Checkpoints leave out the hyper-parameters {', '.join(self.left_out)}, which are modules or of other "
                f"classes: load_from_checkpoint(path, {named}) builds the module."
            )

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Leave them out, of the module and of the data."""
        for part in (LightningModule, LightningDataModule):
            values = checkpoint.get(part.CHECKPOINT_HYPER_PARAMS_KEY, {})
            if values and self.left_out:
                kept = {name: value for name, value in values.items() if name not in self.left_out}
                checkpoint[part.CHECKPOINT_HYPER_PARAMS_KEY] = kept
                checkpoint.pop(part.CHECKPOINT_HYPER_PARAMS_TYPE, None)  # OmegaConf's own class, no plain one


def untrusted_hyperparameters(trainer: Trainer) -> list[str]:
    """Names of hyper-parameters, of module and data, with which a checkpoint loads only with ``weights_only=False``.

    Raises:
        LotteryError: One cannot be saved at all.
    """
    parts = [part for part in (trainer.lightning_module, trainer.datamodule) if part is not None]  # type: ignore[attr-defined]
    names = dict[str, None]()  # in their order, each once
    for part in parts:
        for name, value in part.hparams.items():
            file = BytesIO()
            try:
                torch.save(value, file)
            except Exception as error:  # whatever a value's own way to be pickled raises
                raise LotteryError(
                    f"The hyper-parameter '{name}' of {type(part).__name__} cannot be saved in a checkpoint ({error}): "
                    f"leave it out by save_hyperparameters(ignore=['{name}'])."
                ) from error
            file.seek(0)
            # A configuration of OmegaConf is saved as one, whatever is in it.
            if get_unsafe_globals_in_checkpoint(file) or not isinstance(part.hparams, AttributeDict):
                names[name] = None
    return list(names)


def save_whole(trainer: Trainer, path: Location) -> None:
    """Save a checkpoint so that no reader ever sees a part of it; it is there on return. Collective: on every rank.

    Raises:
        LotteryError: It cannot be written.
    """
    with saved_whole(trainer, path):
        pass
    trainer.strategy.barrier()  # no rank goes on, and maybe ends, before the file has its name


@contextmanager
def saved_whole(trainer: Trainer, path: Location) -> Iterator[None]:
    """Save a checkpoint at the block's beginning; it takes its name at the end. Collective: on every rank.

    The Trainer's plugin writes it, but an asynchronous one is passed by: by the one that it wraps, at once.

    Raises:
        LotteryError: It cannot be written.
    """
    strategy = trainer.strategy
    if saves_folders(trainer):
        with _saved_folder(trainer, path):
            yield
        return
    plugin = strategy.checkpoint_io
    with ExitStack() as unnamed:
        strategy.checkpoint_io = _WholeIO(plugin, unnamed)
        try:
            # Every rank takes part in collecting the states, only the first one writes a file.
            trainer.save_checkpoint(str(path), weights_only=False)
        finally:
            strategy.checkpoint_io = plugin
        yield


@contextmanager
def _saved_folder(trainer: Trainer, path: Location) -> Iterator[None]:
    """The same of a checkpoint that is a folder: one of two beside ``path``, which becomes a link to it.

    No system call puts a folder in the place of another, but one puts a link in the place of a link.
    """
    if not isinstance(path, Path):
        raise LotteryError(f"Under {type(trainer.strategy).__name__} checkpoints are folders, and '{path}' is a URL.")
    newest = os.readlink(path) if path.is_symlink() else ""
    number = trainer.strategy.broadcast(0 if newest.endswith(".1") else 1)
    folder, link = path.with_name(f".{path.name}.{number}"), path.with_name(f".{path.name}.link")
    if trainer.is_global_zero:
        shutil.rmtree(folder, ignore_errors=True)  # the last but one, or a part that a killed run left
    trainer.strategy.barrier()
    from torch.distributed.checkpoint.api import CheckpointException  # all of it takes long to import

    try:
        trainer.save_checkpoint(str(folder), weights_only=False)  # with a barrier at its end
    except (OSError, CheckpointException) as error:  # the latter is no Exception
        raise _not_written(path, error) from error
    yield
    if not trainer.is_global_zero:
        return
    try:
        for file in folder.iterdir():
            with open(file, "rb") as written:
                os.fsync(written.fileno())  # else a crash after the switch may leave empty files
        if path.is_dir() and not path.is_symlink():  # of a run that was copied without its links
            os.replace(path, path.with_name(f".{path.name}.copy"))
        link.unlink(missing_ok=True)
        link.symlink_to(folder.name, target_is_directory=True)
        os.replace(link, path)
        shutil.rmtree(path.with_name(f".{path.name}.copy"), ignore_errors=True)
    except OSError as error:
        raise _not_written(path, error) from error


def _not_written(path: Path, error: BaseException) -> LotteryError:
    # What stopped one of the ranks that write shards, raised on all of them, is inside of another exception.
    why, *_ = next(iter(getattr(error, "failures", {}).values()), (error,))
    return LotteryError(f"The checkpoint '{path}' could not be written: {getattr(why, 'strerror', None) or why}.")


class _WholeIO(TorchCheckpointIO):
    """Writes as another plugin would; the file takes its name, whole, when ``unnamed`` is closed.

    Lightning's own plugin is not asked to: it writes into the temporary folder, where a kill leaves the file for ever,
    and a move to another file system shows the target in parts (2.6.6).
    """

    def __init__(self, plugin: CheckpointIO, unnamed: ExitStack) -> None:
        self.unnamed = unnamed
        while isinstance(plugin, AsyncCheckpointIO) and plugin.checkpoint_io is not None:
            plugin = plugin.checkpoint_io
        self.plugin = plugin

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        target = location(path)
        is_torch = type(self.plugin) is TorchCheckpointIO
        if not is_torch and not isinstance(target, Path):
            self._save_by_plugin(checkpoint, path, storage_options)
            return
        file = self.unnamed.enter_context(written_whole(target, "checkpoint"))
        with _full_disks_as_such():
            if is_torch:
                torch.save(checkpoint, file)
            else:
                self._save_by_plugin(checkpoint, file.name, storage_options)
                if not os.path.getsize(file.name):
                    raise OSError(f"{type(self.plugin).__name__} returns before it has written it")

    def _save_by_plugin(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any) -> None:
        self.plugin.save_checkpoint(checkpoint, path, storage_options)
        inner: Any = self.plugin
        while (inner := getattr(inner, "checkpoint_io", None)) is not None:
            if isinstance(inner, AsyncCheckpointIO):
                inner.teardown()  # waits until it is written


@contextmanager
def _full_disks_as_such() -> Iterator[None]:
    """Raise the failed write itself, not the RuntimeError of torch's zip writer, which stumbles over what it left."""
    try:
        yield
    except RuntimeError as error:
        raise error.__context__ if isinstance(error.__context__, OSError) else OSError(str(error)) from error
