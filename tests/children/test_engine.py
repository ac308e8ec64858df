import pytest

from lightning_lottery import LotteryError
from lightning_lottery.children.engine import engine_of, engine_options


def test_an_engine_of_no_jobs_is_refused():
    with pytest.raises(LotteryError, match="at the same time >= 1, got 0"):
        engine_of(jobs=0)


@pytest.mark.parametrize("how", [{"jobs": 2}, {"dask": "tcp://127.0.0.1:1"}])
def test_what_no_other_process_can_import_is_not_done_elsewhere(how):
    with pytest.raises(LotteryError, match="functions at the top of a file"):
        engine_of(**how, here={})


def test_a_recipe_s_stage_is_told_by_the_environment_where_its_children_are_done(monkeypatch):
    monkeypatch.delenv("LOTTERY_JOBS", raising=False)
    monkeypatch.delenv("LOTTERY_DASK", raising=False)
    assert engine_options() == {"jobs": 1, "dask": None}
    monkeypatch.setenv("LOTTERY_JOBS", "3")
    monkeypatch.setenv("LOTTERY_DASK", "tcp://there")
    assert engine_options() == {"jobs": 3, "dask": "tcp://there"}
