import os
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from helpers.children import finished
from helpers.stages import fit, freezing, named, write
from lightning_lottery import LotteryError
from lightning_lottery.children.child import Child
from lightning_lottery.experiments.stage_children import (
    child_of_stage,
    is_known,
    refuse_changed,
    refuse_repeated,
    run_stage,
)
from lightning_lottery.experiments.stages import stages_of


@pytest.fixture
def stages(tmp_path):
    seeded = named("Snapshots", steps=["${oc.env:LOTTERY_SEED}"])
    return stages_of(write(tmp_path / "recipe", {"1-dense.fit": fit(seeded), "2-ticket.fit": fit(freezing("1-dense"))}))


def test_a_stage_reads_the_seed_and_the_folder_of_its_run(stages, tmp_path):
    first, second = (child_of_stage(stage, 7, tmp_path / "seed-7", ()) for stage in stages)
    assert first.folder == tmp_path / "seed-7/1-dense" and first.command == "fit"
    assert (
        first.labels == {"recipe": tmp_path.name, "stage": "1-dense", "seed": 7}
        and first.config["seed_everything"] == 7
    )
    assert first.config["trainer"]["callbacks"][-1]["init_args"]["steps"] == [7]
    assert second.config["trainer"]["callbacks"][-1]["init_args"]["ticket"].startswith(f"{tmp_path}/seed-7/1-dense/")
    assert not {"LOTTERY_RUN", "LOTTERY_SEED"} & {*os.environ}


def test_overlays_lie_above_the_stage_and_later_ones_above_earlier(stages, tmp_path):
    overlays = [tmp_path / "one.yaml", tmp_path / "two.yaml"]
    overlays[0].write_text("trainer: {max_epochs: 1, limit_val_batches: 3}")
    overlays[1].write_text("trainer: {max_epochs: 4}")
    trainer = child_of_stage(stages[0], 0, tmp_path, overlays).config["trainer"]
    assert (trainer["max_epochs"], trainer["limit_val_batches"]) == (4, 3)
    assert child_of_stage(stages[0], 0, tmp_path, overlays[:1]).config["trainer"]["max_epochs"] == 1


def test_a_refused_configuration_names_its_stage(tmp_path):
    (stage,) = stages_of(write(tmp_path / "recipe", {"1-dense.fit": {"trainer": {"max_epoch": 1}}}))
    with pytest.raises(LotteryError, match="1-dense.fit.yaml: .*trainer.max_epoch"):
        child_of_stage(stage, 0, tmp_path, ())


def test_a_stage_whose_file_is_missing_is_not_begun(stages, tmp_path):
    ticket = child_of_stage(stages[1], 0, tmp_path / "seed-0", ())
    with pytest.raises(LotteryError, match="ticket: '.*1-dense/ticket.safetensors' does not exist; no earlier stage"):
        run_stage(ticket, "ticket", Console(file=StringIO()))
    assert not ticket.folder.exists()


def test_a_configuration_is_final_once_the_stages_that_it_waits_for_are_done(tmp_path):
    waiting = {"trainer": {"max_steps": "${stable_step:1-when}"}}
    stages = stages_of(write(tmp_path / "recipe", {"1-when.sweep": {}, "2-at.fit": waiting}))
    first, second = (Child(tmp_path / stage.name, stage.command, {}) for stage in stages)
    assert is_known(first, stages, ()) and not is_known(second, stages, ())
    first.folder.mkdir()
    (first.folder / "done").touch()
    assert is_known(second, stages, ())


def test_an_experiment_that_trains_the_same_for_two_seeds_is_refused_and_a_fit_is_not():
    def runs(command, *seeds):
        return {seed: [Child(Path(f"{seed}/1-a"), command, {"seed_everything": seed, "imp": {}})] for seed in seeds}

    with pytest.raises(LotteryError, match="Stage '1-a' names the seeds that it trains.* the same 2 times"):
        refuse_repeated(runs("imp", 0, 1))
    refuse_repeated(runs("imp", 0))
    refuse_repeated(runs("fit", 0, 1))


def test_every_stage_that_changed_is_named_with_what_to_do(tmp_path):
    children = []
    for name in ("1-a", "2-b"):
        finished(Child(tmp_path / name, "fit", {"lr": 1}))
        children.append(Child(tmp_path / name, "fit", {"lr": 2}))
    with pytest.raises(LotteryError, match="1-a: lr was 1, is 2. 2-b: lr was 1, is 2.*--redo 1-a --redo 2-b$"):
        refuse_changed(children)
    refuse_changed([Child(tmp_path / name, "fit", {"lr": 1}) for name in ("1-a", "2-b")])


def test_what_two_stages_share_in_a_file_is_read_from_their_own_folder(tmp_path, monkeypatch):
    whole = fit()
    by_name = {**whole, "model": "network.yaml", "data": "data.yaml"}
    written = {"network": whole["model"], "data": whole["data"]}
    shared = write(tmp_path / "shared", {"01-dense.fit": by_name, **written})
    alone = write(tmp_path / "alone", {"01-dense.fit": whole})
    monkeypatch.chdir(tmp_path)
    (named_files,), (written_out,) = stages_of(shared), stages_of(alone)
    configs = [child_of_stage(stage, 0, tmp_path / "run", ()).config for stage in (named_files, written_out)]
    assert configs[0] == configs[1]
