"""A child's configuration says which project it is of: a YAML's, or some factories'."""

from helpers.factories import Net, make_data, make_trainer
from lightning_lottery.children.factories import FactoryProject
from lightning_lottery.children.project import project_of
from lightning_lottery.children.yaml_project import YamlProject


def test_what_a_project_says_is_that_project_again_under_any_seed(config):
    for project in (FactoryProject(Net, make_data, make_trainer), YamlProject(config)):
        seeded = project.with_seed(3)
        again = project_of({**seeded.config(), "ckpt_path": "some.ckpt"})
        assert type(again) is type(project) and again.is_importable
        assert (again.seed, seeded.seed, again.config()["seed_everything"]) == (3, 3, 3)
        says = {name: value for name, value in again.config().items() if name != "ckpt_path"}
        assert says == {name: value for name, value in seeded.config().items() if name != "ckpt_path"}


def test_another_seed_leaves_the_project_as_it_was():
    project = FactoryProject(Net, make_data, make_trainer)
    project.with_seed(3)
    assert project.seed == 0
