import ast
import inspect
import json
import subprocess
import sys
from importlib import import_module
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import lightning_lottery
import lightning_lottery.callbacks

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # which pytest needs there

PACKAGE = Path(lightning_lottery.__file__).parent

IMPORTS = """
import json, sys
ours = {"__main__", "lightning_lottery", *sys.stdlib_module_names}
def third_party():
    return {name.partition(".")[0] for name in sys.modules} - ours
"""

TOUCHED = f"""{IMPORTS}
import lightning
before = third_party()
import lightning_lottery
for name in lightning_lottery.__all__:
    getattr(lightning_lottery, name)
print(json.dumps([sorted(before), sorted(third_party() - before)]))
"""

UNTOUCHED = f"""{IMPORTS}
before = set(sys.modules)
import lightning_lottery
dir(lightning_lottery)
ours_and_more = sorted(set(sys.modules) - before - sys.stdlib_module_names)
print(json.dumps(ours_and_more))
"""


def printed_by(script):
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def test_importing_the_package_imports_nothing_but_itself():
    imported = printed_by(UNTOUCHED)
    assert [name for name in imported if name.partition(".")[0] not in sys.stdlib_module_names] == ["lightning_lottery"]


def test_every_public_name_touched_loads_nothing_that_lightning_does_not():
    before, added = printed_by(TOUCHED)
    assert {"lightning", "torch"} <= set(before)
    assert added == []


# What a pruning callback does without. Lightning itself loads some of them, so that nothing run would show who did.
HEAVY = {
    *("distributed", "matplotlib", "pandas", "pymannkendall", "scipy", "sklearn", "statsmodels", "tensorboard"),
    *("timm", "torch_pruning", "torchvision", "transformers"),
}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "zoo" not in path.parts)


def imported_at_once(path):
    """What a module's own import brings: not what its functions import, nor what type checkers alone read."""
    todo = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]
        elif not (
            isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        ):
            todo.extend(ast.iter_child_nodes(node))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_what_is_heavy_is_imported_by_the_function_that_needs_it(path):
    assert HEAVY.isdisjoint(imported_at_once(path))


def test_an_import_at_once_is_seen_wherever_it_stands(tmp_path):
    module = tmp_path / "module.py"
    module.write_text(
        "import a.b\ntry:\n    from c.d import e\nexcept ImportError:\n    import f\nclass G:\n    import h\n"
        "if TYPE_CHECKING:\n    import unseen\ndef i():\n    import unseen\n"
    )
    assert set(imported_at_once(module)) == {"a", "c", "f", "h"}


def test_every_public_name_exists_is_listed_once_and_shown():
    names = lightning_lottery.__all__
    assert names and len(names) == len(set(names))
    assert [name for name in names if not hasattr(lightning_lottery, name)] == []
    assert set(names) <= set(dir(lightning_lottery))


def test_type_checkers_see_the_names_that_are_resolved_lazily_in_the_modules_where_they_are():
    """Two lists: one that type checkers read, one that is used."""
    (block,) = [node for node in ast.parse((PACKAGE / "__init__.py").read_text()).body if isinstance(node, ast.If)]
    seen = {alias.asname: node.module for node in block.body for alias in node.names if alias.name == alias.asname}
    used = {name: f"lightning_lottery.{module}" for name, module in lightning_lottery._MODULES.items()}
    assert seen == used
    defined_there = {name: getattr(lightning_lottery, name).__module__ for name in used}
    assert defined_there == used


def test_no_callback_takes_more_than_eight_arguments_beside_those_that_all_have():
    callbacks = [value for value in vars(lightning_lottery.callbacks).values() if inspect.isclass(value)]
    assert lightning_lottery.PLATON in callbacks and len(callbacks) > 8
    for callback in callbacks:
        # `sparsity` is the schedule, or what one is made of.
        arguments = inspect.signature(callback).parameters.keys() - {
            "sparsity",
            "schedule",
            "scope",
            "name",
            "log_layers",
        }
        assert len(arguments) <= 8, (callback.__name__, sorted(arguments))


def test_a_name_that_is_not_there_is_missing_as_from_any_module():
    with pytest.raises(AttributeError, match="module 'lightning_lottery' has no attribute 'PLATTON'"):
        _ = lightning_lottery.PLATTON
    with pytest.raises(ImportError):
        from lightning_lottery import PLATTON  # noqa: F401


@pytest.mark.parametrize("folder", sorted({path.parent for path in PACKAGE.rglob("__init__.py")}), ids=lambda f: f.name)
def test_no_public_name_stands_where_a_module_of_that_name_would(folder):
    names = import_module(".".join(folder.relative_to(PACKAGE.parent).parts))
    assert {path.stem for path in folder.iterdir()}.isdisjoint(getattr(names, "__all__", []))


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_module_needs_what_only_posix_has(path):
    tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    imported = {alias.name for node in tree if isinstance(node, ast.Import) for alias in node.names}
    assert imported.isdisjoint({"fcntl", "grp", "pwd", "resource", "termios"})


def test_the_module_is_the_command():
    run = subprocess.run([sys.executable, "-m", "lightning_lottery", "--help"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "usage: " in run.stdout.lower()


def project():
    return tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_version_is_that_of_the_project():
    assert lightning_lottery.__version__ == project()["version"]


def test_the_citation_names_this_version_and_this_licence():
    citation = yaml.safe_load((PACKAGE.parent / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (project()["version"], project()["license"])
    assert citation["title"].startswith(project()["name"])


FORMS = sorted((PACKAGE.parent / ".github/ISSUE_TEMPLATE").glob("*.yml"))


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_an_issue_form_can_be_read_and_tells_its_questions_apart(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.name == "config.yml":
        assert form == {"blank_issues_enabled": True}
        return
    assert form["name"] and form["description"]
    names = [question["id"] for question in form["body"]]
    assert names and len(names) == len(set(names))
    assert all(question["attributes"]["label"] for question in form["body"])


def lowest(requirements):
    """Name to the lowest release that a requirement allows; none where it has no lower bound."""
    bounds = {}
    for requirement in map(Requirement, requirements):
        lower = [Version(spec.version) for spec in requirement.specifier if spec.operator in (">=", "==")]
        bounds.setdefault(requirement.name, set()).update(lower)
    return bounds


def test_every_dependency_has_a_lower_bound_and_it_is_the_release_that_make_lowest_tests():
    extras = project()["optional-dependencies"]
    used = [*project()["dependencies"], *chain(*(extras[name] for name in extras if name != "test"))]
    bounds = lowest([*used, *extras["test"]])
    assert [name for name in lowest(used) if len(bounds[name]) != 1] == []
    lines = (PACKAGE.parent / "tests/lowest.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if "==" in line]
    assert len(pins) == len(lowest(pins))
    assert lowest(pins) == {name: bound for name, bound in bounds.items() if bound}
