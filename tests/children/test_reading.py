import json

import pytest

from lightning_lottery import LotteryError, files
from lightning_lottery.children import reading
from lightning_lottery.children.reading import is_mapping, is_word, read_json, read_mapping, read_rows

ROW = {"stage": "1-a", "method": "dense", "parent": None, "seeds": [0], "sparsity": 0.0, "metric": "acc", "value": 0.5}
ADVICE = r"To run it again, and what depends on it: --redo \w+, or the stage's name where a recipe runs it"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.json"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged: Expecting value"),
        (b'{"a": ', "is damaged: Expecting value"),
        (b"\xff\xfe{}", "is no text in UTF-8: invalid start byte at byte 0"),
        (b"[" * 100_000, "is damaged: maximum recursion depth"),
        (b"9" * 5000, "is damaged: Exceeds the limit"),
        (b" " * 101, "has more than 0 MiB: it is something else"),
    ],
)
def test_what_is_no_json_is_refused_with_what_to_do(path, content, message, monkeypatch):
    if len(content) == 101:
        monkeypatch.setattr(files, "MOST", 100)
    path.write_bytes(content)
    with pytest.raises(LotteryError, match=f"^The mark '{path}' {message}.*{ADVICE}"):
        read_json(path, "mark")


def test_a_file_that_cannot_be_read_is_named(path):
    with pytest.raises(LotteryError, match=f"^The mark '{path}' cannot be read: No such file.*{ADVICE}"):
        read_json(path, "mark")
    path.mkdir()
    with pytest.raises(LotteryError, match=f"^The mark '{path}' cannot be read: Is a directory.*{ADVICE}"):
        read_json(path, "mark")


@pytest.mark.parametrize("value", [None, 7, "text", [], [1], {}, {"word": 3, "map": {}}, {"word": "w", "map": []}])
def test_a_mapping_of_another_type_is_refused(path, value):
    fits = {"word": is_word, "map": is_mapping}
    path.write_text(json.dumps({"word": "w", "map": {}}))
    assert read_mapping(path, "report", fits) == {"word": "w", "map": {}}
    path.write_text(json.dumps(value))
    with pytest.raises(LotteryError, match=f"^The report '{path}' is damaged: .*{ADVICE}"):
        read_mapping(path, "report", fits)


@pytest.mark.parametrize(
    "change",
    [
        *({"value": value} for value in (None, "0.5", True, [0.5])),
        *({"sparsity": value} for value in ("0", False)),
        *({"seeds": value} for value in (0, "0", [[0]], None)),
        *({"stage": 1}, {"metric": None}, {"method": []}, {"parent": {}}, {"alpha": "0"}),
    ],
)
def test_a_record_with_another_type_of_value_is_refused(path, change):
    whole = json.dumps(ROW)
    path.write_text(f"{whole}\n{json.dumps({**ROW, 'value': float('nan'), 'seeds': ['a', 'b'], 'alpha': 0.5})}\n")
    assert read_rows(path)[0] == ROW
    path.write_text(f"{whole}\n{json.dumps(ROW | change)}\n")
    with pytest.raises(LotteryError, match=f"^The records '{path}' are damaged: line 2 is no record.*{ADVICE}"):
        read_rows(path)


@pytest.mark.parametrize("key", ["stage", "metric", "value", "sparsity", "seeds"])
def test_a_record_that_lacks_what_tables_rely_on_is_none(key):
    assert reading.is_row(ROW) and not reading.is_row({name: value for name, value in ROW.items() if name != key})


@pytest.mark.parametrize("text", ["", "\n", '{"stage": "1-', "[]\n", "7\n"])
def test_records_that_are_none_are_refused(path, text):
    path.write_text(text)
    with pytest.raises(LotteryError, match=f"^The records '{path}' are damaged: .*{ADVICE}"):
        read_rows(path)


def test_what_has_no_end_when_it_is_written_out_is_not_bounded():
    itself = []
    itself.append(itself)
    laughs = ["ha"] * 10
    for _ in range(8):
        laughs = [laughs] * 10
    assert not reading.is_bounded({"a": itself}) and not reading.is_bounded(laughs)
    deep = 0
    for _ in range(reading.DEEPEST):
        deep = [deep]
    assert reading.is_bounded(deep) and not reading.is_bounded({"a": deep})
