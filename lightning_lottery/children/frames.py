"""Records as a data frame of pandas, which nothing else of the package needs."""

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_lottery.children.records import COLUMNS, Row
from lightning_lottery.errors import LotteryError

if TYPE_CHECKING:
    from pandas import DataFrame

WHOLE = ("n", "seed", "parent", "child_a", "child_b", "step", "level")
"""Columns of whole numbers; of text where somebody wrote some, as ``path`` writes the names of its checkpoints."""

REAL = ("value", "alpha", "density")


def frame_of(rows: Sequence[Row]) -> "DataFrame":
    """Records as a data frame: every column of ``COLUMNS`` in order, whole numbers with gaps as ``Int64``.

    Raises:
        LotteryError: pandas is not installed.
    """
    pandas = import_pandas()
    return pandas.DataFrame({column: _series(pandas, column, [row.get(column) for row in rows]) for column in COLUMNS})


def import_pandas() -> Any:
    """The module pandas.

    Raises:
        LotteryError: It is not installed.
    """
    try:
        return import_module("pandas")
    except ImportError as error:
        raise LotteryError("A data frame needs pandas, which is not installed: pip install pandas") from error


def _series(pandas: Any, column: str, values: list[Any]) -> Any:
    if column in REAL:
        return pandas.Series(values, dtype="float64")
    if column == "time":
        return pandas.to_datetime(pandas.Series(values, dtype="object"), utc=True, errors="coerce")
    is_whole = column in WHOLE and all(value is None or isinstance(value, int) for value in values)
    return pandas.Series(values, dtype="Int64" if is_whole else "object")
