"""What is read from sources is what an import would show."""

import inspect
from dataclasses import fields

import pytest
from lightning.pytorch import Trainer

import lightning_lottery
from lightning_lottery.command.shrink import shrink_checkpoint
from lightning_lottery.command.signatures import arguments_of, names_in, plain
from lightning_lottery.connectivity.path import path
from lightning_lottery.experiments.prediction import predict_tickets
from lightning_lottery.experiments.recipe import run_recipe

CLASSES = [name for name in lightning_lottery.__all__ if inspect.isclass(getattr(lightning_lottery, name))]
FUNCTIONS = [path, shrink_checkpoint, predict_tickets, run_recipe, Trainer.fit, Trainer.predict]


@pytest.mark.parametrize("name", [name for name in CLASSES if name not in ("LotteryError", "Schedule")])
def test_the_arguments_of_every_public_class_are_read_without_importing_it(name):
    read = arguments_of(f"lightning_lottery.{lightning_lottery._MODULES[name]}", name)
    real = _parameters_of(getattr(lightning_lottery, name))
    assert [argument.name for argument in read] == [*real]
    required = [argument.name for argument in read if argument.is_required]
    assert required == [name for name, parameter in real.items() if parameter.default is parameter.empty]


def _parameters_of(kind):
    """Of its constructor: of a class with a protocol among its bases Python 3.10 knows only ``*args, **kwargs``."""
    _, *parameters = inspect.signature(kind.__init__).parameters.values()
    return {parameter.name: parameter for parameter in parameters}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__qualname__)
def test_the_arguments_of_a_function_are_read_with_what_its_docstring_says(function):
    read = arguments_of(inspect.getmodule(inspect.unwrap(function)).__name__, function.__qualname__)
    real = [name for name in inspect.signature(function).parameters if name != "self"]
    assert [argument.name for argument in read] == real
    assert all(argument.help for argument in read)


def test_the_trainer_s_arguments_are_those_of_its_constructor():
    read = arguments_of("lightning.pytorch.trainer.trainer", "Trainer")
    assert [argument.name for argument in read] == [name for name in inspect.signature(Trainer).parameters]


def test_values_and_defaults_are_shown_as_one_writes_them():
    sweep = {
        argument.name: argument for argument in arguments_of("lightning_lottery.experiments.sweep", "InstabilitySweep")
    }
    assert [*sweep] == [field.name for field in fields(lightning_lottery.InstabilitySweep)]
    assert (sweep["search"].value, sweep["search"].default) == ("{grid,bisect}", "grid")
    assert (sweep["seeds"].value, sweep["seeds"].default) == ("[A,B,...]", "1, 2, 3")
    assert sweep["alphas"].default == sweep["threshold_ratio"].default == sweep["pruners"].default == ""
    assert sweep["precision"].help.startswith("Of k*, relative, where it is searched: 1 ends where neighbours")


def test_what_is_not_there_is_said():
    with pytest.raises(LookupError, match="There is no Cubik"):
        arguments_of("lightning_lottery.functional.schedules", "Cubik")
    with pytest.raises(LookupError, match="There is no package no_such"):
        arguments_of("no_such.module", "f")


def test_text_of_a_docstring_is_one_line_without_marks_of_code():
    assert plain("In place of ``threshold``:\n    a barrier.") == "In place of threshold: a barrier."


def test_what_a_package_names_is_known_with_the_module_that_it_stands_in():
    read = names_in("lightning_lottery.callbacks")
    assert read["PLATON"] == "lightning_lottery.callbacks.platon" and "EarlyBird" in read
