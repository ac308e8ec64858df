"""Files of a run are whole or absent, in a folder or under a URL, whoever writes them and wherever that breaks off."""

import os
import resource
import signal
from pathlib import Path

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFile
from lightning.pytorch import LightningDataModule
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO
from lightning.pytorch.plugins.io.wrapper import _WrappingCheckpointIO
from lightning.pytorch.utilities.seed import isolate_rng
from omegaconf import OmegaConf

from helpers.callbacks import CALLBACKS
from helpers.projects import Batches, Odd, fit, says, trainer
from helpers.states import ending, same
from lightning_lottery import ExactResume, LotteryError, Snapshots, Ticket
from lightning_lottery.files import location
from lightning_lottery.hooks.saving import PlainHyperparameters, save_whole, untrusted_hyperparameters

RUN = {"resume.ckpt", "snapshots/step=0.ckpt", "snapshots/step=5.ckpt", "ticket.safetensors", "pruning.csv"}


class Root:
    """A run's folder, here or in the memory of fsspec, and what is in it."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.url = str(folder / "run") if kind == "local" else f"memory://{folder.name}/run"
        self.system, self.inner = fsspec.core.url_to_fs(self.url)

    def __truediv__(self, name: str) -> str:
        return f"{self.url}/{name}"

    def files(self) -> dict[str, bytes]:
        found = self.system.find(self.inner)
        return {os.path.relpath(path, self.inner): self.system.cat_file(path) for path in found}


@pytest.fixture(params=["local", "memory"])
def root(request, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield Root(request.param, tmp_path)
    assert not list((tmp_path / "here").iterdir()), "a local folder that is called as a URL"
    fsspec.filesystem("memory").store.clear()


PLUGINS = {
    "none": list,
    "asynchronous": lambda: [AsyncCheckpointIO()],
    "asynchronous around another": lambda: [AsyncCheckpointIO(Custom())],
    "custom": lambda: [Custom()],
    "custom around asynchronous": lambda: [_WrappingCheckpointIO(AsyncCheckpointIO(Custom()))],
}


class Custom(TorchCheckpointIO):
    """Somebody's plugin."""

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        super().save_checkpoint({**checkpoint, "custom": True}, path)


def run(url, *plugins, ckpt=None, **arguments):
    callback = CALLBACKS["MagnitudePruning"]()
    saving = (ExactResume(interval=5), Snapshots([0, 5]))
    fitted = fit(url, callback, *saving, plugins=list(plugins), ckpt=ckpt, limit_val_batches=0, **arguments)
    return ending(fitted, callback)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return run(tmp_path_factory.mktemp("unbroken"))


@pytest.mark.parametrize("plugin", PLUGINS)
def test_every_file_is_written_where_the_run_is_and_a_run_goes_on_from_there(plugin, root, unbroken):
    run(root.url, *PLUGINS[plugin](), max_steps=10)
    assert root.files().keys() == RUN
    for name in RUN - {"ticket.safetensors", "pruning.csv"}:
        with fsspec.open(root / name, "rb") as file:
            assert ("custom" in torch.load(file, weights_only=True)) == (plugin not in ("none", "asynchronous"))
    assert Ticket.load(root / "ticket.safetensors").sparsity == pytest.approx(0.7, abs=2e-3)
    assert same(run(root.url, *PLUGINS[plugin](), ckpt=root / "snapshots/step=5.ckpt"), unbroken)
    assert root.files().keys() == RUN


class Late(TorchCheckpointIO):
    """Writes when nobody waits for it any more."""

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        pass


def test_a_plugin_that_has_written_nothing_on_return_leaves_the_last_whole_checkpoint(tmp_path):
    fitted = fit(tmp_path / "run")
    save_whole(fitted, tmp_path / "a.ckpt")
    before, late = (tmp_path / "a.ckpt").read_bytes(), Late()
    fitted.strategy.checkpoint_io = late
    with pytest.raises(LotteryError, match="'.*a.ckpt' could not be written: Late returns before it has written it"):
        save_whole(fitted, tmp_path / "a.ckpt")
    assert fitted.strategy.checkpoint_io is late  # also after a failure
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*ckpt*")} == {"a.ckpt": before}


