import re
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import LightningModule

from helpers.stages import config, fit, named, platon
from lightning_lottery import MagnitudePruning
from lightning_lottery.command.explain import _Explained, _Explainer
from lightning_lottery.command.main import main


class Tied(LightningModule):
    """Two names for one weight, and a layer that is left out."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(64, 64)
        self.second = torch.nn.Linear(64, 64)
        self.second.weight = self.first.weight
        self.head = torch.nn.Linear(64, 10)

    def training_step(self, batch, batch_idx):
        pytest.fail("explain trains")

    validation_step = training_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_explain_shows_everything_trains_nothing_and_leaves_no_file(here, capsys):
    content = {**fit(platon(scope=None)), "model": named("command.test_explain.Tied")}
    content["trainer"] |= {"enable_progress_bar": True, "enable_model_summary": True}
    main(["explain", "--config", config(content)])
    shown = capsys.readouterr().out
    rows = {
        words[0]: words[1:] for line in shown.splitlines() if len(words := re.split(r"\s*[│┃]\s*", line)[1:-1]) == 5
    }
    assert rows == {
        "parameter": ["layer", "shape", "weights", "pruned"],
        "first.weight (tied: second.weight)": ["Linear", "64 x 64", "4,096", "yes"],
        "first.bias": ["Linear", "64", "64", "no: bias"],
        "second.bias": ["Linear", "64", "64", "no: bias"],
        "head.weight": ["Linear", "10 x 64", "640", rows["head.weight"][-1]],
        "head.bias": ["Linear", "10", "10", "no: bias"],
    }
    assert rows["head.weight"][-1] == "no: a classifier, head or pooler"
    assert "PLATON can remove 4,096 of the module's 4,874 weights:" in shown
    schedule = re.findall(r"│\s+(\d+) │\s+([\d.]+ %) │\s+([\d,]+) │", shown)
    assert schedule[0] == ("2", "0.00 %", "4,096") and schedule[-1] == ("8", "50.00 %", "2,048")
    assert "Memory that PLATON adds: 0.05 MiB (13.0 bytes per weight)." in shown  # a mask and three float32 averages
    assert "Zeros alone bring no speed" in shown
    assert [path.name for path in here.iterdir()] == ["fit.yaml"]


def test_explain_refuses_a_scope_that_matches_nothing(refused, here):
    content = fit(platon(scope={"include": ["nothing.*"]}))
    assert "matches none of the 24 parameters" in refused("explain", "--config", config(content))


def test_explain_refuses_a_fit_with_nothing_to_explain(refused):
    bird = named("EarlyBird", rules=[], sparsities=[0.5], at=[1], scores="weights")
    for content in (fit(), fit(bird)):
        assert "holds no callback that makes masks" in refused("explain", "--config", config(content))


def test_explain_shows_the_weights_that_a_draw_will_mask(here, capsys):
    rules = [named("HammingFIFO", length=2, interval=1)]
    bird = named("EarlyBird", rules=rules, sparsities=[0.5], scores="weights", action="prune")
    main(["explain", "--config", config({**fit(bird), "model": named("helpers.blocks.Blocks")})])
    shown = capsys.readouterr().out
    for name in ("self_attn.out_proj.weight", "linear2.weight"):
        assert [line.split("│")[-2].strip() for line in shown.splitlines() if name in line] == ["yes", "yes"]
    assert "can remove 384 of the module's 1,451 weights:" in shown
    bird["init_args"]["action"] = "shrink"
    main(["explain", "--config", config({**fit(bird), "model": named("helpers.blocks.Blocks")})])
    shown = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if "body.layers" in line]
    # Four heads lie in 24 rows of 8 weights and a bias, and are read by 8 x 8 weights.
    assert rows[0] == ["body.layers.0.self_attn", "head", "4", "280"]
    assert [row[2] for row in rows] == ["4", "4", "16", "16"] and "Zeros alone" not in shown


def test_every_rank_plans_what_the_first_one_explains():
    # Planning may compare over ranks: whoever stayed away would let the others wait.
    callback = Mock(spec=MagnitudePruning)
    another_rank = SimpleNamespace(is_global_zero=False, callbacks=[callback])
    with pytest.raises(_Explained):
        _Explainer().on_fit_start(another_rank, Tied())
    callback.plan.assert_called_once()
    callback.explanation.assert_not_called()
