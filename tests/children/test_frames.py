import sys

import pytest

from lightning_lottery import LotteryError
from lightning_lottery.children.frames import frame_of
from lightning_lottery.children.records import COLUMNS, record

ROWS = [
    record(stage="a", metric="test_acc", value=0.5, seed=1, time="2026-11-29T10:00:00+00:00"),
    record(stage="a", metric="test_acc", value=float("nan"), seed=2, time="yesterday"),
    record(stage="a", metric="line/test_acc", value=1, child_a="a.ckpt", child_b="b.ckpt", alpha=0.5, parent=7),
]


@pytest.mark.parametrize("rows", [[], ROWS])
def test_a_frame_has_every_column_in_order_and_a_row_for_each_record(rows):
    frame = frame_of(rows)
    assert [*frame.columns] == [*COLUMNS] and len(frame) == len(rows)


def test_whole_numbers_stay_whole_and_what_is_missing_is_missing():
    frame = frame_of(ROWS)
    assert frame.seed.tolist()[:2] == [1, 2] and frame.seed.isna().tolist() == [False, False, True]
    assert frame.groupby("seed").value.count().to_dict() == {1: 1, 2: 0}
    assert frame[frame.parent == 7].child_a.tolist() == ["a.ckpt"]
    assert frame.value.dtype == frame.alpha.dtype == "float64" and frame.alpha.isna().sum() == 2
    assert frame.time.dt.year.tolist()[0] == 2026 and frame.time.isna().tolist() == [False, True, True]


def test_without_pandas_the_line_that_installs_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(LotteryError, match="needs pandas, which is not installed: pip install pandas$"):
        frame_of(ROWS)
