"""`make docs`: every page and every public name, and no link that leads nowhere."""

import re
import runpy
from pathlib import Path

import pytest

import lightning_lottery
from lightning_lottery import functional

BUILD = runpy.run_path(str(Path(__file__).parents[1] / ".github/docs/build.py"))
LINK = re.compile(r'\b(?:href|src)="(?!https?:|mailto:|data:)([^"#]*)#?([^"]*)"')


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return BUILD["build"](tmp_path_factory.mktemp("docs"))


def test_every_public_name_has_its_place(written):
    for module, names in (
        (lightning_lottery, lightning_lottery.__all__),
        (
            functional,
            [name for name, value in vars(functional).items() if getattr(value, "__doc__", "") and callable(value)],
        ),
    ):
        page = written[module.__name__].read_text(encoding="utf-8")
        assert names and [name for name in names if f'<section id="{name}">' not in page] == []


def test_a_class_shows_how_it_is_made_also_where_a_base_class_says_it(written):
    page = written["lightning_lottery"].read_text(encoding="utf-8")
    assert 'id="PLATON.__init__"' in page and 'id="SNIP.__init__"' in page
    assert 'id="PLATON.on_train_batch_end"' not in page  # the Trainer's business


def test_every_page_is_there_under_the_name_that_the_others_know(written):
    assert {"index", "tutorial", "recipes", "changelog", "recipe-quickstart"} <= written.keys()
    for name, path in written.items():
        assert path.stat().st_size > 1000, name


def test_no_link_leads_nowhere(written):
    script = re.compile(r"<script>.*?</script>", re.DOTALL)
    pages = {path.resolve(): script.sub("", path.read_text(encoding="utf-8")) for path in written.values()}
    links = [(path, *link) for path, text in pages.items() for link in LINK.findall(text)]
    assert len(links) > 500
    for path, target, part in links:
        there = (path.parent / target).resolve() if target else path
        assert there.exists(), f"{path.name} links to {target}"
        if part and there in pages:
            assert f'id="{part}"' in pages[there], f"{path.name} links to {target}#{part}"


def test_a_page_with_a_link_that_leads_nowhere_is_not_built(tmp_path):
    readme = BUILD["ROOT"] / "README.md"
    text = '[a](recipes/README.md#b) ![c](recipes/quickstart/measured.png) [d](https://e.org/f) <img src="LICENSE">'
    assert BUILD["linked"](text, readme, tmp_path) == (
        '[a](recipes.html#b) ![c](files/recipes/quickstart/measured.png) [d](https://e.org/f) <img src="files/LICENSE">'
    )
    assert (tmp_path / "files/LICENSE").is_file()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        BUILD["linked"]("[a](nowhere.md)", readme, tmp_path)
