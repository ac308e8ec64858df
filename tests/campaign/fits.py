"""A fit under each callback, killed again and again until it is through, beside the unbroken one."""

import json
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger

from campaign.boards import in_order, scalars
from campaign.deaths import After, Death, arm, draw
from campaign.forks import Fork, all_gone, into
from campaign.table import Outcome
from helpers.blocks import Blocks
from helpers.callbacks import CALLBACKS
from helpers.projects import Odd, fit
from helpers.states import differences
from lightning_lottery import EarlyBird, ExactResume, HammingFIFO, NetworkSlimming, Snapshots
from lightning_lottery.hooks.private import batches_that_stepped_in

torch.set_num_threads(1)

LIVES = 8
"""Of one run, the last of which is not killed."""

SAVES = 1, 2, 3
"""Optimizer steps between checkpoints: each run has one of these numbers."""


class LogsMore(Odd):
    """Logs at steps, over epochs, and the largest of an epoch."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("both", loss, on_step=True, on_epoch=True)
        self.log("largest", loss, on_step=False, on_epoch=True, reduce_fx="max")
        return loss


def _one(make: Callable[[], Callback]) -> Callable[[], list[Callback]]:
    return lambda: [make()]


def _slimming_and_early_bird() -> list[Callback]:
    return [NetworkSlimming(), EarlyBird([HammingFIFO(2, 0.9, interval=3, min_steps=6)], [0.5])]


SETUPS: dict[str, tuple[Callable[[], Any], Callable[[], list[Callback]]]] = {
    **{name: (LogsMore, _one(make)) for name, make in CALLBACKS.items()},
    "NetworkSlimming and EarlyBird": (Blocks, _slimming_and_early_bird),
    "Snapshots": (LogsMore, lambda: [Snapshots([0, 3, 4, 9, 12])]),
}
"""The module and the callbacks of each; ``ExactResume`` joins them."""


class Lines(DummyLogger):
    """Keeps what it is told until it is to save it, and then writes it below what is there: as a CSV is written."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.rows = path, list[str]()

    def log_metrics(self, metrics, step=None):
        self.rows += [json.dumps([step, name, float(value)]) + "\n" for name, value in metrics.items()]

    def save(self):
        with open(self.path, "a") as file:
            file.write("".join(self.rows))
        self.rows.clear()

    def finalize(self, status):
        self.save()


@dataclass(frozen=True)
class Life:
    """One life of a run: from its newest checkpoint to the end, unless killed."""

    setup: str
    folder: Path
    interval: int
    death: Death | None = None

    def run(self) -> int:
        """The exit code, or minus the signal that ended it."""
        with into(self.folder / "output") as output, Fork(self._live, stdout=output, stderr=subprocess.STDOUT) as fork:
            if isinstance(self.death, After):
                time.sleep(self.death.seconds)
                fork.send_signal(self.death.number)
            return fork.wait(timeout=120)

    def _live(self) -> None:
        arm(self.death)
        resume = self.folder / "resume.ckpt"
        ckpt, purge = None, 0
        if resume.exists():
            ckpt, purge = resume, batches_that_stepped_in(torch.load(resume, weights_only=True)) + 1
        board = TensorBoardLogger(self.folder, name="", version="", default_hp_metric=False, purge_step=purge)
        module, make = SETUPS[self.setup]
        callbacks = make()
        saver = ExactResume(interval=self.interval)
        loggers = [board, Lines(self.folder / "lines")]
        torch.manual_seed(0)
        # Every Trainer reads the entry points of all packages anew: most of a tiny fit.
        with mock.patch("lightning.fabric.utilities.registry.entry_points", cache(entry_points)):
            trainer = fit(self.folder, *callbacks, saver, module=module(), ckpt=ckpt, logger=loggers)
        ending = {
            "weights": trainer.lightning_module.state_dict(),
            "callbacks": [dict(callback.state_dict()) for callback in (*callbacks, saver)],
            "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
            "step": trainer.global_step,
        }
        torch.save(ending, self.folder / "ending")


def leavings(folder: Path) -> dict[str, Any]:
    """All that a run leaves, in a form that equal runs have alike."""
    files = {
        path.name: path.read_bytes() for path in sorted(folder.glob("*")) if path.suffix in (".safetensors", ".csv")
    }
    files |= {
        f"early_bird/{path.name}": path.read_bytes()
        for path in sorted(folder.glob("early_bird/*"))
        if path.suffix != ".png"
    }
    snapshots = {path.name: _saved(path) for path in sorted(folder.glob("snapshots/*"))}
    told = [json.loads(line) for line in (folder / "lines").read_text().splitlines()]
    return {
        "ending": torch.load(folder / "ending", weights_only=True),
        "files": files,
        "snapshots": snapshots,
        "resume.ckpt": _saved(folder / "resume.ckpt"),
        "half-written files": [path.name for path in folder.rglob(".*.partial")],
        "curves": scalars(folder),
        "last lines": dict(sorted((f"{step} {name}", value) for step, name, value in told)),
    }


def _saved(path: Path) -> dict[str, Any]:
    saved = torch.load(path, weights_only=True)
    return {name: saved[name] for name in ("global_step", "epoch", "state_dict", "optimizer_states", "callbacks")}


def _unbroken(setup: str, folder: Path, interval: int) -> tuple[dict[str, Any], float]:
    """What a run leaves that nobody kills, and the seconds that it takes."""
    unbroken = folder / f"unbroken-{interval}"
    unbroken.mkdir(parents=True)
    begin = time.monotonic()
    assert Life(setup, unbroken, interval).run() == 0, (unbroken / "output").read_text()[-3000:]
    return leavings(unbroken), time.monotonic() - begin


def kills(setup: str, number: int, folder: Path) -> Outcome:
    """Kill runs of a set-up so many times, and see what they leave in the end."""
    chance = random.Random(f"{setup} {number}")
    whole = cache(partial(_unbroken, setup, folder))
    outcome = Outcome(tried=0, failures=[])
    while outcome.tried < number:
        broken, interval = folder / "broken", chance.choice(SAVES)
        broken.mkdir()
        expected, duration = whole(interval)
        killed, failures, history = 0, list[str](), list[str]()
        for life in range(LIVES):
            is_last = life == LIVES - 1 or outcome.tried + killed == number
            death = None if is_last else draw(chance, duration, writes=8)
            with all_gone(20, failures):
                code = Life(setup, broken, interval, death).run()
            in_order(broken, life)
            history.append(f"{death}: {code}")
            killed += code == -signal.SIGKILL
            if code == 0:
                break
            if code != -signal.SIGKILL:
                failures.append(f"exit code {code}: {(broken / 'output').read_text()[-2000:]}")
                break
        if not failures:
            failures += differences(expected, leavings(broken))
        outcome = outcome.with_(killed, failures, f"{setup}, a checkpoint every {interval} steps: {history}")
        shutil.rmtree(broken)
    return outcome
