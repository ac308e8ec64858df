import re
from functools import wraps

import pytest

from helpers.stages import fit, freezing, write
from lightning_lottery.command.main import main
from lightning_lottery.experiments.recipe import run_recipe


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "There is no recipe folder 'recipe'.$"),
        ({}, "has no stage"),
        ({"1-a.fit": {}, "1-b.fit": {}}, "have the same number"),
        ({"1-a.train": {}}, "asks for the subcommand 'train'"),
        ({"1-a.fit": {"trainer": {"max_epoch": 3}}}, "1-a.fit.yaml: .*does not accept option 'trainer.max_epoch'"),
        ({"1-a.fit": fit(freezing("0-none"))}, r"1-a \(1/1\): '.*' does not exist; no earlier stage wrote it.$"),
    ],
)
def test_a_folder_that_cannot_be_run_is_refused(refused, here, files, message):
    if files is not None:
        write(here / "recipe", files)
    assert re.search(message, refused("run", "recipe"))


def test_seeds_are_numbers(refused):
    assert refused("run", "recipe", "--seeds", "0;1") == "--seeds are numbers separated by commas, got '0;1'."


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--jobs=-3"], "`jobs` is a number of children at the same time >= 1, got -3."),
        (["--jobs=0"], "`jobs` is a number of children at the same time >= 1, got 0."),
        (["--seeds=-1"], "`seeds` are whole numbers from 0 to 4294967295, got -1."),
        (["--seeds=0,4294967296"], "`seeds` are whole numbers from 0 to 4294967295, got 4294967296."),
        (["--overlay=binary.yaml"], "The overlay 'binary.yaml' is no text in UTF-8: invalid start byte at byte 0."),
        (["--overlay=none.yaml"], "The overlay 'none.yaml' cannot be read: No such file or directory."),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs_or_is_removed(refused, here, options, message):
    write(here / "recipe", {"1-a.fit": fit()})
    (here / "binary.yaml").write_bytes(b"\xff")
    assert refused("run", "recipe", "--redo", "1-a", *options) == message
    assert not (here / "runs").exists()


def test_run_hands_on_what_it_was_given(here, monkeypatch):
    arguments = {}

    @wraps(run_recipe)  # options are read from its signature
    def recorded(*positional, **named):
        arguments.update(named, positional=positional)

    monkeypatch.setattr("lightning_lottery.command.run.run_recipe", recorded)
    write(here / "folder", {"1-a.fit": {}})
    options = ["--out", "there", "--redo", "1-a", "--redo", "2-b", "--jobs", "2", "--dask", "tcp://there"]
    options += ["--overlay", "o.yaml", "--overlay", "p.yaml"]
    main(["run", "folder", "--seeds", "0,2", *options])
    expected = {"out": "there", "redo": ["1-a", "2-b"], "jobs": 2, "dask": "tcp://there"}
    expected |= {"overlay": ["o.yaml", "p.yaml"]}
    assert arguments == {"positional": ("folder", [0, 2]), **expected}


def test_an_option_that_does_not_exist_is_named_in_one_sentence(refused):
    assert "--seed" in refused("run", "recipe", "--seed", "1")
    assert refused("run", "recipe", "--jobs", "many").startswith("`jobs`: expected int")
