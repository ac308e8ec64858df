"""Runs that are killed, also while they write, end as unbroken ones; the laws of every callback: `test_contract.py`."""

import os
import sys
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from fsspec.core import url_to_fs
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from helpers.callbacks import CALLBACKS
from helpers.processes import TESTS, run
from helpers.projects import Batches, Odd, fit, plain_loader, says
from helpers.states import KeepEveryResume, ending, same
from lightning_lottery import ExactResume, LotteryError


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


class Dies(Callback):
    """The night's power cut, after some step has been logged."""

    lottery_order = 3

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.logger.experiment.flush()
            raise RuntimeError("power cut")


@pytest.mark.parametrize("step", [3, 4, 8, 9])
def test_curves_of_a_resumed_run_equal_the_unbroken_runs(step, tmp_path):
    def logger(folder, **arguments):
        return TensorBoardLogger(tmp_path / folder, name="", version="", default_hp_metric=False, **arguments)

    keep = KeepEveryResume(tmp_path / "broken", tmp_path / "points")
    fit(tmp_path / "whole", CALLBACKS["PLATON"](), ExactResume(), logger=logger("whole"))
    with pytest.raises(RuntimeError, match="power cut"):
        fit(
            tmp_path / "broken",
            CALLBACKS["PLATON"](),
            ExactResume(interval=1),
            keep,
            Dies(step + 2),
            logger=logger("broken"),
        )
    point = tmp_path / "points" / f"{step}.ckpt"
    fit(tmp_path / "broken", CALLBACKS["PLATON"](), ExactResume(), logger=logger("broken", purge_step=step), ckpt=point)
    assert scalars(tmp_path / "broken") == scalars(tmp_path / "whole")


@pytest.mark.parametrize("kills", [6])
def test_a_run_killed_at_random_moments_ends_as_the_unbroken_one_and_leaves_no_half_file(kills, tmp_path):
    device = next((path for path in ("/dev/shm", "/run") if os.access(path, os.W_OK)), str(tmp_path))
    assert os.stat(device).st_dev != os.stat(tmp_path).st_dev or device == str(tmp_path)
    script = TESTS / "helpers" / "kills.py"
    with TemporaryDirectory(dir=device) as elsewhere:
        done = run(sys.executable, str(script), str(tmp_path / "run"), str(kills), TMPDIR=elsewhere)
        assert done.returncode == 0 and done.stdout.endswith("ok\n"), done.stderr[-3000:]
        assert not [path for path in Path(elsewhere).rglob("*") if path.is_file()]
    assert not list(tmp_path.rglob("*.partial"))


class SaysAll(Batches):
    """Says "n of n" where an epoch is over."""

    def state_dict(self):
        return {"batch": self._next}


class CountsEpochs:
    """Knows its epoch by itself, and that a new one begins when it is iterated over anew."""

    def __init__(self):
        self.epoch, self.next, self.place = -1, 0, None

    def __len__(self):
        return 4

    def state_dict(self):
        return {"epoch": self.epoch, "batch": self.next}

    def load_state_dict(self, state):
        self.place = state["epoch"], state["batch"]

    def __iter__(self):
        (self.epoch, start), self.place = self.place or (self.epoch + 1, 0), None
        batches = Batches()
        batches.set_epoch(self.epoch)
        batches.load_state_dict({"batch": start})
        for self.next, batch in enumerate(batches, start + 1):
            yield batch


class RollsOver(CountsEpochs):
    """Says "0 of n" of the next epoch where one is over."""

    def state_dict(self):
        return {"epoch": self.epoch + (self.next == 4), "batch": self.next % 4}


def torchdata_loader():
    stateful = pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata's StatefulDataLoader is missing")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="'set_vital' is deprecated")  # torchdata 0.11 on a newer torch
        return stateful.StatefulDataLoader(plain_loader().dataset, batch_size=8, shuffle=True)


class TwoLoaders(Odd):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch["long"], batch_idx) + self.loss(batch["short"])


class EpochDiary(Callback):
    def __init__(self):
        self.epochs = []

    def on_train_epoch_start(self, trainer, _):
        self.epochs.append((trainer.current_epoch, trainer.global_step))


LOADERS = {
    "n of n": (Odd, SaysAll, {}),
    "0 of n": (Odd, Batches, {}),
    "its own epochs": (Odd, CountsEpochs, {}),
    "its own epochs, rolled over": (Odd, RollsOver, {}),
    "torchdata": (Odd, torchdata_loader, {}),
    "two, one of which goes round": (TwoLoaders, lambda: {"long": SaysAll(), "short": SaysAll(3, seed=5)}, {}),
    "cut short": (Odd, lambda: SaysAll(batches=6), {"limit_train_batches": 4}),
    "max_steps": (Odd, SaysAll, {"max_steps": 12, "max_epochs": -1}),
}


