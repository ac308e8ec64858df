import pytest
import yaml
from lightning.pytorch import seed_everything

from helpers.factories import Data, Net
from helpers.projects import trainer
from helpers.stages import fit, in_this_process
from lightning_lottery import ExactResume, Snapshots
from lightning_lottery.children.child import Child
from lightning_lottery.children.cli import resolve


@pytest.fixture(scope="session")
def parent(tmp_path_factory):
    """A parent's snapshots at steps 0 and 5."""
    folder = tmp_path_factory.mktemp("parent")
    seed_everything(7, verbose=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "7")
        trainer(folder, ExactResume(), Snapshots([0, 5])).fit(Net(), Data())
    return folder / "snapshots"


@pytest.fixture(scope="session")
def config(tmp_path_factory):
    """A small fit, resolved."""
    path = tmp_path_factory.mktemp("config") / "dense.yaml"
    path.write_text(yaml.safe_dump(fit()))
    return resolve(["fit", "--config", str(path), "--seed_everything", "0"])


@pytest.fixture
def child(config, tmp_path):
    return Child(tmp_path / "child", "fit", config)


@pytest.fixture(scope="session")
def unbroken(config, tmp_path_factory):
    """A child that was trained to its end, to be read only."""
    child = Child(tmp_path_factory.mktemp("unbroken"), "fit", config)
    child.prepare()
    assert in_this_process(child) == 0
    return child
