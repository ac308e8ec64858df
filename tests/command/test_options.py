import pytest

from lightning_lottery import LotteryError
from lightning_lottery.command.options import add_redo, parsed, parser_of, seeds_of


def work(config: str, fraction: float = 0.5, *, alphas: tuple[float, ...] = (), out: str = "runs/work") -> None:
    """Do the work.

    Args:
        config: The project.
        fraction: Of the units to remove.
        alphas: Fractions of the line.
        out: Folder for the result.
    """


def test_a_function_s_arguments_are_options_with_its_defaults_and_its_docstring_as_help():
    parser = parser_of("work", work, skip=("out",))
    options = parsed(parser, ["--config", "a.yaml", "--fraction", "0.25"])
    assert options.as_dict() == {"config": "a.yaml", "fraction": 0.25, "alphas": ()}
    shown = " ".join(parser.format_help().split())
    assert "lightning-lottery work" in shown and "Do the work" in shown and "Of the units to remove." in shown
    assert "--out" not in shown


def test_what_has_no_default_is_an_option_or_a_position():
    assert parsed(parser_of("work", work, positional=True), ["a.yaml"]).config == "a.yaml"
    with pytest.raises(LotteryError, match="config"):
        parsed(parser_of("work", work), [])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["--fractio", "0.5"], "--fractio"), (["--fraction", "half"], "fraction"), (["--alphas", "3"], "alphas")],
)
def test_a_mistake_is_raised_as_one_line_that_names_the_option(arguments, named):
    with pytest.raises(LotteryError) as refusal:
        parsed(parser_of("work", work), ["--config", "a.yaml", *arguments])
    assert named in str(refusal.value) and "\n" not in str(refusal.value)


def test_redo_may_be_said_several_times():
    parser = parser_of("work", work)
    add_redo(parser, "child")
    assert parsed(parser, ["--config", "a", "--redo", "x", "--redo", "y"]).redo == ["x", "y"]
    assert parsed(parser, ["--config", "a"]).redo == []


def test_seeds_are_numbers_separated_by_commas():
    assert seeds_of("3") == [3] and seeds_of("0,1,12") == [0, 1, 12]
    for text in ("", "a", "1;2", "1.5"):
        with pytest.raises(LotteryError, match="--seeds are numbers separated by commas"):
            seeds_of(text)
