"""SLURM job arrays, as a stand-in for ``sbatch`` runs them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.factories import Net, make_data, make_trainer
from lightning_lottery import InstabilityAnalysis, LotteryError
from lightning_lottery.children import slurm
from lightning_lottery.children.child import Child
from lightning_lottery.children.factories import FactoryProject
from lightning_lottery.children.resume import do_child
from lightning_lottery.children.signals import Ended

FAKE_SBATCH = """#!/bin/bash
# One array after another, each task as SLURM would start it: with its number, in the folder that --chdir names.
echo "$@" >> {log}
for script in "$@"; do :; done
tasks=$(sed -n 's/^#SBATCH --array=1-//p' "$script")
eval "$(sed -n 's/^#SBATCH --chdir=/cd /p' "$script")"
for task in $(seq "$tasks"); do SLURM_ARRAY_TASK_ID=$task bash "$script" >> {log}.out 2>&1 || exit 1; done
echo "$tasks;cluster"
"""


def test_a_slurm_array_does_a_child_a_task_and_a_wave_after_the_one_before(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    for name, text in {"srun": '#!/bin/bash\nexec "$@"\n', "sbatch": FAKE_SBATCH.format(log=tmp_path / "log")}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    project = FactoryProject(Net, make_data, make_trainer)
    plan = InstabilityAnalysis(alphas=[0, 0.5, 1]).plan(project, "out of here")
    script = slurm.write_slurm(plan.waves, Path("out of here/slurm"))
    variables = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(["bash", script, "--partition", "gpu"], env=os.environ | variables, check=True, cwd="/")
    first, second = (tmp_path / "log").read_text().splitlines()
    assert first.startswith("--parsable --partition gpu ") and first.endswith("/wave-1.sbatch")
    assert second.startswith("--parsable --dependency=afterany:1 --partition gpu ")
    assert all(child.is_done for wave in plan.waves for child in wave) and len(plan.waves[1]) == 2
    with pytest.raises(LotteryError, match="Every child is done: the same command without --slurm judges them"):
        slurm.write_slurm(plan.waves, Path("out of here/slurm"))


@pytest.mark.parametrize(
    ("variables", "job"),
    [
        ({"SLURM_JOB_ID": "7"}, "7"),
        ({"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "8", "SLURM_ARRAY_TASK_ID": "3"}, "8_3"),
        ({}, None),
    ],
)
def test_a_child_whose_time_runs_out_has_its_job_requeued(tmp_path, monkeypatch, variables, job):
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    requeued = tmp_path / "requeued"
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {requeued}\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    child = Child(tmp_path / "child", "fit", {"ckpt_path": None})
    child.prepare()

    def is_asked(*_):
        os.kill(os.getpid(), signal.SIGUSR1)

    with pytest.raises(Ended):
        do_child(child.folder, {"fit": is_asked})
    assert (requeued.read_text() if requeued.exists() else None) == (job and f"requeue {job}\n")
