import pytest

from helpers.stages import named
from lightning_lottery import (
    InstabilityAnalysis,
    InstabilitySweep,
    IterativePruning,
    LotteryError,
    MagnitudePruning,
    Scope,
)
from lightning_lottery.children.cli import resolve
from lightning_lottery.children.yaml_project import ConfiguredCallback
from lightning_lottery.experiments.sections import SECTIONS, read_section

PRUNER = named("MagnitudePruning", sparsity=named("Constant", final=0.5))


def test_defaults_in_yaml_are_those_of_python(tmp_path):
    (tmp_path / "fit.yaml").write_text("imp: {levels: 2}\n")
    defaults = {"instability": InstabilityAnalysis(), "sweep": InstabilitySweep(), "imp": IterativePruning(levels=2)}
    for name, experiment in defaults.items():
        config = resolve([name, "--config", str(tmp_path / "fit.yaml"), "--model", "helpers.factories.Net"], SECTIONS)
        assert read_section(name, config[name]) == experiment


def test_a_pruner_in_yaml_is_a_factory_that_is_plain_values(tmp_path):
    import yaml

    (tmp_path / "fit.yaml").write_text(yaml.safe_dump({"sweep": {"steps": [0, 10], "pruners": {"half": PRUNER}}}))
    config = resolve(["sweep", "--config", str(tmp_path / "fit.yaml"), "--model", "helpers.factories.Net"], SECTIONS)
    pruner = read_section("sweep", config["sweep"]).pruners["half"]
    assert isinstance(pruner, ConfiguredCallback) and pruner.class_path == "lightning_lottery.MagnitudePruning"
    assert type(pruner()) is MagnitudePruning and pruner() is not pruner()


def test_lists_and_mappings_become_what_the_fields_hold():
    experiment = read_section("imp", {"levels": 1, "scope": {"include": ["a.*"]}, "controls": ["shuffled"]})
    assert experiment.scope == Scope(include=("a.*",)) and experiment.controls == ("shuffled",)
    tickets = {"a": "one.safetensors", "b": {"0": "first.safetensors", "10": "second.safetensors"}}
    swept = read_section("sweep", {"steps": [0, 10], "tickets": tickets})
    assert swept.tickets == {"a": "one.safetensors", "b": {0: "first.safetensors", 10: "second.safetensors"}}
    with pytest.raises(LotteryError, match="a path, or one for each step, got {'all': 'x'}"):
        read_section("sweep", {"tickets": {"a": {"all": "x"}}})
    with pytest.raises(LotteryError, match="`mode` is 'max' or 'min', got 'up'"):
        read_section("instability", {"mode": "up"})
