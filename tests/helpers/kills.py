"""What `test_exact_resume.py` starts as a script: a run killed again and again at random moments, until it is through.

Usage: kills.py FOLDER KILLS. Imports once and forks, so that each life costs no import. Prints `ok`.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from lightning.pytorch.callbacks import Callback

from helpers.callbacks import CALLBACKS
from helpers.projects import Odd, fit
from helpers.states import ending, same
from lightning_lottery import ExactResume

torch.set_num_threads(1)
FOLDER, KILLS = Path(sys.argv[1]), int(sys.argv[2])
RESUME = FOLDER / "resume.ckpt"


class Diary(Callback):
    """Writes down each step that is over, as the next one begins."""

    lottery_order = 3

    def on_train_batch_start(self, trainer, *_):
        with open(FOLDER / "diary", "a") as file:
            file.write(f"{trainer.global_step}\n")
        time.sleep(0.05)


def live() -> None:
    """One life: to the end, unless killed."""
    callback = CALLBACKS["PLATON"]()
    torch.manual_seed(0)
    module = Odd(wide=300)  # checkpoints large enough that kills fall into their writing
    trainer = fit(
        FOLDER, callback, ExactResume(interval=1), Diary(), module=module, ckpt=RESUME if RESUME.exists() else None
    )
    torch.save(ending(trainer, callback), FOLDER / "ending.partial")
    os.replace(FOLDER / "ending.partial", FOLDER / "ending")


def die_in_a_write() -> None:
    """One life that ends in the middle of its third checkpoint."""
    save, saved = torch.save, []

    def half(content: object, file: object) -> None:
        if isinstance(content, dict) and "state_dict" in content:
            saved.append(True)
        if len(saved) == 3:
            file.write(b"half")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        save(content, file)

    torch.save = half
    live()


FOLDER.mkdir(exist_ok=True)
if (child := os.fork()) == 0:
    die_in_a_write()
assert os.waitpid(child, 0)[1] == signal.SIGKILL
assert torch.load(RESUME, weights_only=True)["global_step"] == 2
assert [path.read_bytes() for path in FOLDER.glob(".*.partial")] == [b"half"]
chance = random.Random(0)
kills = 0
while not (FOLDER / "ending").exists():
    if (child := os.fork()) == 0:
        live()
        os._exit(0)
    if kills < KILLS:
        time.sleep(chance.uniform(0.1, 0.4))
        os.kill(child, signal.SIGKILL)
        kills += 1
    os.waitpid(child, 0)
    if RESUME.exists():
        step = torch.load(RESUME, weights_only=True)["global_step"]  # never torn
        over = (
            [int(line) for line in (FOLDER / "diary").read_text().splitlines()] if (FOLDER / "diary").exists() else []
        )
        assert not over or step >= over[-1], "a step was lost that was over"
assert kills >= KILLS // 2, f"only {kills} kills before the end: slow the steps down"
if (child := os.fork()) == 0:
    FOLDER = FOLDER / "unbroken"
    RESUME = FOLDER / "none"
    FOLDER.mkdir()
    live()
    os._exit(0)
os.waitpid(child, 0)
load = [torch.load(folder / "ending", weights_only=True) for folder in (FOLDER, FOLDER / "unbroken")]
assert same(*load), "the killed run ends elsewhere"
sys.stdout.write("ok\n")