def limited(size, monkeypatch):
    """The system writes no more than this into any file, and fsspec's memory no more than this."""
    memory, hard = MemoryFile.write, resource.getrlimit(resource.RLIMIT_FSIZE)[1]

    def write(file, content):
        if file.tell() + len(content) > size:
            raise OSError(27, "File too large")
        return memory(file, content)

    monkeypatch.setattr(MemoryFile, "write", write)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


@pytest.mark.parametrize("part", [0, 0.01, 0.3, 0.6, 0.9, 0.999])
@pytest.mark.parametrize("file", ["checkpoint", "ticket"])
def test_a_disk_that_is_full_at_any_write_leaves_the_last_whole_file_and_is_said(file, part, root, monkeypatch, fitted):
    trained, ticket = fitted
    save = {
        "checkpoint": lambda: save_whole(trained, location(root / "file")),
        "ticket": lambda: ticket.save(root / "file"),
    }[file]
    save()
    before = root.files()
    soft = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        limited(int(part * len(before["file"])), monkeypatch)
        with pytest.raises(LotteryError, match=f"The {file} '.*/file' could not be written: File too large"):
            save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, soft)
        monkeypatch.undo()
    assert root.files() == before


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    with isolate_rng():
        callback = CALLBACKS["MagnitudePruning"]()
        trained = fit(tmp_path_factory.mktemp("fitted"), callback, limit_val_batches=0)
    return trained, callback.ticket()


