import pytest
import torch
from torch import nn

from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.masks import jaccard_by_chance
from lightning_lottery.ticket import Layer, Ticket


def mask(*rows):
    return torch.tensor(rows, dtype=torch.bool)


def network():
    return nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2), nn.Linear(2, 1))


def ticket():
    return Ticket({"0.weight": mask([1, 0, 1], [1, 1, 0]), "2.weight": mask([1, 0], [1, 0])})


def test_a_table_with_a_module_and_a_batch_counts_what_each_layer_still_does():
    net = network()
    table = ticket().table(net, torch.zeros(5, 3))
    assert table == [
        Layer("0.weight", (2, 3), 4, 6, effective=2, units=2, dead=1, multiply_adds=30),  # nobody reads the second unit
        Layer("2.weight", (2, 2), 2, 4, effective=2, units=2, dead=0, multiply_adds=20),
    ]
    assert (table.multiply_adds, table.multiply_adds_kept) == (60, 20 + 10 + 10)  # the last layer has no mask
    assert table.speed_up == pytest.approx(60 / 40)
    assert table.effective_sparsity == pytest.approx(1 - 4 / 10)
    assert [row.multiply_adds_kept for row in table] == [20, 10]


@pytest.mark.parametrize("form", ["inputs", "pair", "mapping"])
def test_a_batch_has_any_form_that_loaders_give_and_the_module_is_as_before(form):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x):
            return self.net(x)

    net, x = Named().train(), torch.zeros(2, 3)
    named = Ticket({f"net.{name}": m for name, m in ticket().masks.items()})
    batch = {"inputs": x, "pair": [x, torch.zeros(2).long()], "mapping": {"x": x}}[form]
    assert named.table(net, batch).speed_up == pytest.approx(1.5)
    assert net.training and all(p.grad is None and p.requires_grad for p in net.parameters())


def test_what_a_module_alone_tells_is_none_without_one():
    table = ticket().table()
    assert table == [Layer("0.weight", (2, 3), 4, 6), Layer("2.weight", (2, 2), 2, 4)]
    assert (table.multiply_adds, table.multiply_adds_kept, table.speed_up, table.effective_sparsity) == (None,) * 4
    with pytest.raises(LotteryError, match="needs a batch"):
        ticket().table(network())
    with pytest.raises(LotteryError, match="does not fit"):
        ticket().table(nn.Linear(2, 2), torch.ones(1, 2))


def test_overlap_with_another_ticket_stands_beside_chance():
    first = ticket().table(beside=Ticket({"0.weight": mask([1, 0, 1], [0, 0, 1]), "9.weight": mask([1])}))[0]
    assert first.overlap == pytest.approx(2 / 5)
    assert first.chance == pytest.approx(jaccard_by_chance(4 / 6, 3 / 6))
    assert [row.overlap for row in ticket().table(beside=ticket())] == [1, 1]
    assert ticket().table()[0].overlap is None


def test_units_of_a_transposed_weight_lie_along_its_second_dimension():
    net = nn.Sequential(nn.ConvTranspose2d(2, 3, 2), nn.Flatten(), nn.Linear(27, 1))
    masks = {"0.weight": torch.ones(2, 3, 2, 2).bool()}
    masks["0.weight"][:, 0] = False
    row = Ticket(masks).table(net, torch.zeros(1, 2, 2, 2))[0]
    assert (row.units, row.dead, row.effective) == (3, 1, 16)


def test_a_tied_weight_is_one_row_under_its_first_name_and_a_prefix_is_stripped():
    net = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
    net["b"].weight = net["a"].weight
    tied = Ticket({"model.a.weight": mask([1, 0], [0, 1]), "model.b.weight": mask([1, 0], [1, 1])})
    table = tied.table(net, torch.ones(1, 2), prefix="model.", forward=lambda net, x: net["b"](net["a"](x)))
    assert [(row.name, row.kept, row.multiply_adds) for row in table] == [("a.weight", 2, 8)]


def test_a_network_whose_every_multiplication_is_removed_has_no_speed_up_to_tell():
    table = Ticket({"weight": mask([0, 0])}).table(nn.Linear(2, 1), torch.ones(1, 2))
    assert (table.multiply_adds, table.multiply_adds_kept, table.speed_up) == (2, 0, None)
    assert (table[0].dead, table.effective_sparsity) == (1, 1.0)