@pytest.mark.parametrize("validates", [0, 1])
@pytest.mark.parametrize("kind", LOADERS)
def test_no_batch_is_lost_or_repeated_around_an_epochs_end_whatever_a_loader_calls_it(kind, validates, tmp_path):
    module, loader, arguments = LOADERS[kind]

    arguments = {**arguments, "limit_val_batches": validates, "num_sanity_val_steps": 0}

    def live(name, ckpt=None, keeps=False, **more):
        resume, diary = ExactResume(interval=1 if keeps else 100), EpochDiary()
        keep = [KeepEveryResume(tmp_path / name, tmp_path / name / "points")] if keeps else []
        callbacks, ckpt = (resume, diary, *keep), ckpt and tmp_path / ckpt
        torch.manual_seed(0)  # of the module's weights
        fitted = fit(tmp_path / name, *callbacks, module=module(), train=loader(), ckpt=ckpt, **(arguments | more))
        return ending(fitted, resume), diary.epochs

    whole, epochs = live("whole", keeps=True)
    assert whole["step"] == 12 and epochs == [(0, 0), (1, 4), (2, 8)]
    resumed = live("second", "whole/points/4.ckpt", keeps=True)
    assert same(resumed[0], whole) and resumed[1] == epochs[1:]
    for ckpt in ("whole/points/5.ckpt", "second/points/6.ckpt", "second/points/8.ckpt"):  # the last two: killed again
        resumed = live("later", ckpt)
        assert same(resumed[0], whole) and resumed[1] == epochs[2:], ckpt
    # A fit that is over is prolonged: from a checkpoint of its last step, and from one of its end.
    prolonged = {"max_steps": 16} if "max_steps" in arguments else {"max_epochs": 4}
    longer = live("longer", **prolonged)[0]
    for folder in ("whole", "later"):
        resumed = live("prolonged", f"{folder}/resume.ckpt", **prolonged)
        assert same(resumed[0], longer) and resumed[1] == [(3, 12)], folder


@pytest.mark.parametrize("point", [4, 8])
def test_a_plain_shuffled_loader_goes_on_exactly_from_an_epochs_end(point, tmp_path):
    def live(name, ckpt=None):
        resume, keep = ExactResume(interval=1), KeepEveryResume(tmp_path / name, tmp_path / "points")
        train = plain_loader(shuffle=True)
        return ending(fit(tmp_path / name, resume, keep, train=train, limit_val_batches=0, ckpt=ckpt), resume)

    whole = live("whole")
    with says("The training loader .DataLoader. cannot go on in the middle of an epoch", times=1):
        assert same(live("resumed", ckpt=tmp_path / "points" / f"{point}.ckpt"), whole)


def test_a_loader_without_a_length_is_said_to_be_read_ahead(tmp_path):
    class Endless(SaysAll):
        __len__ = None

        def __iter__(self):
            return iter(Batches())

    fit(tmp_path, ExactResume(interval=6), train=Endless(), limit_val_batches=0, max_steps=6)
    with says("The training loader .Endless. cannot go on in the middle of an epoch", times=1):
        fit(tmp_path, ExactResume(), train=Endless(), limit_val_batches=0, ckpt=tmp_path / "resume.ckpt")


def test_a_checkpoint_of_before_there_were_names_resumes_bit_for_bit(tmp_path):
    whole, keep = ExactResume(interval=1), KeepEveryResume(tmp_path / "whole", tmp_path / "points")
    expected = ending(fit(tmp_path / "whole", whole, keep), whole)
    path = tmp_path / "points" / "6.ckpt"
    saved = torch.load(path, weights_only=True)
    assert saved["callbacks"]["ExactResume"] == {"step": 6, "seen": 6, "scale": None}  # its key and form, since ever
    resumed = ExactResume(interval=1)
    assert same(ending(fit(tmp_path / "again", resumed, ckpt=path), resumed), expected)
    named = ExactResume(interval=5, name="rare")  # has no state there: begins with this fit, at its step
    fit(tmp_path / "named", named, ckpt=path)
    assert named.clock.step == 12 and (tmp_path / "named" / "resume-rare.ckpt").is_file()


def test_two_of_different_names_write_a_file_each(tmp_path):
    fit(tmp_path, ExactResume(interval=2), ExactResume(interval=3, name="rare"), max_epochs=1)
    assert {path.name for path in tmp_path.glob("*.ckpt")} >= {"resume.ckpt", "resume-rare.ckpt"}
    assert "ExactResume.rare" in torch.load(tmp_path / "resume-rare.ckpt")["callbacks"]


@pytest.mark.parametrize("where", ["here", "under a URL"])
def test_what_ends_a_fit_is_told_as_it_is_and_the_checkpoint_before_stays(where, tmp_path):
    class PowerCut(Callback):
        def on_train_batch_start(self, trainer, *_):
            if trainer.global_step == 3:
                raise RuntimeError("power cut")

    root = str(tmp_path) if where == "here" else f"memory://{tmp_path.name}"
    savers = ExactResume(interval=1), ExactResume(interval=3, name="rare")
    with pytest.raises(RuntimeError, match="power cut"):
        fit(root, *savers, PowerCut())
    system, inner = url_to_fs(root)
    assert [Path(path).name for path in system.find(inner)] == ["resume.ckpt"]
    with system.open(f"{inner}/resume.ckpt") as file:
        assert torch.load(file, weights_only=True)["global_step"] == 2


def test_a_name_that_is_no_file_name_is_refused():
    with pytest.raises(LotteryError, match="must be a plain word"):
        ExactResume(name="a/b")
