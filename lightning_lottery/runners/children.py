"""A child: one training in a folder and a process of its own; done once, resumed when killed, refused when changed."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_lottery.callbacks.base import MaskCallback
from lightning_lottery.callbacks.snapshots import ExactResume, save_whole
from lightning_lottery.errors import LotteryError
from lightning_lottery.runners.fingerprint import differences, hash_of_file, leaves, shown
from lightning_lottery.runners.project import Project, ResolvedProject, without_noise
from lightning_lottery.ticket import write_whole

RESUME_FROM = "LOTTERY_RESUME_FROM"
"""Environment variable by which the first rank tells the others, which start the command anew, where to go on."""


@dataclass(frozen=True)
class Child:
    """A folder and what is to be trained in it.

    Files: ``child.json`` (subcommand and labels), ``config.yaml`` (the resolved configuration), ``resume.ckpt`` while
    it trains, then ``last.ckpt``, ``results.jsonl``, and ``done``, written last, with the fingerprint.

    Args:
        folder: Where everything of it goes.
        command: Lightning's subcommand: fit, validate, test or predict.
        config: The resolved configuration of that subcommand.
        labels: What every row of its records says of it: ``stage``, ``seeds``, ``parent``.
    """

    folder: Path
    command: str
    config: Mapping[str, Any]
    labels: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> "Child":
        """Read back what ``prepare`` wrote.

        Raises:
            LotteryError: The folder holds no child.
        """
        try:
            spec = json.loads((folder / "child.json").read_text())
            config = yaml.safe_load((folder / "config.yaml").read_text())
        except FileNotFoundError as error:
            raise LotteryError(
                f"'{folder}' is not a child's folder: there is no {Path(error.filename).name}."
            ) from error
        return cls(folder, spec["command"], config, spec["labels"])

    def prepare(self) -> None:
        """Write the folder's specification; refuse a folder in which another was trained.

        Raises:
            LotteryError: The folder belongs to a different configuration, or to other input files: the difference;
                or another process is training in it.
        """
        now = self.fingerprint()
        if not self.is_done and not self.is_started:
            self.discard()  # nothing was trained: whatever was asked for before no longer matters
        elif difference := list(differences(self._prepared_fingerprint(), now)):
            raise LotteryError(
                f"'{self.folder}' was made from something else: {shown(difference)}. To run it again, and what "
                f"depends on it: --redo {self.folder.name}"
            )
        text = json.dumps({"command": self.command, "labels": dict(self.labels), "fingerprint": now})
        write_whole(
            self.folder / "config.yaml", yaml.safe_dump(dict(self.config), sort_keys=False).encode(), "configuration"
        )
        write_whole(self.folder / "child.json", text.encode(), "specification")

    def changes(self) -> str:
        """How its configuration differs from the one that was trained in the folder; empty where it does not."""
        if not self.is_done and not self.is_started:
            return ""
        before = self._prepared_fingerprint()
        return shown(list(differences({"config": before["config"]}, {"config": dict(self.config)})))

    @property
    def is_done(self) -> bool:
        """Whether it finished; ``prepare`` has said whether with this configuration."""
        return (self.folder / "done").is_file()

    @property
    def is_started(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return (self.folder / "resume.ckpt").is_file()

    def fingerprint(self) -> dict[str, Any]:
        """The configuration, and the hash of every file that it names."""
        inputs = {path: hash_of_file(Path(path)) for path in self.inputs() if os.path.isfile(path)}
        return {"command": self.command, "config": dict(self.config), "inputs": inputs}

    def inputs(self) -> list[str]:
        """Every string of the configuration: each could be the path of a file."""
        return sorted({value for _, value in leaves(self.config) if isinstance(value, str)})

    def discard(self) -> None:
        """Remove the folder and everything in it.

        Raises:
            LotteryError: Another process is training in it.
        """
        if self.folder.is_dir():
            with _alone_in(self.folder):
                shutil.rmtree(self.folder)

    def records(self) -> list[dict[str, Any]]:
        """The rows it left."""
        return [json.loads(line) for line in (self.folder / "results.jsonl").read_text().splitlines()]

    def _prepared_fingerprint(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "child.json").read_text())["fingerprint"])


def run_child(child: Child) -> int:
    """Run a prepared child by its command, in a process of its own; its exit code, or minus the signal that ended it.

    Ctrl-C reaches the child as well: it is given the time to shut down.
    """
    command = [sys.executable, "-m", "lightning_lottery", "child", str(child.folder)]
    process = subprocess.Popen(command, env={name: v for name, v in os.environ.items() if name != RESUME_FROM})
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise
    finally:
        process.kill()  # where it still runs: a second Ctrl-C


def train_child(folder: Path) -> None:
    """Run the child of a folder in this process: what ``lightning-lottery child DIR`` does.

    Raises:
        LotteryError: The folder holds no child, another process trains it, or its configuration is refused.
    """
    child = Child.load(folder)
    if child.is_done:
        rank_zero_info(f"{folder} is done.")
        return
    is_first_rank = RESUME_FROM not in os.environ
    try:
        with _alone_in(folder), without_noise():
            _train(child)
    finally:
        if is_first_rank:
            os.environ.pop(RESUME_FROM, None)


def _train(child: Child) -> None:
    folder = child.folder
    resume = _newest_that_loads(folder)
    validated = _LastValidation()
    arguments = [child.command, "--config", str(folder / "config.yaml")]

    def trainer_arguments(config: dict[str, Any]) -> dict[str, Any]:
        callbacks = list(config["callbacks"] or [])
        if child.command == "fit":
            callbacks.append(validated)
            if not any(isinstance(callback, ExactResume) for callback in callbacks):
                callbacks.append(ExactResume())
        own = any(isinstance(callback, Checkpoint) for callback in callbacks)
        return {
            "default_root_dir": str(folder),
            "logger": _logger(folder, resume),
            "callbacks": callbacks,
            "enable_checkpointing": config["enable_checkpointing"] if own else False,
        }

    def run(project: Project, command: str) -> None:
        if command == "fit":
            _fit(project, resume)
        else:
            quiet = {"return_predictions": False} if command == "predict" else {"verbose": False}
            checkpoint = project.plain_config()["ckpt_path"]
            getattr(project.trainer, command)(
                project.model, datamodule=project.datamodule, ckpt_path=checkpoint, **quiet
            )
        _finish(child, project, validated.metrics)

    ResolvedProject(arguments, run=run, trainer=trainer_arguments)


def _fit(project: Project, resume: str) -> None:
    trainer, model, data = project.trainer, project.model, project.datamodule
    trainer.fit(model, datamodule=data, ckpt_path=resume or project.plain_config()["ckpt_path"])
    if trainer.interrupted:
        raise KeyboardInterrupt
    save_whole(trainer, Path(trainer.default_root_dir) / "last.ckpt")
    if is_overridden("test_step", model) and (data is None or is_overridden("test_dataloader", data)):
        trainer.test(model, datamodule=data, verbose=False)


class _LastValidation(Callback):
    """What the last validation measured, kept in checkpoints: a fit that goes on from its end validates no more."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take what was measured, before anybody writes a checkpoint."""
        metrics = trainer.callback_metrics.items()
        self.metrics = {name: float(value) for name, value in metrics if name.startswith("val")}

    def state_dict(self) -> dict[str, Any]:
        """The metrics."""
        return {"metrics": dict(self.metrics)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The metrics of the unbroken run so far."""
        self.metrics = dict(state_dict["metrics"])


def _finish(child: Child, project: Project, validated: Mapping[str, float]) -> None:
    """Write the records, then ``done``; the checkpoint to resume from is no longer needed."""
    trainer = project.trainer
    if not trainer.is_global_zero:
        return
    method = next((callback for callback in trainer.callbacks if isinstance(callback, MaskCallback)), None)  # type: ignore[attr-defined]
    row = {
        "stage": child.folder.name,
        "method": type(method).__name__ if method else "dense",
        "parent": None,
        "seeds": [child.config["seed_everything"]],
        "step": trainer.global_step,
        "alpha": None,
        "sparsity": method.sparsity if method else 0.0,
        **child.labels,
    }
    metrics = trainer.callback_metrics.items()
    measured = {name: float(value) for name, value in metrics if name.startswith(("val", "test"))}
    rows = [
        {**row, "metric": name, "value": value, "n": _samples(trainer, name), "device": _device(trainer)}
        for name, value in sorted({"sparsity": row["sparsity"], **measured, **validated}.items())
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    write_whole(child.folder / "results.jsonl", text.encode(), "records")
    write_whole(child.folder / "done", json.dumps(child._prepared_fingerprint()).encode(), "mark")
    (child.folder / "resume.ckpt").unlink(missing_ok=True)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder until this process ends, in whatever way; further ranks enter with the first."""
    if RESUME_FROM in os.environ:
        yield
        return
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LotteryError(f"Another process is training '{folder}': wait for it, or end it.") from error
        yield


def _newest_that_loads(folder: Path) -> str:
    """Path of the checkpoint to go on from, or nothing; decided once, by the rank that runs first."""
    if RESUME_FROM in os.environ:
        return os.environ[RESUME_FROM]
    path = folder / "resume.ckpt"
    try:
        torch.load(path, map_location="meta", weights_only=True)
        resume = str(path)
    except FileNotFoundError:
        resume = ""
    except Exception as error:  # whatever a torn file makes torch raise
        rank_zero_info(f"{path} does not load ({error}): the child begins anew.")
        resume = ""
    os.environ[RESUME_FROM] = resume
    return resume


def _logger(folder: Path, resume: str) -> TensorBoardLogger:
    """Curves straight in the folder; they replace those that a killed run left of the steps still to come."""
    purge = 0
    if resume:
        loops = torch.load(resume, map_location="meta", weights_only=True)["loops"]
        purge = loops["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"] + 1
    return TensorBoardLogger(folder, name="", version="", default_hp_metric=False, purge_step=purge)


def _samples(trainer: Trainer, metric: str) -> int | None:
    """How many samples a metric was averaged over, where the loader knows and was not cut short."""
    split = "test" if metric.startswith("test") else "val"
    dataset = getattr(getattr(trainer, f"{split}_dataloaders"), "dataset", None)
    limit = getattr(trainer, f"limit_{split}_batches")
    return len(dataset) if isinstance(dataset, Sized) and isinstance(limit, float) and limit == 1 else None


def _device(trainer: Trainer) -> str:
    device = trainer.strategy.root_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
