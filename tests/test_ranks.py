"""Laws that need two ranks: real processes over gloo, started as a script and by the command."""

import signal
import sys

import pytest
import torch
import yaml

from helpers import stages
from helpers.callbacks import CALLBACKS, COLUMNS
from helpers.processes import TESTS, run
from helpers.states import same
from lightning_lottery.children.child import Child
from lightning_lottery.children.cli import resolve

TWO_RANKS = "two ranks (`ddp`), resume included"


@pytest.mark.shows(row=TWO_RANKS, column=COLUMNS, cell="yes")
def test_two_ranks_agree_resume_exactly_and_notice_when_they_do_not_agree(tmp_path):
    done = run(sys.executable, str(TESTS / "helpers" / "ranks.py"), str(tmp_path))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.count("ok\n") == 2
    lines = done.stdout.splitlines()
    assert all(lines.count(f"{name} holds the laws") == 2 for name in CALLBACKS), lines


CONFIG = """
seed_everything: 1
model:
  class_path: ImageClassifier
  init_args: {{network: {{class_path: lightning_lottery.zoo.lenet_300_100, init_args: {{inputs: 64}}}}}}
data: {{class_path: Digits, init_args: {{batch_size: 64, limit: 256}}}}
trainer:
  accelerator: cpu
  devices: 2
  strategy: ddp
  max_epochs: 4
  enable_progress_bar: false
  enable_model_summary: false
  default_root_dir: {folder}
  callbacks:
    - class_path: PLATON
      init_args: {{sparsity: {sparsity}, interval: 1}}
"""


def test_the_command_prunes_on_two_ranks(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(CONFIG.format(folder=tmp_path, sparsity=0.9))
    done = run(sys.executable, "-m", "lightning_lottery", "fit", "--config", str(config))
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list(tmp_path.rglob("ticket.safetensors"))) == 1


FAILS = """
import sys
from lightning.pytorch.callbacks import Callback
from helpers.callbacks import CALLBACKS
from helpers.projects import Odd, Batches, trainer

class Fails(Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 6 and trainer.global_rank == 1:
            raise OSError("the disk of rank 1")

if __name__ == "__main__":
    two = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": False}
    trainer(sys.argv[1], CALLBACKS["PLATON"](), Fails(), **two).fit(Odd(), Batches(), Batches(batches=1))
"""


def test_a_rank_that_fails_ends_the_other_with_a_message(tmp_path):
    script = tmp_path / "fails.py"
    script.write_text(FAILS)
    done = run(sys.executable, str(script), str(tmp_path), timeout=120.0)
    assert done.returncode != 0
    assert "the disk of rank 1" in done.stderr


SLIMS = """
import shutil
import sys
from pathlib import Path

import torch
from helpers.blocks import Blocks
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Callback
from lightning_lottery import ADF, EarlyBird, ExactResume, HammingFIFO, NetworkSlimming
from lightning_lottery.files import hash_of_tensors
from helpers.projects import RankBatches, trainer
from helpers.states import KeepEveryResume, ending, same


class Look(Callback):
    def on_train_end(self, trainer, pl_module):
        self.before_folding = {name: value.clone() for name, value in pl_module.state_dict().items()}


def fit(folder, action, *callbacks, ckpt=None):
    seed_everything(1, verbose=False)
    rules = [HammingFIFO(2, 0.9, interval=5, min_steps=10), ADF(0.9, smoothing=1, window=20, interval=10)]
    bird, look = EarlyBird(rules, [0.25, 0.5], at=[7, "random"], action=action), Look()
    two = {"devices": 2, "strategy": "ddp", "max_epochs": 6, "use_distributed_sampler": False}
    fitted = trainer(folder, NetworkSlimming(0.01), bird, look, *callbacks, **two)
    fitted.fit(Blocks(), RankBatches(), RankBatches(batches=1, seed=9), ckpt_path=ckpt)
    assert fitted.world_size == 2 and fitted.global_step == 24
    assert sum("slimming" in name for name in look.before_folding) == 4
    masks = bird.freezing.state_dict() if bird.freezing else None
    return {**ending(fitted, bird), "masks": masks, "before": look.before_folding, "probes": repr(bird.probes)}


def on_both(found):
    mine = [hash_of_tensors(found["weights"]), hash_of_tensors(found["before"]), found["probes"]]
    everyone = [None, None]
    torch.distributed.all_gather_object(everyone, mine)
    return everyone[0] == everyone[1]


if __name__ == "__main__":
    torch.set_num_threads(1)
    for action in ("record", "prune"):
        folder = Path(sys.argv[1]) / action
        keep = KeepEveryResume(folder, folder / "points")
        unbroken = fit(folder, action, ExactResume(interval=1), keep)
        assert on_both(unbroken)
        if torch.distributed.get_rank() == 0:  # who goes on elsewhere takes along what lies beside the checkpoint
            shutil.copytree(folder / "early_bird", folder / "points" / "early_bird")
        torch.distributed.barrier()
        assert any(ticket["from"]["settled"] for ticket in unbroken["callback"]["tickets"].values())
        for step in (3, 12, 17):
            again = fit(folder / str(step), action, ExactResume(), ckpt=folder / "points" / f"{step}.ckpt")
            assert same(again, unbroken), f"{action}: resumed after step {step}"
    sys.stdout.write("ok\\n")
"""


