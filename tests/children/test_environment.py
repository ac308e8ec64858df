import ast
import os
import re
from pathlib import Path

import pytest

import lightning_lottery
from lightning_lottery.children import environment as variables
from lightning_lottery.children.environment import environment, environment_of_child

PACKAGE = Path(lightning_lottery.__file__).parent


def names_in(path):
    """Every string of a module that is the name of a variable of ours and nothing more."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    values = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [value for value in values if re.fullmatch("LOTTERY_[A-Z_]+", value)]


def test_every_variable_is_named_in_one_place():
    named = {path.relative_to(PACKAGE).as_posix(): names_in(path) for path in PACKAGE.rglob("*.py")}
    assert {path: len(names) for path, names in named.items() if names} == {"children/environment.py": 10}
    assert len(set(named["children/environment.py"])) == 10


def test_variables_are_afterwards_as_they_were(monkeypatch):
    monkeypatch.setenv("A", "before")
    monkeypatch.setenv("B", "before")
    monkeypatch.delenv("C", raising=False)
    with pytest.raises(KeyError), environment(A="within", B=None, C="within"):
        assert os.environ["A"] == os.environ["C"] == "within" and "B" not in os.environ
        del os.environ["C"]  # what the block itself takes away is no mistake
        raise KeyError
    assert os.environ["A"] == os.environ["B"] == "before" and "C" not in os.environ


def test_a_child_gets_this_process_s_environment_but_not_the_checkpoint_it_goes_on_from(monkeypatch):
    monkeypatch.setenv(variables.RESUME_FROM, "of-this-process.ckpt")
    monkeypatch.setenv(variables.RUN, "runs/here")
    handed_on = environment_of_child("a:b")
    assert handed_on[variables.RUN] == "runs/here" and handed_on["PYTHONPATH"] == "a:b"
    assert variables.TIED in handed_on and variables.RESUME_FROM not in handed_on
