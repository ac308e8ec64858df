import functools

import lightning
import pytest
import torch
from torch import nn

from lightning_lottery.units.groups import survey
from lightning_lottery.units.sources import only_calls


class Project(lightning.LightningModule):
    """The commonest of all: a chain, its loss and an optimizer, and no ``forward``."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.net.parameters())


class ByLength(Project):
    def forward(self, x):
        return self.net(x.view(len(x), -1))


class OfShapes(Project):
    def forward(self, x):
        return self.net(x.flatten(1) if x.ndim > 2 else x)


class Inherited(OfShapes):
    pass


class Inside(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = ByLength()  # under the name of the chain within

    def forward(self, x):
        return self.net(x) if x.sum() > 0 else x


@pytest.mark.parametrize("make", [Project, ByLength, OfShapes, Inherited, Inside])
def test_a_chain_that_a_project_only_calls_is_known_whatever_else_the_project_does(make):
    assert [name.rpartition(".")[2] for name in survey(make()).groups] == ["0", "2"]


class Pieces(Project):
    def training_step(self, batch, batch_idx):
        return self.net[:3](batch[0]).sum() if len(batch) else self.net(batch[0]).sum()


class Features(ByLength):
    def features(self, x):
        for layer in self.net:
            x = layer(x)
        return x


class Aliased(ByLength):
    def features(self, x):
        net = self.net
        return net[0](x)


class ByName(ByLength):
    def features(self, x):
        return getattr(self, "net")[0](x)  # noqa: B009


class OfChildren(ByLength):
    def features(self, x):
        return next(self.children())[0](x)


class Reread(ByLength):
    def penalty(self):
        return self.net[0].weight.norm()


class NeverCalled(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6))

    def training_step(self, batch, batch_idx):
        return sum(p.sum() for p in self.net.parameters())


@pytest.mark.parametrize("make", [Pieces, Features, Aliased, ByName, OfChildren, Reread, NeverCalled])
def test_a_chain_that_may_run_in_pieces_or_of_which_more_is_read_is_left_whole(make):
    assert not only_calls(make(), "net")
    assert not survey(make()).groups


def test_where_no_source_is_at_hand_or_another_forward_runs_nothing_is_known():
    namespace = {"Project": ByLength, "__name__": "prompt"}
    exec("class Made(Project):\n    pass", namespace)  # as typed at a prompt
    assert not only_calls(namespace["Made"](), "net")
    assert not only_calls(nn.TransformerEncoderLayer(8, 2), "norm1")
    module = ByLength()
    module.forward = functools.partial(ByLength.forward, module)
    assert not only_calls(module, "net")
