from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from helpers import stages
from helpers.stages import config, fit, mlp_layers, named
from lightning_lottery import LotteryError
from lightning_lottery.command.main import main
from lightning_lottery.command.shrink import shrink_checkpoint
from lightning_lottery.ticket import Ticket
from lightning_lottery.units.groups import groups_of
from lightning_lottery.units.removal import parameter_masks
from lightning_lottery.units.saved import load_shrunk
from lightning_lottery.zoo import ImageClassifier, vit


class Bypassing(ImageClassifier):
    """Its training step never calls one of its networks, and gives no loss where it is told so."""

    def __init__(self, gives_loss: bool = True):
        super().__init__(vit(**stages.NETWORK["init_args"]))
        self.spare, self.gives_loss = nn.Linear(2, 2), gives_loss

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return {"loss": loss} if self.gives_loss else None


def project(model=None):
    """A configuration whose Trainer asks for more than shrinking needs, and a checkpoint of its module."""
    content = fit()
    content["trainer"] |= {"callbacks": [], "devices": 2}
    content["model"] = model or content["model"]
    Path("fit.yaml").write_text(yaml.safe_dump(content))
    torch.manual_seed(1)
    module = Bypassing() if model else ImageClassifier(vit(**stages.NETWORK["init_args"]))
    torch.save(module.state_dict(), "module.ckpt")
    return {"config": "fit.yaml", "ckpt_path": "module.ckpt"}


def test_fractions_remove_so_many_units_of_each_kind_by_the_modules_own_loss_and_the_table_says_what_is_left():
    table = shrink_checkpoint(**project(), heads=0.5, neurons=0.25, submodule="network", batches=2)
    sizes = {group.kind: group.size for group in groups_of(load_shrunk("runs/shrink")).values()}
    assert sizes == {"head": 1, "neuron": 6}
    assert table.splitlines()[1].startswith("parameters") and "100.0%" not in table


def test_a_budget_of_operations_is_held_and_what_is_left_is_tuned():
    options = {"flops": 0.5, "submodule": "network", "batches": 2}
    shrink_checkpoint(**project(), **options, out="plain")
    shrink_checkpoint(**project(), **options, tune=True, first_token=True, tokens=17.0, out="tuned")
    dense = sum(p.numel() for n, p in vit(**stages.NETWORK["init_args"]).named_parameters() if _is_in_a_block(n))
    for out in ("plain", "tuned"):
        assert sum(p.numel() for n, p in load_shrunk(out).named_parameters() if _is_in_a_block(n)) <= dense / 2


def _is_in_a_block(name):
    return "layer" in name and name.endswith("weight") and "norm" not in name


def test_the_same_checkpoint_and_batches_remove_the_same_units():
    for out in ("one", "two"):
        shrink_checkpoint(**project(), neurons=0.5, submodule="network", batches=1, out=out)
    one, two = (load_shrunk(folder).state_dict() for folder in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_project_that_names_no_classes_is_shrunk_where_they_are_named_beside_it():
    options = project()
    content = yaml.safe_load(Path("fit.yaml").read_text())
    beside = {section: f"lightning_lottery.zoo.{content[section]['class_path']}" for section in ("model", "data")}
    content |= {section: content[section]["init_args"] for section in beside}
    Path("fit.yaml").write_text(yaml.safe_dump(content))
    shrink_checkpoint(**options, **beside, heads=0.5, submodule="network", batches=1)
    assert {group.size for group in groups_of(load_shrunk("runs/shrink")).values() if group.kind == "head"} == {1}


def test_a_ticket_or_fractions_are_needed_and_not_both():
    Ticket({}, units={mlp_layers()[0]: torch.arange(8) < 4}).save("units.safetensors")
    for arguments in ({}, {"ticket": "units.safetensors", "heads": 0.5}):
        with pytest.raises(LotteryError, match="either a ticket, or fractions of heads, neurons, channels or flops"):
            shrink_checkpoint(**project(), **arguments)


def test_a_network_that_the_training_step_does_not_call_and_a_step_without_a_loss_are_refused():
    arguments = project(named("command.test_shrink.Bypassing"))
    with pytest.raises(LotteryError, match="does not call 'spare'"):
        shrink_checkpoint(**arguments, heads=0.5, submodule="spare")
    assert "parameters" in shrink_checkpoint(**arguments, heads=0.5, submodule="network")  # a loss in a mapping is one
    arguments = project(named("command.test_shrink.Bypassing", gives_loss=False))
    with pytest.raises(LotteryError, match="returns no loss"):
        shrink_checkpoint(**arguments, heads=0.5, submodule="network")


def test_shrink_writes_a_smaller_network_that_loads_and_computes_what_the_masked_one_does(here, capsys, refused):
    import transformers

    content = fit()
    content["trainer"]["callbacks"] = []
    project = config(content)
    main(["fit", "--config", project, "--trainer.max_steps", "1", "--trainer.logger", "false"])
    (ckpt,) = here.glob("checkpoints/*.ckpt")
    units = {mlp_layers()[0]: torch.arange(8) < 4}
    Ticket({}, units=units).save("units.safetensors")
    capsys.readouterr()
    command = ["shrink", "--config", project, "--ckpt_path", str(ckpt), "--submodule", "network"]
    main([*command, "--ticket", "units.safetensors", "--out", "small"])
    shown = capsys.readouterr().out
    assert "parameters" in shown and "latency" in shown
    small = transformers.AutoModelForImageClassification.from_pretrained("small")
    whole = ImageClassifier(vit(**stages.NETWORK["init_args"]))
    whole.load_state_dict(torch.load(ckpt, weights_only=True)["state_dict"])
    Ticket(parameter_masks(whole, units)).apply(whole)
    images = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(small(images).logits, whole.network.eval()(images).logits)
    main([*command, "--heads", "0.5", "--neurons", "0.5", "--out", "half"])
    assert "smaller network: half" in capsys.readouterr().out
    assert "either a ticket, or fractions" in refused(*command)
    assert "has no submodule 'net'" in refused(*command[:-1], "net", "--heads", "0.5")
