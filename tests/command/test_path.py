import json
import re

import pytest
import torch

from helpers.stages import config
from lightning_lottery.command.main import main
from lightning_lottery.command.path import EXIT_CODES


@pytest.fixture
def networks():
    """Two checkpoints of a module as two seeds build it, and the configuration that names it."""
    from lightning_lottery.zoo import ImageClassifier, lenet_300_100

    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save({"state_dict": ImageClassifier(lenet_300_100(inputs=64)).state_dict()}, f"{seed}.ckpt")
    network = {"class_path": "lightning_lottery.zoo.lenet_300_100", "init_args": {"inputs": 64}}
    model = {"class_path": "ImageClassifier", "init_args": {"network": network}}
    data = {"class_path": "Digits", "init_args": {"batch_size": 128}}
    snapshots = {"class_path": "Snapshots", "init_args": {"steps": [0]}}
    trainer = {"accelerator": "cpu", "max_epochs": 1, "callbacks": [snapshots]}
    return ["0.ckpt", "1.ckpt"], config({"model": model, "data": data, "trainer": trainer})


def test_path_leaves_a_table_records_a_figure_and_curves(networks, here, capsys):
    files, project = networks
    main(["path", *files, "--config", project, "--alphas", "[0, 0.25, 0.5, 0.75, 1]", "--out", "line"])
    shown = capsys.readouterr().out
    assert "0.ckpt - 1.ckpt" in shown and "test_acc over 359 samples" in shown
    assert re.search("(un)?(stable|decided): mean error barrier 0.[0-9]{4}; .* This is about these two networks", shown)
    rows = [json.loads(line) for line in (here / "line/results.jsonl").read_text().splitlines()]
    assert sorted({row["alpha"] for row in rows if row["alpha"] is not None}) == [0.0, 0.25, 0.5, 0.75, 1.0]
    metrics = {row["metric"] for row in rows}
    assert metrics >= {"line/test_acc", "line/test_loss", "error_barrier", "error_excess", "l2", "cosine"}
    assert rows[0]["child_a"] == "0.ckpt" and rows[0]["time"] and "test_acc" not in metrics
    assert (here / "line/path.png").read_bytes().startswith(b"\x89PNG")
    assert list((here / "line/path").glob("events.*"))
    assert not (here / "snapshots").exists()


def test_path_aligns_and_writes_the_midpoint(networks, here, capsys):
    files, project = networks
    main(
        [
            "path",
            *files,
            "--config",
            project,
            "--alphas",
            "[0,0.5,1]",
            "--out",
            "a",
            "--align",
            "--save_midpoint",
            "mid.ckpt",
        ]
    )
    shown = capsys.readouterr().out
    assert "aligned: 2 groups of units" in shown and "mean of all networks: test_acc 0." in shown
    summary = json.loads((here / "a/summary.json").read_text())
    assert summary["pairs"]["0-1"]["aligned group network.1"]["units"] == 300
    assert torch.load("mid.ckpt", weights_only=True)["state_dict"].keys() == torch.load(files[0])["state_dict"].keys()


def test_the_verdict_on_averages_is_the_exit_code(networks, here, capsys):
    files, project = networks
    main(["path", files[0], files[0], "--config", project, "--alphas", "[0,1]", "--out", "a", "--soup"])
    assert "All 2 networks may be averaged." in capsys.readouterr().out
    strict = ["--monitor", "test_loss", "--mode", "min", "--threshold", "1e-6", "--save_midpoint", "part.ckpt"]
    with pytest.raises(SystemExit) as end:
        main(["path", *files, "--config", project, "--alphas", "[0,1]", "--out", "b", "--soup", *strict])
    averaging = json.loads((here / "b/summary.json").read_text())["averaging"]
    assert 0 < end.value.code == EXIT_CODES[averaging["verdict"]] and averaging["chosen_on"] == 359
    assert (here / "part.ckpt").exists() == (end.value.code == 3)
    assert sorted(set(EXIT_CODES.values())) == [0, 3, 4, 5]


def test_path_says_what_is_wrong_with_its_checkpoints(networks, refused):
    files, project = networks
    assert "A line needs two networks" in refused("path", files[0], "--config", project)
    assert "There is no checkpoint 'none.ckpt'" in refused("path", files[0], "none.ckpt", "--config", project)
    assert "does not log 'f1'" in refused("path", *files, "--config", project, "--monitor", "f1")
    assert "both ends 0 and 1" in refused("path", *files, "--config", project, "--alphas", "[0]")
