"""Help that a newcomer reads in a terminal of 80 columns."""

import re

import pytest

from lightning_lottery.command.at_once import checked
from lightning_lottery.command.help import help_of, rows_of, usage
from lightning_lottery.command.subcommands import SUBCOMMANDS


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_help_fits_eighty_columns_shows_an_example_and_every_option_of_its_own(name):
    text = help_of(SUBCOMMANDS[name])
    assert max(map(len, text.splitlines())) < 80
    assert "Example" in text and f"  lightning-lottery {name}" in text
    assert [option for option in SUBCOMMANDS[name].names if f"--{option}" not in text] == []
    assert "``" not in text


def test_usage_fits_eighty_columns_and_names_every_subcommand_once():
    text = usage()
    assert max(map(len, text.splitlines())) < 80
    assert all(len(re.findall(rf"^  {name}(?: |$)", text, re.MULTILINE)) == 1 for name in SUBCOMMANDS)


def test_help_of_fit_is_one_screen_without_the_options_of_experiments():
    text = help_of(SUBCOMMANDS["fit"])
    assert len(text.splitlines()) <= 48
    assert "--sweep" not in text and "--imp" not in text and "--help_all" in text


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_option_in_an_example_exists(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()
    for example in SUBCOMMANDS[name].examples:
        words = example.split()[1:]
        for word in words:
            if not word.startswith("-") and ("." in word or "/" in word) and "[" not in word and "=" not in word:
                (tmp_path / word).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / word).touch()
        checked(SUBCOMMANDS[name], [word for word in words if word not in (">>", "~/.bashrc")])


def test_an_example_is_never_broken_between_an_option_and_its_value():
    text = help_of(SUBCOMMANDS["instability"])
    assert "--ckpt_path k.ckpt \\\n      --seeds 1,2,3\n" in text


def test_a_name_too_long_for_its_column_stands_on_a_line_of_its_own():
    assert [*rows_of([("short", "a"), ("much-too-long", "b")], column=10)] == [
        "  short   a",
        "  much-too-long",
        "          b",
    ]
