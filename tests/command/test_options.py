import pytest

from lightning_lottery import LotteryError
from lightning_lottery.command.options import console, parsed, parser_of, seeds_of, words_of
from lightning_lottery.command.subcommands import SUBCOMMANDS, Option, Signature, Subcommand


def work(config: str, fraction: float = 0.5, *, alphas: tuple[float, ...] = (), hidden: str = "") -> None:
    """Do the work.

    Args:
        config: The project.
        fraction: Of the units to remove.
        alphas: Fractions of the line.
        hidden: Nobody says it.
    """


@pytest.fixture(autouse=True)
def a_subcommand(monkeypatch):
    """One that works, in the table of subcommands."""
    again = Option("redo", "what to do again", "NAME", kind="again")
    subcommand = Subcommand("work", "Do.", options=(again,), signature=Signature("", "", frozenset({"hidden"})))
    monkeypatch.setitem(SUBCOMMANDS, "work", subcommand)


def test_a_function_s_arguments_are_options_with_its_defaults_beside_those_of_the_table():
    options = parsed(parser_of("work", work), ["--config", "a.yaml", "--fraction", "0.25"])
    assert options.as_dict() == {"config": "a.yaml", "fraction": 0.25, "alphas": (), "redo": []}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["--fractio", "0.5"], "--fractio"), (["--fraction", "half"], "fraction"), (["--alphas", "3"], "alphas")],
)
def test_a_mistake_is_raised_as_one_line_that_names_the_option(arguments, named):
    with pytest.raises(LotteryError) as refusal:
        parsed(parser_of("work", work), ["--config", "a.yaml", *arguments])
    assert named in str(refusal.value) and "\n" not in str(refusal.value)


def test_an_option_of_the_table_may_be_said_several_times():
    assert parsed(parser_of("work", work), ["--config", "a", "--redo", "x", "--redo", "y"]).redo == ["x", "y"]


def test_words_of_a_subcommand_without_a_function_and_none_too_many():
    assert words_of("new-recipe", ["quickstart"]).recipe == "quickstart"
    with pytest.raises(LotteryError, match="`new-recipe` does not know what to do with 'c'"):
        words_of("new-recipe", ["a", "b", "c"])


def test_seeds_are_numbers_separated_by_commas():
    assert seeds_of("3") == [3] and seeds_of("0,1,12") == [0, 1, 12]
    for text in ("", "a", "1;2", "1.5"):
        with pytest.raises(LotteryError, match="--seeds are numbers separated by commas"):
            seeds_of(text)


def test_what_is_written_into_a_pipe_is_not_cut_at_eighty_columns(capsys):
    console().print("a" * 150)
    assert "a" * 150 in capsys.readouterr().out
