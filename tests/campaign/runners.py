"""What starts and follows children, with tiny ones: killed, or asked to end, until it is through."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from pkgutil import walk_packages
from types import SimpleNamespace
from typing import Any, Literal
from unittest import mock

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger  # noqa: F401 (imported here, once for all forks)
from torch.utils.data import DataLoader

import lightning_lottery
from campaign.boards import in_order, scalars, texts_and_layout
from campaign.deaths import After, Death, arm, draw
from campaign.forks import Fork, all_gone, into, none_left_in
from campaign.table import Outcome
from helpers import stages
from helpers.factories import Data, Net
from helpers.projects import plain_loader, trainer
from helpers.stages import named, write
from helpers.states import differences
from lightning_lottery import (
    ExactResume,
    InstabilityAnalysis,
    InstabilitySweep,
    IterativePruning,
    LotteryError,
    Scope,
)
from lightning_lottery.children import environment, processes, warm
from lightning_lottery.children.child import Child
from lightning_lottery.children.cli import resolve
from lightning_lottery.children.factories import FactoryProject
from lightning_lottery.command.main import main
from lightning_lottery.connectivity.report import PathReport
from lightning_lottery.experiments.imp_report import ImpReport
from lightning_lottery.experiments.pictures import draw as drawing
from lightning_lottery.experiments.sweep_report import SweepReport
from lightning_lottery.files import alone_in
from lightning_lottery.hooks.mask_callback import MaskCallback

torch.set_num_threads(1)
for module in walk_packages(lightning_lottery.__path__, "lightning_lottery."):
    if not module.name.endswith("__main__"):
        import_module(module.name)  # once for all forks
Who = Literal["orchestrator", "child", "nursery"]
LIVES = 8
"""Of one run, the last of which nobody ends."""


class LogsMore(Net):
    """Logs at steps and over epochs."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1]))


class WithValidation(Data):
    """Validates as well."""

    def val_dataloader(self) -> DataLoader:
        return plain_loader(16)


def _fit(*callbacks: dict[str, Any], interval: int = 2, **more: Any) -> dict[str, Any]:
    """The YAML of a fit of twelve optimizer steps, with a checkpoint every so many."""
    config = stages.fit(**more)
    config["trainer"]["callbacks"] = [named("ExactResume", interval=interval), *callbacks]
    return {**config, "model": named("campaign.runners.LogsMore"), "data": named("campaign.runners.WithValidation")}


def make_trainer(**arguments: Any) -> Trainer:
    return trainer(arguments["default_root_dir"], ExactResume(interval=2), logger=arguments["logger"])


PROJECT = FactoryProject(LogsMore, WithValidation, make_trainer)
INSTABILITY = InstabilityAnalysis(seeds=(1, 2), alphas=(0, 0.5, 1))
PLATON = named("PLATON", sparsity=0.5, interval=2, begin=2, end=8)
RECIPE = {
    "1-dense.fit": _fit(named("Snapshots", steps=[0])),
    "2-platon.fit": _fit(PLATON),
    "3-ticket.fit": _fit(stages.freezing("2-platon"), ckpt_path=f"{stages.RUN}/1-dense/snapshots/step=0.ckpt"),
    "4-noise.instability": _fit(instability={"seeds": [1, 2], "alphas": [0.0, 0.5, 1.0]}),
    "5-check.test": {**_fit(), "ckpt_path": f"{stages.RUN}/3-ticket/last.ckpt"},
}


def _child() -> None:
    # In each of its lives, as whatever starts children does: the one before may have been ended between two files.
    Child(Path("out"), "fit", resolve(["fit", "--config", "fit.yaml"])).prepare()
    main(["child", "out"])


def _imp() -> None:
    settings = {"levels": 1, "rewind_step": 2, "controls": ["shuffled"], "scope": Scope()}
    IterativePruning(**settings).run(PROJECT, out="out")


def _sweep() -> None:
    settings = {"steps": (0, 4), "parents": (0,), "seeds": (1, 2), "alphas": (0, 0.5, 1)}
    InstabilitySweep(**settings).run(PROJECT, out="out")


COMMANDS: dict[str, Callable[[], object]] = {
    "child": _child,
    "instability": lambda: INSTABILITY.run(PROJECT, out="out"),
    "instability, two at once": lambda: INSTABILITY.run(PROJECT, out="out", jobs=2),
    "imp": _imp,
    "sweep": _sweep,
    "run": lambda: main(["run", "recipe", "--out", "out"]),
}
"""What a user runs, in a folder that ``prepare`` has filled."""

WARM = ", warm children"
COMMANDS[f"instability, two at once{WARM}"] = COMMANDS["instability, two at once"]


