"""Recipes small enough to run in a test, children that run in this process, and deaths at a chosen step."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

import lightning_lottery.zoo  # noqa: F401 (its classes answer to their short names once imported)
from lightning_lottery.children.child import Child
from lightning_lottery.children.environment import RESUME_FROM
from lightning_lottery.command.main import main
from lightning_lottery.units.groups import groups_of
from lightning_lottery.zoo import vit

NO_ATTENTION = {"exclude": ["*attention*", "*classifier*"]}  # whose layers would die in so short a fit
RUN = "${oc.env:LOTTERY_RUN}"
STEPS = 12  # of every fit: 3 epochs of 4 batches

NETWORK = {
    "class_path": "lightning_lottery.zoo.vit",
    "init_args": {"hidden_size": 8, "layers": 1, "heads": 2, "mlp_size": 8, "dropout": 0.1},
}


def mlp_layers() -> list[str]:
    """Both layers of the network's MLP: transformers 5 calls them otherwise than 4 did."""
    (group,) = (group for group in groups_of(vit(**NETWORK["init_args"])).values() if group.kind == "neuron")
    return [f"network.{part.parameter}".removesuffix(".weight") for part in (group.producers[0], *group.consumers)]


def fit(*callbacks: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The YAML of a fit of twelve optimizer steps that saves its state at every second one."""
    return {
        "seed_everything": 0,
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": 3,
            "limit_val_batches": 1,
            "limit_test_batches": 1,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [named("ExactResume", interval=2), named("helpers.stages.DiesAt"), *callbacks],
        },
        "model": named("ImageClassifier", network=NETWORK, lr=0.01),
        "data": named("Digits", batch_size=8, limit=32),
        **more,
    }


def config(content: dict[str, Any], name: str = "fit.yaml") -> str:
    """Write a YAML into the working directory, and give its name."""
    with open(name, "w") as file:
        yaml.safe_dump(content, file)
    return name


def named(class_path: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": class_path, "init_args": init_args}


def platon(**more: Any) -> dict[str, Any]:
    return named("PLATON", **{"sparsity": 0.5, "interval": 2, "begin": 2, "end": 8, "scope": NO_ATTENTION, **more})


def freezing(stage: str) -> dict[str, Any]:
    return named("MaskFreezing", ticket=f"{RUN}/{stage}/ticket.safetensors")


def write(folder: Path, stages: dict[str, dict[str, Any]]) -> Path:
    """A recipe folder with these stages."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in stages.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return folder


def in_this_process(child: Child) -> int:
    """What ``run_child`` does, without the seconds that a process of its own takes to import everything."""
    before = dict(os.environ)
    os.environ.pop(RESUME_FROM, None)
    try:
        main(["child", str(child.folder)])
    except SystemExit as exit:
        return int(exit.code or 0)
    finally:
        os.environ.clear()
        os.environ.update(before)
        if torch.distributed.is_initialized():  # a child's ranks end with its process
            torch.distributed.destroy_process_group()
    return 0


class Died(BaseException):
    """Not an ``Exception``: whoever tidies up after mistakes does not see this one."""


class DiesAt(Callback):
    """Ends the fit after the step that ``DIES_AT`` names, or after a batch of its ``test``.

    By the signal that ``DIES_BY`` names, else by ``Died``; on the ranks that ``DIES_ON`` names, such as ``01``, or all.
    """

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._die(trainer, "test")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._die(trainer, str(trainer.global_step))

    def _die(self, trainer: Trainer, now: str) -> None:
        is_here = str(trainer.global_rank) in os.environ.get("DIES_ON", "0123456789")
        if is_here and now == os.environ.get("DIES_AT"):
            for logger in trainer.loggers:
                logger.experiment.flush()  # as it would have been now and then in a longer run
            if by := os.environ.get("DIES_BY"):
                os.kill(os.getpid(), signal.Signals[by])
            else:
                raise Died


class Dies(Callback):
    """Ends a child's fit after a step: ``at`` names the end of the child's folder and the step."""

    at: tuple[str, int] | None = None

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        folder = Path(trainer.default_root_dir).as_posix()
        if Dies.at is not None and folder.endswith(f"/{Dies.at[0]}") and trainer.global_step == Dies.at[1]:
            raise Died


def dies(child: Child, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Train a child that dies after a step, in this process."""
    child.prepare()
    with monkeypatch.context() as patch, pytest.raises(Died):
        patch.setenv("DIES_AT", str(step))
        in_this_process(child)