@pytest.mark.shows(row=TWO_RANKS, column="NetworkSlimming", cell="yes")
def test_slimming_and_its_early_birds_resume_exactly_on_two_ranks(tmp_path):
    script = tmp_path / "slims.py"
    script.write_text(SLIMS)
    done = run(sys.executable, str(script), str(tmp_path))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.count("ok\n") == 2


@pytest.fixture(scope="module")
def child_of_two_ranks(tmp_path_factory):
    """Makes a child of two ranks in a folder, which saves its state only where it is asked to; the unbroken one."""
    config = stages.fit(stages.platon())
    config["trainer"] |= {"devices": 2, "strategy": "ddp"}
    config["trainer"]["callbacks"][0] = stages.named("ExactResume", interval=100)
    config["data"] = stages.named("Digits", batch_size=8, limit=64)  # for two ranks as many steps as for one of half

    def make(folder):
        folder.mkdir()
        (folder / "fit.yaml").write_text(yaml.safe_dump(config))
        child = Child(folder / "child", "fit", resolve(["fit", "--config", str(folder / "fit.yaml")]))
        child.prepare()
        return child

    unbroken = make(tmp_path_factory.mktemp("two ranks") / "unbroken")
    assert do(unbroken).returncode == 0 and unbroken.is_done
    return make, unbroken


def do(child, **variables):
    return run(sys.executable, "-m", "lightning_lottery", "child", str(child.folder), **variables)


@pytest.mark.parametrize(
    ("number", "ranks"),
    [
        pytest.param(signal.SIGTERM, "1", id="SIGTERM to the second rank"),
        pytest.param(signal.SIGTERM, "0", id="SIGTERM to the first rank"),
        pytest.param(signal.SIGINT, "01", id="Ctrl-C to both"),
        pytest.param(signal.SIGUSR1, "01", id="SIGUSR1 to both"),
    ],
)
@pytest.mark.parametrize("step", [5, stages.STEPS, "test"])
@pytest.mark.torture  # two processes of two ranks each, and those of the unbroken run
def test_a_signal_to_any_rank_ends_all_at_the_next_step_and_the_child_goes_on(
    child_of_two_ranks, tmp_path, number, ranks, step
):
    make, unbroken = child_of_two_ranks
    child = make(tmp_path / "broken")
    asked = do(child, DIES_AT=str(step), DIES_BY=number.name, DIES_ON=ranks)
    assert not child.is_done and asked.returncode == 128 + (number if "0" in ranks else signal.SIGTERM)
    assert "the same command goes on from here" in asked.stderr and "Traceback" not in asked.stderr
    saved = torch.load(child.folder / "resume.ckpt", weights_only=True)["global_step"]
    assert saved == stages.STEPS if step == "test" else saved in (step, step + 1)
    again = do(child)
    assert again.returncode == 0 and child.is_done, again.stderr[-3000:]
    weights = [torch.load(each.folder / "last.ckpt", weights_only=True)["state_dict"] for each in (child, unbroken)]
    assert same(*weights)
    assert child.records() == unbroken.records()
