import json

import pytest

from helpers.sweeps import sweep
from lightning_lottery.command.main import main


def test_the_command_writes_points_figure_and_summary_and_says_what_they_say(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep(tmp_path / "sweep")
    main(["predict-tickets", "sweep", "--out", "out", "--margin", "0.02"])
    said = " ".join(capsys.readouterr().out.split())
    assert "synflow: among 5 initialisations at the same step, a lower barrier" in said and "points.csv" in said
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["margin"] == 0.02
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "points.csv",
        "summary.json",
        "prediction.png",
        "prediction.svg",
    }


@pytest.mark.parametrize("words", [["--plan", "r=0.7"], ["--plan=r=0.7,steps=7"]])
def test_a_plan_says_how_many_parents_it_takes(words, capsys):
    main(["predict-tickets", *words])
    assert capsys.readouterr().out.startswith("6 parents show a correlation of 0.7 within steps")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--plan", "0.7"], "--plan is 'r=0.5'"),
        (["--plan", "r=0.7,p=3"], "takes r and steps, got p"),
        (["--plan", "r=1.5"], "below 1"),
        (["nowhere"], "There is no folder of a sweep 'nowhere'"),
        (["."], "There is no finished sweep in '.'"),
        ([], "sweep"),
    ],
)
def test_mistakes_are_a_sentence(words, says, capsys):
    with pytest.raises(SystemExit) as end:
        main(["predict-tickets", *words])
    assert end.value.code == 2 and says in capsys.readouterr().err
