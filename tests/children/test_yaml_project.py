import pytest

from helpers.factories import make_data
from helpers.stages import named
from lightning_lottery import PLATON, FactoryProject, LotteryError, YamlProject
from lightning_lottery.children.yaml_project import ConfiguredCallback

PRUNER = ConfiguredCallback(
    "lightning_lottery.MagnitudePruning", {"sparsity": {"class_path": "Constant", "init_args": {"final": 0.5}}}
)


def test_a_yaml_s_pruner_is_plain_values_and_builds_the_callback_anew():
    one, again = PRUNER(), PRUNER()
    assert type(one).__name__ == "MagnitudePruning" and one is not again
    assert PRUNER.config()["class_path"] == "lightning_lottery.MagnitudePruning"


@pytest.mark.parametrize("callbacks", [None, [named("Snapshots", steps=[0])], named("Snapshots", steps=[0])])
def test_a_pruner_is_the_last_of_a_yaml_s_callbacks(callbacks):
    project = YamlProject({"seed_everything": True, "trainer": {"callbacks": callbacks}})
    kept = [] if callbacks is None else [named("Snapshots", steps=[0])]
    assert project.with_pruner(PRUNER).config()["trainer"]["callbacks"] == [*kept, PRUNER.config()]
    assert project.config()["trainer"]["callbacks"] == callbacks


def test_a_pruner_that_yaml_cannot_name_is_refused():
    with pytest.raises(LotteryError, match="takes a pruner that YAML can name: `class_path` and `init_args`, got"):
        YamlProject({"trainer": {"callbacks": []}}).with_pruner(lambda: PLATON(sparsity=0.5))


@pytest.mark.parametrize(("seed", "expected"), [(3, 3), (True, 0), (False, 0), (None, 0)])
def test_a_seed_that_is_left_open_is_0(seed, expected):
    project = YamlProject({"seed_everything": seed})
    assert project.seed == expected and project.with_seed(5).config() == {"seed_everything": 5}


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5])
def test_a_seed_that_is_none_is_refused_before_anything_is_built(seed):
    for project in (YamlProject({}), FactoryProject(make_data, make_data, make_data)):
        with pytest.raises(LotteryError, match="`seeds` are whole numbers from 0 to 4294967295, got"):
            project.with_seed(seed)
