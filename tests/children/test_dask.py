"""Dask's workers do children as one process after another does."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from threading import Thread

import pytest

from helpers.factories import STEPS, Net, make_data, make_trainer
from helpers.slow_children import QUIET, kill_after_five_steps, slow_child, steps_of
from lightning_lottery import InstabilitySweep, LotteryError
from lightning_lottery.children import dask
from lightning_lottery.children.engine import engine_of
from lightning_lottery.children.factories import FactoryProject


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """The address of a Dask scheduler with two workers, processes of their own."""
    distributed = pytest.importorskip("distributed")
    folder = tmp_path_factory.mktemp("dask")
    file = folder / "scheduler.json"
    with subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard"]
        + ["--scheduler-file", file, "--host", "127.0.0.1"],
        stderr=subprocess.DEVNULL,
    ) as process:
        workers = [
            subprocess.Popen(
                [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", file, "--nthreads", "1"]
                + ["--no-dashboard", "--local-directory", folder / str(number)],
                stderr=subprocess.DEVNULL,
            )
            for number in range(2)
        ]
        try:
            while not file.exists():
                time.sleep(0.1)
            address = json.loads(file.read_text())["address"]
            with distributed.Client(address, set_as_default=False) as client:
                client.wait_for_workers(2, timeout=60)
            yield address
        finally:
            for one in (*workers, process):
                one.terminate()
            for one in workers:
                one.wait()


def test_two_at_once_dask_s_workers_and_one_after_another_find_the_same(parent, scheduler, tmp_path):
    sweep = InstabilitySweep(snapshots=[str(parent)], seeds=[1, 2], alphas=[0, 0.5, 1])
    project = FactoryProject(Net, make_data, make_trainer)
    only_here = replace(project, make_trainer=lambda **arguments: make_trainer(**arguments))
    here = sweep.run(only_here, out=tmp_path / "here")
    for name, how in (("jobs", {"jobs": 2}), ("dask", {"dask": scheduler})):
        report = sweep.run(project, out=tmp_path / name, **how)
        assert report.barriers("dense") == here.barriers("dense") and report.lines("dense") == here.lines("dense")
        texts = [(tmp_path / folder / "results.jsonl").read_text() for folder in (name, "here")]
        assert texts[0] == texts[1]


def test_a_killed_worker_loses_only_the_steps_since_its_child_s_last_checkpoint(parent, scheduler, tmp_path):
    child = slow_child(tmp_path / "child", parent)

    def worker():
        return int((child.folder / "steps").read_text().split()[1])

    Thread(target=kill_after_five_steps, args=(child, worker), daemon=True).start()
    engine_of(dask=scheduler)([("slow", child)], QUIET)
    steps = steps_of(child)
    assert child.is_done and steps[-1] == STEPS and len(set(steps)) == STEPS
    assert steps != sorted(set(steps)) and steps.count(1) == 1  # it went back, and not to the beginning


def test_a_scheduler_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(dask, "PATIENCE", "1s")
    with pytest.raises(LotteryError, match="There is no Dask scheduler at 'tcp://127.0.0.1:1'"):
        engine_of(dask="tcp://127.0.0.1:1")([], QUIET)
