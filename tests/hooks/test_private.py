"""Private names of Lightning and torchmetrics stand in one file: what breaks with a new version breaks there."""

import ast
import inspect
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import lightning
import pytest
import torch
import torchmetrics

PACKAGE = Path(__file__).parents[2] / "lightning_lottery"
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
HERE = Path("hooks/private.py")

OVERRIDDEN = {"_parse_ckpt_path", "_run_subcommand", "_set_seed"}
"""Steps of ``LightningCLI`` that our own one overrides: that needs their names where the class stands."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def defined_in(source: str) -> Iterator[str]:
    """Private names that some source gives to functions, classes, and attributes of objects."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def of_lightning() -> set[str]:
    folder = Path(lightning.__file__).parent
    sources = [path for part in ("pytorch", "fabric") for path in (folder / part).rglob("*.py")]
    sources.append(Path(torchmetrics.__file__).parent / "metric.py")
    return {name for path in sources for name in defined_in(path.read_text("utf-8")) if is_private(name)}


LIGHTNINGS = of_lightning()


def named_in(source: str) -> Iterator[str]:
    """Private names that some source imports from Lightning, or asks of objects that are not its own."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lightning":
            yield from (name for name in [*node.module.split("."), *(a.name for a in node.names)] if is_private(name))
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                yield node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "setattr"):
            yield from (a.value for a in node.args[1:2] if isinstance(a, ast.Constant) and is_private(a.value))


def test_the_reader_sees_every_spelling():
    source = """
from lightning.pytorch.trainer.call import _call_callback_hooks
from lightning.pytorch._private import public
trainer._evaluation_loop.run()
self.trainer.fit_loop._data_fetcher = None
getattr(callback, "_average_model", None)
self._own, cls._own, trainer.fit_loop, module.__dict__
"""
    expected = ["_call_callback_hooks", "_private", "_evaluation_loop", "_data_fetcher", "_average_model"]
    assert sorted(named_in(source)) == sorted(expected)
    assert {*expected} - {"_private"} <= LIGHTNINGS


@pytest.mark.parametrize("module", [path for path in MODULES if path != HERE], ids=str)
def test_no_other_module_names_a_private_attribute_or_import_of_lightning(module):
    source = (PACKAGE / module).read_text("utf-8")
    ours = {name for path in MODULES for name in defined_in((PACKAGE / path).read_text("utf-8"))}
    assert {name for name in named_in(source) if name in LIGHTNINGS and name not in ours} == set()


@pytest.mark.parametrize("module", [path for path in MODULES if path != HERE], ids=str)
def test_no_class_of_ours_overrides_a_private_attribute_of_lightning(module):
    name = ".".join(["lightning_lottery", *module.with_suffix("").parts]).removesuffix(".__init__")
    if name.endswith("__main__"):
        return
    for cls in vars(import_module(name)).values():
        if inspect.isclass(cls) and cls.__module__ == name:
            above = [base for base in cls.__mro__ if base.__module__.startswith("lightning.")]
            theirs = {key for base in above for key in vars(base) if is_private(key) and key != "_abc_impl"}
            assert theirs & vars(cls).keys() - OVERRIDDEN == set(), cls


def test_every_private_name_that_is_used_is_still_there():
    of_torch = {"_backward_hooks", "_post_accumulate_grad_hooks"}
    assert all(hasattr(torch.empty(0), name) for name in of_torch)
    used = set(named_in((PACKAGE / HERE).read_text("utf-8"))) - {"_iterator"} - of_torch
    assert used <= LIGHTNINGS | set(defined_in(inspect.getsource(torchmetrics.metric)))
    assert len(used) > 10
