import pytest
import torch
from torch import nn

from helpers.lines import Judged, line_between, mlp, quadrants, saved, trained
from helpers.projects import plain_loader, trainer
from helpers.states import same
from lightning_lottery import LotteryError
from lightning_lottery.connectivity.checkpoints import read_state
from lightning_lottery.connectivity.path import path


def test_masks_of_one_ticket_are_equal_whoever_held_them(tmp_path):
    files = saved(tmp_path, trained(0, steps=1), trained(1, steps=1))
    for role, file in zip(("pruning", "freezing.mine"), files, strict=True):
        masks = {"network.0.weight": torch.ones(32, 6, dtype=torch.bool)}
        torch.save({"state_dict": torch.load(file), "callbacks": {f"lightning_lottery.{role}": {"masks": masks}}}, file)
    path(Judged(mlp()), quadrants(), files, trainer=trainer(tmp_path))


def test_what_the_module_itself_loads_is_of_that_model(tmp_path):
    # Written before batch norm counted its batches: torch's own loading puts in what is missing.
    module = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4))
    whole = {name: value.clone() for name, value in module.state_dict().items()}
    torch.save({name: value + 1 for name, value in whole.items() if "num_batches" not in name}, tmp_path / "old.pt")
    state = read_state(tmp_path / "old.pt", module)
    assert state.keys() == whole.keys() and state["1.num_batches_tracked"] == 0
    assert all(torch.equal(state[name], whole[name] + 1) for name, _ in module.named_parameters())
    assert same(module.state_dict(), whole)


class TestRefusals:
    def test_another_model(self, tmp_path):
        files = [*saved(tmp_path, trained(0, steps=1)), tmp_path / "other.pt"]
        torch.save({"conv.weight": torch.ones(3)}, files[1])
        with pytest.raises(LotteryError, match=r"other.pt' is of another model than Judged: conv.weight"):
            path(Judged(mlp()), plain_loader(), files, trainer=trainer(tmp_path))

    def test_no_file_and_no_checkpoint(self, tmp_path):
        (file,) = saved(tmp_path, trained(0, steps=1))
        with pytest.raises(LotteryError, match="There is no checkpoint"):
            path(Judged(mlp()), plain_loader(), [file, tmp_path / "none"], trainer=trainer(tmp_path))
        (tmp_path / "text").write_text("no checkpoint")
        with pytest.raises(LotteryError, match="does not load as a checkpoint"):
            path(Judged(mlp()), plain_loader(), [file, tmp_path / "text"], trainer=trainer(tmp_path))

    def test_nan(self, tmp_path):
        net = trained(0, steps=1)
        with torch.no_grad():
            net[2].weight[0, 0] = torch.nan
        with pytest.raises(LotteryError, match=r"NaN or infinite weights in network.2.weight"):
            line_between(tmp_path, net, net)

    def test_different_masks(self, tmp_path):
        files = saved(tmp_path, trained(0, steps=1), trained(1, steps=1))
        for number, file in enumerate(files):
            mask = torch.ones(32, 6, dtype=torch.bool)
            mask[0, 0] = bool(number)
            callbacks = {"lightning_lottery.freezing": {"masks": {"network.0.weight": mask}}}
            torch.save({"state_dict": torch.load(file), "callbacks": callbacks}, file)
        with pytest.raises(LotteryError, match="trained with different masks"):
            path(Judged(mlp()), plain_loader(), files, trainer=trainer(tmp_path))
