"""`make docs`: the pages of this repository and the reference of every public name, by pdoc, into one folder.

    python .github/docs/build.py build/docs

A page is a Markdown file that is here already: README, the tutorial, the recipes, the changelog. Links among them lead
from page to page; other files that they name are copied. A link that leads nowhere ends the build.
"""

import re
import sys
from pathlib import Path
from types import ModuleType

import pdoc.doc
import pdoc.render

import lightning_lottery
from lightning_lottery import functional
from lightning_lottery.hooks import mask_callback

ROOT = Path(__file__).parents[2]
FIRST = {
    "index": "README.md",
    "tutorial": "recipes/tutorial/README.md",
    "recipes": "recipes/README.md",
    "benchmarks": "tests/benchmarks/README.md",
    "tests": "tests/README.md",
    "contributing": ".github/CONTRIBUTING.md",
    "changelog": "CHANGELOG.md",
}
LINK = re.compile(r"(\]\(|\b(?:src|href)=\")(?!https?:|mailto:|#)([^)#\" ]+)((?:#[^)\" ]*)?)(?=[)\"])")


def pages() -> dict[str, Path]:
    """Name of every page to the file it is made of."""
    first = {name: ROOT / path for name, path in FIRST.items() if (ROOT / path).is_file()}
    recipes = {f"recipe-{path.parent.name}": path for path in sorted(ROOT.glob("recipes/*/README.md"))}
    return first | {name: path for name, path in recipes.items() if path not in first.values()}


def linked(text: str, source: Path, out: Path) -> str:
    """A page's text whose relative links lead to pages, or to copies of the files they name.

    Raises:
        FileNotFoundError: A link leads to nothing.
    """
    names = {path: name for name, path in pages().items()}

    def replaced(link: re.Match[str]) -> str:
        target = (source.parent / link[2]).resolve(strict=True)
        if target.is_dir() and (target / "README.md").is_file():
            target /= "README.md"
        if target in names:
            return f"{link[1]}{names[target]}.html{link[3]}"
        copy = out / "files" / target.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if target.is_file():
            copy.write_bytes(target.read_bytes())
        return f"{link[1]}files/{target.relative_to(ROOT).as_posix()}{link[3]}"

    return LINK.sub(replaced, text)


def page(name: str, source: Path, out: Path) -> pdoc.doc.Module:
    """A page as a module that has nothing but its docstring."""
    module = ModuleType(name, linked(source.read_text(encoding="utf-8"), source, out))
    vars(module).update(__docformat__="markdown", __all__=[])
    return pdoc.doc.Module(module)


def exports(module: ModuleType) -> pdoc.doc.Module:
    """A module with all that it offers, each name imported now: pdoc sees only what is there."""
    names = getattr(module, "__all__", None) or [
        name for name, value in vars(module).items() if not (name.startswith("_") or isinstance(value, ModuleType))
    ]
    copy = ModuleType(module.__name__, module.__doc__)
    vars(copy).update({name: getattr(module, name) for name in names}, __all__=names)
    return pdoc.doc.Module(copy)


def with_constructors(module: pdoc.doc.Module) -> pdoc.doc.Module:
    """Every class of ours shows how it is made, also where a base class says it."""
    for documented in module.classes:
        made = documented.members.get("__init__")
        if made and made not in documented.own_members and made.taken_from[0].startswith("lightning_lottery"):
            documented.own_members.insert(0, made)
    return module


def overrides(member: pdoc.doc.Doc) -> bool:
    """Whether a base class has it too: what the Trainer calls, and what each method fills in."""
    owner = getattr(sys.modules[member.modulename], member.qualname.rpartition(".")[0], object)
    return any(member.name in vars(base) for base in owner.__mro__[1:])


def build(out: Path) -> dict[str, Path]:
    """Write everything into a folder.

    Args:
        out: The folder; it is made, and what lies there is written over.

    Returns:
        Name of each page or module to its file.

    Raises:
        FileNotFoundError: A page has a link that leads to nothing.
    """
    modules = {name: page(name, source, out) for name, source in pages().items()}
    references = [exports(lightning_lottery), exports(functional), pdoc.doc.Module(mask_callback)]
    modules |= {module.modulename: with_constructors(module) for module in references}
    pdoc.render.configure(docformat="google", show_source=False, template_directory=Path(__file__).parent)
    pdoc.render.env.globals.update(
        version=lightning_lottery.__version__,
        pages=[name for name in modules if name in FIRST],
        references=[module.modulename for module in references],
        overrides=overrides,
    )
    written = {name: out / f"{name.replace('.', '/')}.html" for name in modules}
    for name, module in modules.items():
        written[name].parent.mkdir(parents=True, exist_ok=True)
        written[name].write_text(pdoc.render.html_module(module, modules), encoding="utf-8")
    (out / "search.js").write_text(pdoc.render.search_index(modules), encoding="utf-8")
    return written


if __name__ == "__main__":
    print(f"See {build(Path(sys.argv[1]))['index']}")
