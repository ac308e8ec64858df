import pytest
from torch import nn

from lightning_lottery.functional.train_mode import modes_kept


def mixed():
    """A module in training mode with a part in evaluation mode, and one inside of that in training mode."""
    net = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Dropout()))
    net[1].eval()
    net[1][1].train()
    return net


def modes(net):
    return [module.training for module in net.modules()]


@pytest.mark.parametrize("change", [lambda net: net.eval(), lambda net: net.train(), lambda net: net[1].train()])
def test_every_part_has_its_own_mode_again(change):
    net = mixed()
    before = modes(net)
    with modes_kept(net):
        change(net)
    assert modes(net) == before and len(set(before)) == 2


def test_modes_come_back_after_an_exception_and_through_a_train_of_the_modules_own():
    class Frozen(nn.Sequential):
        def train(self, mode=True):
            return super().train(False)

    net = nn.Sequential(Frozen(nn.Dropout()))
    before = modes(net)
    with pytest.raises(ZeroDivisionError), modes_kept(net):
        net.eval()
        raise ZeroDivisionError
    assert modes(net) == before and all(before)