def fewer(runner: str, tries: int) -> int:
    """How often to try it: a quarter as often where every life imports everything anew, to fork warm children."""
    return tries // 4 if runner.endswith(WARM) else tries


def prepare(folder: Path) -> None:
    """Write what commands read."""
    folder.mkdir(parents=True)
    write(folder, {"fit": _fit(PLATON, interval=5)})
    write(folder / "recipe", RECIPE)


@dataclass(frozen=True)
class Life:
    """One life of a command.

    Args:
        runner: Which.
        folder: Where it works.
        death: How it ends before its time.
        who: Who dies: the command's own process, a child that it has started, or what warm children are forked from.
    """

    runner: str
    folder: Path
    death: Death | None = None
    who: Who = "orchestrator"

    def run(self) -> tuple[int, bool]:
        """The exit code, or minus the signal that ended it; whether the signal, where there is one, met somebody."""
        for noted in ("children", "nursery"):
            (self.folder / noted).unlink(missing_ok=True)
        met = True
        with into(self.folder / "output") as output, Fork(self._live, stdout=output, stderr=subprocess.STDOUT) as fork:
            if isinstance(self.death, After):
                time.sleep(self.death.seconds)
                met = self._send(fork, self.death.number)
            return fork.wait(timeout=120), met

    def _send(self, fork: Fork, number: int) -> bool:
        """Send a signal to the command, to the newest of its children that runs, or to their nursery."""
        if self.who == "orchestrator":
            fork.send_signal(number)
            return fork.returncode is None
        for pid in reversed(_read_pids(self.folder / ("nursery" if self.who == "nursery" else "children"))):
            try:
                if os.getpgid(pid) != fork.pid:  # it is gone, and another process has its number
                    continue
                os.kill(pid, number)
                return True
            except ProcessLookupError:
                continue
        return False

    def _live(self) -> None:
        os.setpgid(0, 0)  # its children are known by it
        os.chdir(self.folder)
        arm(self.death if self.who == "orchestrator" else None)
        started = SimpleNamespace(Popen=self._start_child, PIPE=subprocess.PIPE, STDOUT=subprocess.STDOUT)
        if self.runner.endswith(WARM):
            os.environ.pop(environment.WARM)
            starting = mock.patch.object(processes, "fork", _noted(processes.fork))
        else:
            starting = mock.patch.object(processes, "subprocess", started)
        with (
            starting,
            mock.patch("lightning.fabric.utilities.registry.entry_points", cache(entry_points)),
            _without_pictures(),
        ):
            _as_a_script(COMMANDS[self.runner])

    def _start_child(self, command: list[str], env: dict[str, str], **streams: Any) -> Fork:
        def do() -> None:
            arm(self.death if self.who == "child" else None)
            main(command[3:])  # without `python -m lightning_lottery`

        fork = Fork(do, env=env, **streams)
        _note("children", fork.pid)
        return fork


def _noted(start: Callable[..., Any]) -> Callable[..., Any]:
    """Have it noted who is started, and by what: children are no forks of this process."""

    def call(*arguments: Any, **named: Any) -> Any:
        child = start(*arguments, **named)
        assert child is not None, "a warm child was started cold"
        _note("children", child.pid)
        _note("nursery", warm._started._process.pid)
        return child

    return call


def _note(file: str, pid: int) -> None:
    with open(file, "a") as pids:
        pids.write(f"{pid}\n")


def _as_a_script(command: Callable[[], object]) -> None:
    try:
        command()
    except LotteryError as error:
        raise SystemExit(str(error)) from error


@contextmanager
def _without_pictures() -> Iterator[None]:
    """They take most of the time, and are looked at elsewhere."""
    with ExitStack() as patches:
        for report in (PathReport, SweepReport, ImpReport):
            patches.enter_context(mock.patch.object(report, "figures", lambda _: {}))
        patches.enter_context(mock.patch.object(drawing, "draw_recipe", lambda *_: drawing.Drawn()))
        patches.enter_context(mock.patch.object(MaskCallback, "_write_pictures", lambda *_: None))
        yield


