"""The table of subcommands says what the parsers take."""

from importlib import import_module

import pytest

from helpers.stages import config, fit
from lightning_lottery.children.cli import LotteryCLI
from lightning_lottery.command.subcommands import LIGHTNINGS, SUBCOMMANDS, options_of
from lightning_lottery.experiments.sections import SECTIONS


class Parser(LotteryCLI):
    """Only tells what its parser takes."""

    def parse_arguments(self, parser, args):
        (subcommands,) = [action.choices for action in parser._actions if isinstance(action.choices, dict)]
        Parser.options = [action.dest for inner in subcommands.values() for action in inner._actions]
        raise StopIteration


@pytest.mark.parametrize("name", LIGHTNINGS)
def test_a_subcommand_of_lightning_takes_exactly_what_its_parser_takes(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config(fit(**{section: {} for section in SECTIONS}))
    with pytest.raises(StopIteration):
        Parser([name, "--config", "fit.yaml"], sections=SECTIONS)
    parsers = {option for option in Parser.options if not option.endswith(".help")} - {"help"}
    assert {*options_of(name)} == parsers


@pytest.mark.parametrize("name", [name for name in SUBCOMMANDS if name not in LIGHTNINGS])
def test_what_answers_a_subcommand_of_ours_is_there(name):
    module, function = SUBCOMMANDS[name].answer.split(":")
    assert callable(getattr(import_module(f"lightning_lottery.command.{module}"), function))


def test_an_experiment_s_options_are_in_its_own_help_and_not_among_those_of_another():
    assert {"imp.levels", "seeds", "jobs"} <= {*SUBCOMMANDS["imp"].names}
    assert not [name for name in SUBCOMMANDS["imp"].names if name.startswith(("sweep", "instability"))]
    assert not SUBCOMMANDS["fit"].names
