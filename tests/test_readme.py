"""README says what can be done: its code runs, its calls could be made, its commands have the options that it names."""

import ast
import inspect
import re
import shlex
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_lottery
from lightning_lottery import functional
from lightning_lottery.children.records import COLUMNS
from lightning_lottery.command.at_once import checked, subcommand_of

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SPANS = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", README, flags=re.DOTALL))
NAMES = {**vars(functional), **{name: getattr(lightning_lottery, name) for name in lightning_lottery.__all__}}


class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 10)

    def training_step(self, batch, index):
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Data(LightningDataModule):
    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.randn(40, 4)), batch_size=4)


def test_the_ten_lines_run(tmp_path, monkeypatch, capsys):
    (lines,) = [block for block in PYTHON if "Trainer(" in block]
    assert len([line for line in lines.splitlines() if line]) <= 10
    monkeypatch.chdir(tmp_path)
    quiet = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    monkeypatch.setattr("lightning.pytorch.Trainer", lambda **more: Trainer(**{**more, **quiet, "max_epochs": 3}))
    copy = Module()
    exec(lines, {"my_module": Module(), "my_data": Data(), "another_copy_of_my_module": copy})
    assert capsys.readouterr().out.startswith("Ticket(1 parameters, sparsity 0.8000, PLATON)")
    assert int(copy.layer.weight.count_nonzero()) == 8


def calls_in(source):
    """Every call of a public name, as (name, call); nothing where the text is no Python."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return []
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    named = [
        (call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", ""), call)
        for call in calls
    ]
    return [(name, call) for name, call in named if name in NAMES]


CALLS = {ast.unparse(call): (name, call) for text in (*PYTHON, *SPANS) for name, call in calls_in(text)}


def test_many_calls_are_shown():
    assert len(CALLS) > 30


@pytest.mark.parametrize("text", CALLS)
def test_a_call_that_is_shown_could_be_made(text):
    name, call = CALLS[text]
    keywords = {keyword.arg: None for keyword in call.keywords if keyword.arg}
    arguments = [None for argument in call.args if argument is not Ellipsis]
    inspect.signature(NAMES[name]).bind_partial(*arguments, **keywords)


def test_what_is_imported_is_public():
    for block in PYTHON:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module == "lightning_lottery":
                assert {alias.name for alias in node.names} <= {*lightning_lottery.__all__}


COMMANDS = re.findall(r"(?:^|`)lightning-lottery +([a-z][^`\n]*)", README, re.MULTILINE)
FILES = ("mine.yaml", "A.ckpt", "B.ckpt", "C.ckpt", "k.ckpt", "last.ckpt", "T", "T1", "T2")
FOLDERS = ("recipes/quickstart", "quickstart", "runs/sweep", "runs/imp-step-100")


def test_many_commands_are_shown():
    assert {"fit", "explain", "run", "sweep", "ticket"} <= {command.split()[0] for command in COMMANDS}


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_a_command_that_is_shown_has_its_subcommand_and_options(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in FILES:
        (tmp_path / file).touch()
    for folder in FOLDERS:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    name, *words = shlex.split(command, comments=True)
    subcommand = subcommand_of(name)
    if words:  # else it is only named
        checked(subcommand, words)


def test_the_columns_of_records_are_those_that_there_are():
    assert "|---|---|\n" + "".join(f"| {name} | {says} |\n" for name, says in COLUMNS.items()) + "\n" in README


def test_what_is_folded_away_is_closed_again_and_can_be_read_as_markdown():
    assert README.count("<details>") == README.count("</details>") >= 5
    assert all(part.startswith("<summary>") for part in README.split("<details>")[1:])
    assert all(re.match(r".*</summary>\n\n", part) for part in README.split("<details>")[1:])
