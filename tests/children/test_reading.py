import json

import pytest

from lightning_lottery import LotteryError, files
from lightning_lottery.children import reading
from lightning_lottery.children.reading import is_mapping, is_word, read_json, read_mapping

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
