"""Modules of foreign projects: what each trains, what it keeps beside that, and what of it default scopes hold."""

import copy
import warnings

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrizations


class Plain(LightningModule):
    """A small network with dropout, all of it trained."""

    scope: tuple[str, ...] = ("net.0.weight", "net.3.weight", "net.5.weight")
    """What an exact count is of: the weights of linear layers that an optimizer trains when the fit begins."""

    left_out: str = ""
    """A weight that one would expect in the scope and that a warning must name."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.copy_written: list[Tensor] = []  # what the project itself wrote into its copy last
        layers = [nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)]
        self.net = nn.Sequential(*layers)
        self.build()

    def build(self) -> None:
        """What makes a kind of module out of the plain one."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def loss(self, batch: list[Tensor]) -> Tensor:
        return cross_entropy(self(batch[0]), batch[1])

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch))

    def trained(self) -> list[nn.Parameter]:
        """What the project gives to its optimizers."""
        return [param for param in self.parameters() if param.requires_grad]

    def copied(self) -> list[nn.Parameter]:
        """A target network or an average: the project's to write, nobody else's."""
        return []

    def note_copy(self) -> None:
        self.copy_written = [param.detach().clone() for param in self.copied()]

    def after_loading(self) -> None:
        """What a project does again when its weights were loaded."""
        self.note_copy()


class Target(Plain):
    """Deep Q-learning's: a copy that requires gradients, is in no optimizer, and is refreshed now and then."""

    def build(self):
        self.target = copy.deepcopy(self.net)
        self.note_copy()

    def copied(self):
        return list(self.target.parameters())

    def trained(self):
        return list(self.net.parameters())

    def loss(self, batch):
        with torch.no_grad():
            goal = self.target(batch[0]).softmax(-1)
        return cross_entropy(self(batch[0]), goal) + super().loss(batch)

    def training_step(self, batch, batch_idx):
        if batch_idx == 2:
            self.target.load_state_dict(self.net.state_dict())
            self.note_copy()
        return super().training_step(batch, batch_idx)


class Average(Plain):
    """A moving average of its own, frozen, that validation uses."""

    def build(self):
        self.average = copy.deepcopy(self.net).requires_grad_(False)
        self.note_copy()

    def copied(self):
        return list(self.average.parameters())

    def forward(self, x):
        return self.net(x) if self.training else self.average(x)

    def on_train_batch_end(self, *_):
        with torch.no_grad():
            torch._foreach_lerp_(self.copied(), list(self.net.parameters()), 0.1)
        self.note_copy()


class OldWeightNorm(Plain):
    """Weight norm of old: a hook makes the weight of two parameters."""

    scope = ("net.3.weight", "net.5.weight")
    left_out = "net.0.weight_v"

    def build(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch has long had another one
            self.net[0] = nn.utils.weight_norm(self.net[0])


class Parametrized(Plain):
    """Weight norm and spectral norm as parametrizations."""

    scope = ("net.5.weight",)
    left_out = "net.0.parametrizations.weight.original1"

    def build(self):
        parametrizations.weight_norm(self.net[0])
        parametrizations.spectral_norm(self.net[3])


class LowRank(nn.Module):
    """A frozen layer and a trained correction of low rank that begins at zero."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down, self.up = nn.Linear(base.in_features, 2, bias=False), nn.Linear(2, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


class LoRA(Plain):
    """Adapters beside frozen layers, and a head."""

    scope = ("net.0.down.weight", "net.0.up.weight", "net.3.down.weight", "net.3.up.weight", "net.5.weight")
    left_out = "net.0.base.weight"

    def build(self):
        self.net[0], self.net[3] = LowRank(self.net[0]), LowRank(self.net[3])


class Tied(Plain):
    """One weight under two names."""

    scope = ("net.0.weight", "net.3.weight", "net.7.weight")

    def build(self):
        self.net = nn.Sequential(*self.net[:5], nn.Linear(8, 8), nn.Tanh(), self.net[5])
        self.after_loading()

    def after_loading(self):
        super().after_loading()
        self.net[5].weight = self.net[3].weight


class FrozenUntil(Plain):
    """Trains its head alone in the first epoch."""

    scope = ("net.5.weight",)
    left_out = "net.0.weight"

    def build(self):
        self.net[:5].requires_grad_(False)

    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            self.net.requires_grad_(True)
            (optimizer, *_) = self.trainer.optimizers
            held = {id(p) for group in optimizer.param_groups for p in group["params"]}
            optimizer.add_param_group({"params": [p for p in self.net[:5].parameters() if id(p) not in held]})


class Recurrent(Plain):
    """An LSTM before linear layers."""

    scope = ("net.3.weight", "net.5.weight")
    left_out = "lstm.weight_ih_l0"

    def build(self):
        self.net[0] = nn.Identity()
        self.lstm = nn.LSTM(2, 8, batch_first=True)

    def forward(self, x):
        return self.net(self.lstm(x.unflatten(1, (3, 2)))[0][:, -1])


class Experts(Plain):
    """A mixture whose experts are one parameter of three dimensions."""

    scope = ("gate.weight", "net.3.weight", "net.5.weight")
    left_out = "experts"

    def build(self):
        self.net[0] = nn.Identity()
        # Before the rest, so that the scope's order is the module's.
        self.gate, self.net = nn.Linear(6, 3), self._modules.pop("net")
        self.experts = nn.Parameter(0.3 * torch.randn(3, 6, 8))

    def forward(self, x):
        return self.net(torch.einsum("be,bi,eio->bo", self.gate(x).softmax(-1), x, self.experts))


class Lists(Plain):
    """Takes a list of inputs and gives losses while it trains, as detectors do."""

    def forward(self, inputs, targets=None):
        if not isinstance(inputs, list):
            raise TypeError("a list of inputs")
        outputs = [self.net(x) for x in inputs]
        if self.training:
            return {"loss": cross_entropy(torch.stack(outputs), targets)}
        return outputs

    def loss(self, batch):
        outputs = self(list(batch[0]), batch[1])
        return outputs["loss"] if self.training else cross_entropy(torch.stack(outputs), batch[1])


MODULES: dict[str, type[Plain]] = {
    "plain": Plain,
    "target network": Target,
    "own average": Average,
    "old weight norm": OldWeightNorm,
    "parametrized": Parametrized,
    "LoRA": LoRA,
    "tied": Tied,
    "frozen until epoch 1": FrozenUntil,
    "LSTM": Recurrent,
    "experts": Experts,
    "list inputs": Lists,
}
