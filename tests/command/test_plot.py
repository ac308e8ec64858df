import pytest

from helpers.runs import pruned, rows
from lightning_lottery.command.main import main


def test_runs_are_drawn_together_and_what_is_missing_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("early", "late"):
        pruned(tmp_path / name, 2)
    (tmp_path / "late" / "seed-1" / "level-2" / "results.jsonl").unlink()
    main(["plot", "step 0=early", "late", "--out", "pictures"])
    shown = capsys.readouterr().out
    assert "Missing: late: not done yet: seed-1/level-2.\n" in shown and "pictures/levels.png and .svg" in shown
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {"levels.png", "levels.svg"}


def test_a_child_that_nobody_can_read_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pruned(tmp_path / "imp", 2)
    (tmp_path / "imp" / "seed-1" / "level-2" / "child.json").write_text('{"comm')
    main(["plot", "imp"])
    assert "Missing: The specification 'imp/seed-1/level-2/child.json' is damaged" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "RUN"),
        (["none"], "There is no folder 'none'"),
        (["empty"], "'empty' holds no run"),
        (["started"], "There is nothing to draw yet: the lines of 'started' are not judged yet."),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_a_sentence(words, says, tmp_path, refused, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    rows(tmp_path / "started" / "seed-1")
    assert says.lower() in refused("plot", *words).lower()
