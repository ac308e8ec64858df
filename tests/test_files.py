"""Files that are whole or not there: tables and figures, here or under a URL."""

import csv
import fcntl
from pathlib import Path

import fsspec
import matplotlib
import matplotlib.image
import matplotlib.style
import pytest
from matplotlib.figure import Figure

from lightning_lottery import LotteryError, files
from lightning_lottery.files import (
    Remote,
    alone_in,
    location,
    opened,
    read_text,
    remove_leftovers,
    write_image,
    write_table,
    write_whole,
)


def test_a_table_has_a_column_for_every_key_and_lists_in_one_cell(tmp_path):
    rows = [{"seeds": [1, 2], "name": 'a "b", c'}, {"name": "d", "loss": 0.1}, {"seeds": (), "loss": None}]
    write_table(tmp_path / "t.csv", rows, "records")
    with open(tmp_path / "t.csv", newline="") as file:
        read = list(csv.DictReader(file))
    assert read == [
        {"seeds": "1 2", "name": 'a "b", c', "loss": ""},
        {"seeds": "", "name": "d", "loss": "0.1"},
        {"seeds": "", "name": "", "loss": ""},
    ]


def test_a_table_without_rows_still_has_its_header(tmp_path):
    write_table(tmp_path / "t.csv", [], "norms", columns=("step", "norm"))
    assert (tmp_path / "t.csv").read_text().splitlines() == ["step,norm"]


def test_columns_that_are_named_come_first(tmp_path):
    write_table(tmp_path / "t.csv", [{"b": 1, "a": 2}], "norms", columns=("a",))
    assert (tmp_path / "t.csv").read_text().splitlines() == ["a,b", "2,1"]


def test_a_text_is_read_whole_or_refused_by_name(tmp_path, monkeypatch):
    path = tmp_path / "text"
    path.write_bytes("ä".encode())
    assert read_text(path, "stage") == "ä"
    monkeypatch.setattr(files, "MOST", 1)
    with pytest.raises(LotteryError, match=f"^The stage '{path}' has more than 0 MiB"):
        read_text(path, "stage")
    with pytest.raises(LotteryError, match=f"^The stage '{tmp_path}' cannot be read: Is a directory"):
        read_text(tmp_path, "stage")


def test_a_folder_whose_lock_cannot_be_had_is_named_and_what_the_block_raises_is_not_taken_for_it(tmp_path):
    with pytest.raises(OSError, match="^of the block"), alone_in(tmp_path):
        raise OSError("of the block")
    (tmp_path / ".lock").unlink()
    (tmp_path / ".lock").mkdir()
    with pytest.raises(LotteryError, match="/.lock' cannot be locked: "), alone_in(tmp_path):
        pytest.fail("it is held")


def test_what_cannot_be_written_is_refused_by_its_name_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    for write in (
        lambda path: write_table(path, [], "norms"),
        lambda path: write_image(path.parent, path.stem, Figure()),
    ):
        with pytest.raises(LotteryError, match="The (norms|figure) '.*' could not be written"):
            write(tmp_path / "file" / "t.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_location_is_a_path_here_or_a_url_and_never_a_folder_called_as_a_url(tmp_path):
    for path in ("run", tmp_path / "a: b", str(tmp_path / "step=1:2")):
        assert location(path) == Path(path)
    for url in (f"file://{tmp_path}", f"file:{tmp_path}", f"local://{tmp_path}"):
        assert location(url) == tmp_path
    bucket = location("memory://bucket/run/")
    assert bucket == Remote("memory://bucket/run/") and location(bucket) is bucket
    assert str(bucket / "snapshots" / "a.ckpt") == "memory://bucket/run/snapshots/a.ckpt"


def test_a_url_of_no_known_kind_is_refused_by_name():
    with pytest.raises(LotteryError, match="'nowhere://a' cannot be written to: Protocol not known: nowhere"):
        location("nowhere://a")


def test_what_is_written_under_a_url_is_read_from_there_and_from_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = location("memory://files/run")
    write_whole(folder / "a", b"first", "text")
    write_whole(folder / "a", b"second", "text")
    write_table(folder / "deep" / "t.csv", [{"a": 1}], "norms")
    write_image(folder, "f", Figure())
    assert opened(folder / "a").read() == b"second" and opened(folder / "deep" / "t.csv").read() == b"a\r\n1\r\n"
    assert len(fsspec.filesystem("memory").find("files/run")) == 4 and not list(tmp_path.iterdir())


def test_a_figure_is_written_for_screens_and_for_papers_the_same_bytes_each_time_on_white_paper(tmp_path):
    for folder in ("first", "second"):
        figure = Figure(figsize=(2, 2))
        figure.add_subplot().plot([0, 1], [1, 0])
        with matplotlib.style.context("dark_background"):
            write_image(tmp_path / folder, "f", figure)
    for name in ("f.png", "f.svg"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    svg = (tmp_path / "first" / "f.svg").read_text()
    assert "dc:date" not in svg and 'style="fill: #ffffff"' in svg
    assert matplotlib.image.imread(tmp_path / "first" / "f.png")[0, 0].tolist() == [1, 1, 1, 1]


def test_whatever_a_store_raises_is_one_sentence_with_the_url(monkeypatch):
    def refuses(*_, **__):
        raise RuntimeError("no credentials")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem._open", refuses)
    with pytest.raises(LotteryError, match="The text 'memory://files/b' could not be written: no credentials"):
        write_whole(location("memory://files/b"), b"", "text")


def test_a_write_removes_what_killed_writers_left_of_its_file_alone_and_leaves_living_ones_theirs(tmp_path):
    killed, living, unlike = (tmp_path / f".{name}.partial" for name in ("a[1].12", "a[1].13", "b.12"))
    for left in (killed, living, unlike, tmp_path / "mine.partial"):
        left.write_bytes(b"half")
    with open(living, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_whole(tmp_path / "a[1]", b"whole", "text")
        assert sorted(path.name for path in tmp_path.glob(".*")) == [living.name, unlike.name]
        remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [living.name, "a[1]", "mine.partial"]