def _read_pids(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def leavings(folder: Path) -> dict[str, Any]:
    """All that a finished command leaves, in a form that equal runs have alike."""
    out = folder / "out"
    texts = [*out.rglob("results.jsonl"), *out.rglob("report.json"), *out.rglob("summary.json"), *out.rglob("*.csv")]
    checkpoints = {path: torch.load(path, weights_only=True) for path in sorted(out.rglob("*.ckpt"))}
    boards = {path.parent for path in out.rglob("events.out.tfevents.*")}
    return {
        # What these hold is the hashes of files, and equal checkpoints need not be equal bytes.
        "done": sorted(str(path.relative_to(out)) for path in out.rglob("done")),
        "records and reports": _by_name(out, texts, Path.read_text),
        "tickets": _by_name(out, out.rglob("*.safetensors"), Path.read_bytes),
        "checkpoints": {
            str(path.relative_to(out)): {
                name: saved.get(name) for name in ("global_step", "state_dict", "optimizer_states")
            }
            for path, saved in checkpoints.items()
        },
        "curves": _by_name(out, boards, scalars),
        "texts": _by_name(out, boards, texts_and_layout),
        "half-written files": [str(path) for path in out.rglob(".*.partial")],
        "stale locks": [str(path) for path in out.rglob(".lock") if not _is_free(path)],
    }


def _by_name(root: Path, paths: Iterable[Path], read: Callable[[Path], Any]) -> dict[str, Any]:
    return {str(path.relative_to(root)): read(path) for path in sorted(paths)}


def _is_free(lock: Path) -> bool:
    try:
        with alone_in(lock.parent):
            return True
    except ValueError:
        return False


@dataclass
class Campaign:
    """Runs of one command, whose lives end before their time, beside the unbroken one."""

    runner: str
    folder: Path
    chance: random.Random
    expected: dict[str, Any] = field(init=False)
    seconds: float = field(init=False)

    def __post_init__(self) -> None:
        unbroken = self.folder / "unbroken"
        prepare(unbroken)
        begin = time.monotonic()
        code, _ = Life(self.runner, unbroken).run()
        self.seconds = time.monotonic() - begin
        assert code == 0, (unbroken / "output").read_text()[-3000:]
        self.expected = leavings(unbroken)

    def run(
        self, number: int, draw_life: Callable[[Path], Life], mistakes: Callable[[Life, int], list[str]]
    ) -> Outcome:
        """Break so many lives, and see what their runs leave in the end.

        Args:
            number: Of lives that end before their time.
            draw_life: Draws one, in a folder.
            mistakes: What was wrong with a life that ended with this exit code.
        """
        outcome = Outcome(tried=0, failures=[])
        while outcome.tried < number:
            broken = self.folder / "broken"
            prepare(broken)
            cut, failures, history = 0, list[str](), list[str]()
            for turn in range(LIVES):
                is_last = turn == LIVES - 1 or outcome.tried + cut == number
                life = Life(self.runner, broken) if is_last else draw_life(broken)
                with none_left_in(broken, 20, failures), all_gone(20, failures):
                    code, met = life.run()
                in_order(broken, turn)
                history.append(f"{life.who} {life.death}: {code}")
                if code == 0:
                    break
                if life.death is None or not met:
                    failures.append(f"exit code {code}")
                    break
                cut += 1
                failures += mistakes(life, code)
            if not failures:
                failures += differences(self.expected, leavings(broken))
            if failures:
                failures.append((broken / "output").read_text()[-3000:])
            outcome = outcome.with_(cut, failures, f"{self.runner}: {history}")
            shutil.rmtree(broken)
        return outcome


def _drawn(runner: str, chance: random.Random) -> Who:
    if runner == "child":
        return "orchestrator"
    some: list[Who] = ["orchestrator", "child"]
    return chance.choice([*some, "nursery"] if runner.endswith(WARM) else some)


def kills(runner: str, number: int, folder: Path) -> Outcome:
    """Kill a command or its children so many times."""
    campaign = Campaign(runner, folder, random.Random(f"kills of {runner} {number}"))

    def draw_life(broken: Path) -> Life:
        chance = campaign.chance
        who = _drawn(runner, chance)
        if runner.endswith(WARM) and who != "orchestrator":  # no fork of this process: it cannot be armed
            return Life(runner, broken, After(chance.uniform(0, campaign.seconds)), who)
        return Life(runner, broken, draw(chance, campaign.seconds, writes=8), who)

    return campaign.run(number, draw_life, lambda life, code: [])


SENTENCES = "he same command goes on from here", "interrupted."
"""One of which whoever ends by itself says; the second where there is nothing to go on from yet."""


def signals(runner: str, number: int, folder: Path) -> Outcome:
    """Ask a command or its children to end so many times, by each signal."""
    campaign = Campaign(runner, folder, random.Random(f"signals to {runner} {number}"))

    def draw_life(broken: Path) -> Life:
        chance = campaign.chance
        (broken / "output").unlink(missing_ok=True)
        who = _drawn(runner, chance)
        asked = chance.choice((signal.SIGTERM, signal.SIGINT, signal.SIGUSR1))
        return Life(runner, broken, After(chance.uniform(0, campaign.seconds), asked), who)

    def mistakes(life: Life, code: int) -> list[str]:
        output = (life.folder / "output").read_text()
        if code > 0 and not any(sentence in output for sentence in SENTENCES):
            return [f"exit code {code} without a sentence"]
        return ["a traceback"] if "Traceback" in output else []

    return campaign.run(number, draw_life, mistakes)
