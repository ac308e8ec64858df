import pytest
import torch

from helpers.lines import Judged, mlp, permuted, quadrants, saved, trained
from helpers.projects import trainer
from lightning_lottery import LotteryError, Ticket
from lightning_lottery.connectivity.transport import transport
from lightning_lottery.files import hash_of_tensors


def ticket_for(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weights = {name: param for name, param in module.named_parameters() if param.ndim > 1}
    return Ticket({name: torch.rand(param.shape, generator=generator) < 0.5 for name, param in weights.items()})


def judged(net):
    module = Judged(mlp())
    module.network.load_state_dict(net.state_dict())
    return module


def test_to_the_permuted_network_it_removes_the_permuted_weights(tmp_path):
    net = trained(0)
    one, two = judged(net), judged(permuted(net))
    ticket = ticket_for(one)
    module = Judged(mlp())
    moved, groups = transport(
        ticket, module, quadrants(), *saved(tmp_path, net, permuted(net)), trainer=trainer(tmp_path)
    )
    assert all(moved_units > 20 and size == 32 for moved_units, size in groups.values()) and len(groups) == 2
    ticket.apply(one)
    moved.apply(two)
    inputs = quadrants().dataset.tensors[0]
    torch.testing.assert_close(two.network(inputs), one.network(inputs))
    hashes = {
        name: hash_of_tensors(judged(each).state_dict())
        for name, each in zip(("from", "to"), (net, permuted(net)), strict=True)
    }
    assert moved.provenance["transported"] == hashes


def test_to_the_same_network_it_is_the_same_ticket(tmp_path):
    net, module = trained(0), Judged(mlp())
    ticket = ticket_for(module)
    moved, groups = transport(ticket, module, quadrants(), *saved(tmp_path, net, net), trainer=trainer(tmp_path))
    assert ticket.hamming(moved) == 0 and all(units == 0 for units, _ in groups.values())


def test_a_ticket_of_another_network_is_refused(tmp_path):
    net = trained(0, steps=1)
    ticket = Ticket({"network.9.weight": torch.ones(2, 2, dtype=torch.bool)})
    with pytest.raises(LotteryError, match="missing in the module: network.9.weight"):
        transport(ticket, Judged(mlp()), quadrants(), *saved(tmp_path, net, net), trainer=trainer(tmp_path))