def test_what_killed_writers_left_is_removed_at_the_next_start_and_what_living_ones_write_stays(tmp_path):
    fit(tmp_path / "first", ExactResume(interval=4), max_epochs=1)
    names = [
        "first/.resume.ckpt.1234.partial",
        "second/.resume.ckpt.1234.partial",
        "second/.ticket.safetensors.77.partial",
        "second/snapshots/.step=3.ckpt.1234.partial",
        "second/snapshots/.step=4.ckpt.1234.partial",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(b"half")
    import fcntl

    looks = []

    class Looks(Callback):
        lottery_order = 3

        def on_train_start(self, *_):
            looks.extend(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.partial"))

    with open(tmp_path / names[-1], "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        fit(tmp_path / "second", ExactResume(), Snapshots([5]), Looks(), ckpt=tmp_path / "first" / "resume.ckpt")
    assert looks == names[-1:]
    fit(tmp_path / "second", Snapshots([5]), max_steps=5)
    assert not list(tmp_path.rglob("*.partial"))


def test_a_process_that_is_killed_in_a_write_leaves_the_target_whole_and_nothing_after_the_next_write(tmp_path):
    fitted, path = fit(tmp_path / "run"), tmp_path / "a.ckpt"
    save_whole(fitted, path)
    before = path.read_bytes()
    if (child := os.fork()) == 0:
        torch.save = lambda content, file: (
            file.write(before[:100]),
            file.flush(),
            os.kill(os.getpid(), signal.SIGKILL),
        )
        save_whole(fitted, path)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert path.read_bytes() == before
    assert [left.read_bytes() for left in tmp_path.glob("*.partial")] == [before[:100]]
    save_whole(fitted, path)
    assert [left.name for left in tmp_path.iterdir() if left.is_file()] == ["a.ckpt"]


def test_nothing_is_written_into_the_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))  # whatever were written there would fail
    fit(tmp_path / "run", CALLBACKS["PLATON"](), ExactResume(interval=5), Snapshots([3]))
    assert {path.name for path in (tmp_path / "run").rglob("*.*")} == {
        "resume.ckpt",
        "step=3.ckpt",
        "ticket.safetensors",
        "pruning.csv",
    }


class Holds(Odd):
    """Hyper-parameters of classes, as a popular template has them."""

    def __init__(self, net=None, optimizer="adamw", width=12):
        super().__init__()
        self.save_hyperparameters()


class Data(LightningDataModule):
    def __init__(self, folder):
        super().__init__()
        self.save_hyperparameters()

    def train_dataloader(self):
        return Batches()

    val_dataloader = train_dataloader


def test_hyperparameters_that_only_load_where_trusted_are_said_with_the_call_before_the_first_step(tmp_path):
    steps = []

    class Steps(Callback):
        def on_train_batch_start(self, *_):
            steps.append(True)
            raise KeyError("the first step")

    call = rf"hyper-parameters net, which .* trainer.fit\(..., ckpt_path='{tmp_path}/resume.ckpt', weights_only=False\)"
    with says(call, times=1), pytest.raises(KeyError):
        fit(tmp_path, Steps(), ExactResume(), Snapshots([3]), module=Holds(torch.nn.ReLU()))
    with says(call + r".* save_hyperparameters\(ignore=\['net'\]\)", times=1):
        fit(tmp_path, ExactResume(interval=5), module=Holds(torch.nn.Linear(2, 2)), max_steps=5)
    resumed = trainer(tmp_path / "again", ExactResume())  # and says no more: a warning would fail this test
    resumed.fit(Holds(), Batches(), Batches(batches=1), ckpt_path=tmp_path / "resume.ckpt", weights_only=False)
    assert resumed.global_step == 12


def test_checkpoints_without_them_are_gone_on_from_as_plain_values_and_nothing_else_is_missing(tmp_path, caplog):
    class Configured(Odd):
        """Its hyper-parameters are a configuration of OmegaConf."""

        def __init__(self):
            super().__init__()
            self._set_hparams(OmegaConf.create({"optimizer": "adamw", "wide": 12}))

    plain = {"optimizer": "adamw", "width": 12, "manual": False, "wide": 12}
    for number, (make, kept) in enumerate([(lambda: Holds(torch.nn.ReLU), plain), (Configured, {})]):
        path = tmp_path / str(number)
        fit(path, PlainHyperparameters(), ExactResume(), module=make())  # and a warning would fail this test
        loaded = torch.load(path / "resume.ckpt", weights_only=True)
        assert loaded["hyper_parameters"] == kept and loaded["global_step"] == 12
        resumed = fit(path, PlainHyperparameters(), module=make(), ckpt=path / "resume.ckpt", max_epochs=4)
        assert resumed.global_step == 16
    assert "leave out the hyper-parameters net, which are modules or of other classes" in caplog.text
    assert "load_from_checkpoint(path, net=...) builds the module" in caplog.text
    fit(tmp_path / "plain", PlainHyperparameters(), ExactResume())
    assert torch.load(tmp_path / "plain/resume.ckpt", weights_only=True)["hyper_parameters"] == Odd().hparams


def test_which_hyperparameters_are_not_plain_is_found_in_module_and_data(tmp_path):
    attached = trainer(tmp_path)
    for module, data, names in [
        (Holds(width=3), Data("plain"), []),
        (Holds(torch.nn.ReLU, width=range(3)), Data(tmp_path), ["net", "width", "folder"]),
    ]:
        attached.strategy.connect(module)
        attached.datamodule = data
        assert untrusted_hyperparameters(attached) == names


def test_hyperparameters_that_cannot_be_saved_at_all_are_refused_before_the_first_step(tmp_path):
    refused = trainer(tmp_path, ExactResume())
    with pytest.raises(LotteryError, match=r"'folder' of Data cannot be saved .*: leave it out by .*=\['folder'\]"):
        refused.fit(Odd(), datamodule=Data(lambda: None))
    assert refused.global_step == 0


@pytest.mark.parametrize("make", [ExactResume, CALLBACKS["PLATON"]])
def test_a_url_that_nobody_can_write_to_is_refused_before_the_first_step(make):
    refused = trainer("nowhere://run", make())
    with pytest.raises(LotteryError, match="'nowhere://run' cannot be written to: Protocol not known: nowhere"):
        refused.fit(Odd(), Batches(), Batches())
    assert refused.global_step == 0
