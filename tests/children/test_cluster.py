"""Children on Dask's workers, in SLURM job arrays, and several at once: the same as one after another."""

import json
import os
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pytest
from lightning.pytorch import Callback, seed_everything
from rich.console import Console

from experiments.test_instability import STEPS, Data, Net, make_data, make_trainer
from helpers.projects import trainer
from lightning_lottery import ExactResume, InstabilityAnalysis, InstabilitySweep, LotteryError, Snapshots
from lightning_lottery.children import cluster, factories
from lightning_lottery.children.child import Child
from lightning_lottery.children.engine import engine_of

QUIET = Console(file=StringIO())


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    """A parent's snapshots at steps 0 and 5."""
    folder = tmp_path_factory.mktemp("parent")
    seed_everything(7, verbose=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "7")
        trainer(folder, ExactResume(), Snapshots([0, 5])).fit(Net(), Data())
    return folder / "snapshots"


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """The address of a Dask scheduler with two workers, processes of their own."""
    distributed = pytest.importorskip("distributed")
    folder = tmp_path_factory.mktemp("dask")
    told = folder / "scheduler.json"
    with subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard"]
        + ["--scheduler-file", told, "--host", "127.0.0.1"],
        stderr=subprocess.DEVNULL,
    ) as process:
        workers = [
            subprocess.Popen(
                [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", told, "--nthreads", "1"]
                + ["--no-dashboard", "--local-directory", folder / str(number)],
                stderr=subprocess.DEVNULL,
            )
            for number in range(2)
        ]
        try:
            while not told.exists():
                time.sleep(0.1)
            address = json.loads(told.read_text())["address"]
            with distributed.Client(address, set_as_default=False) as client:
                client.wait_for_workers(2, timeout=60)
            yield address
        finally:
            for one in (*workers, process):
                one.terminate()
            for one in workers:
                one.wait()


def sweep(parent, make=make_trainer):
    return InstabilitySweep(Net, make_data, make, snapshots=[parent], seeds=[1, 2], alphas=3)


def test_two_at_once_dask_s_workers_and_one_after_another_find_the_same(parent, scheduler, tmp_path):
    here = sweep(parent, make=lambda **given: make_trainer(**given)).run(out=tmp_path / "here")
    for name, how in (("jobs", {"jobs": 2}), ("dask", {"dask": scheduler})):
        found = sweep(parent).run(out=tmp_path / name, **how)
        assert found.barriers("dense") == here.barriers("dense") and found.lines("dense") == here.lines("dense")
        texts = [(tmp_path / of / "results.jsonl").read_text() for of in (name, "here")]
        assert texts[0] == texts[1]


class Slow(Callback):
    """Writes down every step it takes, and takes its time."""

    def on_train_batch_end(self, trainer, *_):
        with open(Path(trainer.default_root_dir) / "steps", "a") as steps:
            steps.write(f"{trainer.global_step} {os.getppid()}\n")
        time.sleep(0.3)


def make_slow_trainer(**given):
    return trainer(given["default_root_dir"], Slow(), ExactResume(every=2), logger=given["logger"])


def steps_of(child):
    path = child.folder / "steps"
    return [int(line.split()[0]) for line in path.read_text().splitlines()] if path.exists() else []


def child_of(folder, parent, make):
    project = factories.FactoryProject(Net, make_data, make)
    config = {**project.config(), "seed_everything": 1, "ckpt_path": str(parent / "step=0.ckpt")}
    child = Child(folder, "fit", config, {}, {"ticket": None})
    child.prepare()
    return child


def killed_once(child, pid_of_starter):
    """Wait until a child has taken five steps, then kill what started it."""
    while len(steps_of(child)) < 5:
        time.sleep(0.05)
    os.kill(pid_of_starter(), signal.SIGKILL)


def test_a_killed_worker_loses_only_the_steps_since_its_child_s_last_checkpoint(parent, scheduler, tmp_path):
    from threading import Thread

    child = child_of(tmp_path / "child", parent, make_slow_trainer)

    def worker():
        return int((child.folder / "steps").read_text().split()[1])

    Thread(target=killed_once, args=(child, worker), daemon=True).start()
    engine_of(dask=scheduler)([("slow", child)], QUIET)
    steps = steps_of(child)
    assert child.is_done and steps[-1] == STEPS and len(set(steps)) == STEPS
    assert steps != sorted(set(steps)) and steps.count(1) == 1  # it went back, and not to the beginning


def test_a_child_ends_with_the_process_that_started_it(parent, tmp_path):
    child = child_of(tmp_path / "child", parent, make_slow_trainer)
    script = (
        "from pathlib import Path; from lightning_lottery.children.child import Child;"
        "from lightning_lottery.children.processes import run_child; import sys;"
        "run_child(Child.load(Path(sys.argv[1])))"
    )
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", script, child.folder], env=variables) as starter:
        killed_once(child, lambda: starter.pid)
    time.sleep(1)
    taken = len(steps_of(child))
    time.sleep(1)
    assert len(steps_of(child)) == taken < STEPS and not child.is_done


FAKE_SBATCH = """#!/bin/bash
# One array after another, each task as SLURM would start it: with its number, in the folder that --chdir names.
echo "$@" >> {log}
for script in "$@"; do :; done
tasks=$(sed -n 's/^#SBATCH --array=1-//p' "$script")
eval "$(sed -n 's/^#SBATCH --chdir=/cd /p' "$script")"
for task in $(seq "$tasks"); do SLURM_ARRAY_TASK_ID=$task bash "$script" >> {log}.out 2>&1 || exit 1; done
echo "$tasks;cluster"
"""


def test_a_slurm_array_does_a_child_a_task_and_a_wave_after_the_one_before(parent, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    for name, text in {"srun": '#!/bin/bash\nexec "$@"\n', "sbatch": FAKE_SBATCH.format(log=tmp_path / "log")}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    analysis = InstabilityAnalysis(Net, make_data, make_trainer, alphas=3)
    plan = analysis.plan(Path("out of here"), None, (1, 2))
    script = cluster.write_slurm(plan.waves, Path("out of here/slurm"))
    variables = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(["bash", script, "--partition", "gpu"], env=os.environ | variables, check=True, cwd="/")
    first, second = (tmp_path / "log").read_text().splitlines()
    assert first.startswith("--parsable --partition gpu ") and first.endswith("/wave-1.sbatch")
    assert second.startswith("--parsable --dependency=afterany:1 --partition gpu ")
    assert all(child.is_done for wave in plan.waves for child in wave) and len(plan.waves[1]) == 2
    with pytest.raises(LotteryError, match="Every child is done: the same command without --slurm judges them"):
        cluster.write_slurm(plan.waves, Path("out of here/slurm"))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"jobs": 0}, "at the same time >= 1"),
        ({"dask": "tcp://127.0.0.1:1"}, "There is no Dask scheduler at 'tcp://127.0.0.1:1'"),
    ],
)
def test_an_engine_that_cannot_be_is_refused(how, said, monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", "1s")
    with pytest.raises(LotteryError, match=said):
        engine_of(**how)([], QUIET)


@pytest.mark.parametrize("how", [{"jobs": 2}, {"dask": "tcp://127.0.0.1:1"}])
def test_what_no_other_process_can_import_is_not_done_elsewhere(how):
    with pytest.raises(LotteryError, match="functions at the top of a file"):
        engine_of(**how, here=lambda child: {})
