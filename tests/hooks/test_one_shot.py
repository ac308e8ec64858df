"""What SynFlow, SNIP and GraSP share: when they prune, what they ask of a module, what they refuse."""

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from helpers.one_shot import Plain, Tokens, ones_for_tokens, sentences
from helpers.projects import fit, plain_loader, says
from helpers.states import KeepEveryResume
from lightning_lottery import SNIP, ExactResume, GraSP, LotteryError, Scope, SynFlow, Ticket
from lightning_lottery.functional import hamming


@pytest.mark.parametrize("make", [SynFlow, SNIP, GraSP])
def test_a_fit_that_goes_on_from_a_checkpoint_without_its_state_is_pruned_at_once_where_its_step_is_over(
    make, tmp_path
):
    keep = KeepEveryResume(tmp_path / "whole", tmp_path / "points")
    fit(tmp_path / "whole", ExactResume(interval=1), keep, module=Plain())
    sparsities = {}

    class Look(Callback):
        lottery_order = 3

        def on_train_start(self, trainer, pl_module):
            sparsities["at once"] = callback.sparsity

        def on_train_batch_end(self, trainer, pl_module, *_):
            sparsities[trainer.global_step] = callback.sparsity

    for at_step, first in ((4, "at once"), (6, "at once"), (8, 8)):
        callback = make(0.5, at_step=at_step)
        sparsities.clear()
        fit(
            tmp_path / "again",
            ExactResume(interval=100),
            callback,
            Look(),
            module=Plain(),
            ckpt=tmp_path / "points/6.ckpt",
        )
        assert [moment for moment, sparsity in sparsities.items() if sparsity == 0.5][0] == first


TOKENS = {
    "SynFlow": lambda: SynFlow(0.5, iterations=5, input=ones_for_tokens, bypass=("LayerNorm",)),
    "SNIP": lambda: SNIP(0.5, batches=2),
    "GraSP": lambda: GraSP(0.5, batches=2, train_mode=True),
}


@pytest.mark.parametrize("make", TOKENS.values(), ids=TOKENS)
def test_a_transformer_over_tokens_is_pruned_attention_included(make, tmp_path):
    callback = make()
    fit(tmp_path, callback, module=Tokens(), train=sentences(), val=sentences())
    assert "body.self_attn.in_proj_weight" in callback.masks
    assert callback.sparsity == 0.5 and all(mask.any() for mask in callback.masks.values())


@pytest.mark.parametrize("what", ["module", "submodule", "submodule in place"])
@pytest.mark.parametrize("make", [SynFlow, SNIP, GraSP])
def test_compiled_modules_get_the_masks_of_plain_ones(make, what, tmp_path):
    plain = make(0.6, at_step=2)
    fit(tmp_path, plain, module=Plain())
    module = fitted = Plain()
    if what == "module":
        fitted = torch.compile(module, backend="eager")
    elif what == "submodule":
        module.net = torch.compile(module.net, backend="eager")
    else:
        module.net.compile(backend="eager")
    compiled = make(0.6, at_step=2)
    fit(tmp_path, compiled, module=fitted)
    assert hamming(plain.masks, compiled.masks) == 0


@pytest.mark.parametrize("make", [SynFlow, SNIP, GraSP])
def test_half_precision_scores_in_float32_or_wider(make, tmp_path):
    masks = []
    for precision in ("32-true", "bf16-mixed"):
        callback = make(0.6)
        fit(tmp_path, callback, module=Plain(), precision=precision)
        masks.append(callback.masks)
    assert hamming(*masks) == 0


def test_a_recurrent_network_is_scored_in_evaluation_mode(tmp_path):
    class Recurrent(Plain):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(3, 4, batch_first=True)
            self.net = nn.Linear(4, 3)

        def forward(self, x):
            return self.net(self.rnn(x.view(len(x), 2, 3))[0][:, -1])

    for make in (SNIP, GraSP):
        callback = make(0.5, scope=Scope(types=("LSTM", "Linear")))
        fit(tmp_path, callback, module=Recurrent())
        assert callback.sparsity == pytest.approx(0.5, abs=0.01)
        assert all(mask.any() for name, mask in callback.masks.items() if "weight" in name)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("make", [SynFlow, SNIP, GraSP])
def test_activation_checkpoints_change_no_mask(make, reentrant, tmp_path):
    class Checkpointed(Plain):
        def forward(self, x):
            return checkpoint(self.net[1:], self.net[0](x), use_reentrant=reentrant)

    plain, callback = make(0.6, at_step=2), make(0.6, at_step=2)
    fit(tmp_path, plain, module=Plain())
    fit(tmp_path, callback, module=Checkpointed())
    assert hamming(plain.masks, callback.masks) == 0


@pytest.mark.parametrize("make", [SynFlow, SNIP, GraSP])
def test_a_model_without_linear_or_convolution_and_a_step_beyond_the_fit_are_refused(make, tmp_path):
    class Bare(Plain):
        def __init__(self):
            super().__init__()
            self.net = nn.BatchNorm1d(6)

    with pytest.raises(LotteryError, match="matches none of the 2 parameters of Bare"):
        fit(tmp_path, make(0.5), module=Bare())
    with pytest.raises(LotteryError, match="prunes at step 13, but this fit ends at step 12: choose an earlier"):
        fit(tmp_path, make(0.5, at_step=13), module=Plain())
    callback = make(0.5, at_step=12)
    fit(tmp_path, callback, module=Plain())
    assert Ticket.load(tmp_path / "ticket.safetensors").sparsity == callback.sparsity == 0.5


def test_a_step_that_fetches_its_own_batches_and_a_module_without_forward_are_refused(tmp_path):
    class Fetches(Plain):
        def training_step(self, dataloader_iter):
            batch, *_ = next(dataloader_iter)
            return super().training_step(batch, 0)

    class Headless(Plain):
        forward = LightningModule.forward

    with says("dataloader_iter"), pytest.raises(LotteryError, match="`training_step.dataloader_iter.` cannot share"):
        fit(tmp_path, SNIP(0.5), module=Fetches(), train=plain_loader(), val=plain_loader())
    with pytest.raises(LotteryError, match="runs the module's `forward`, and Headless has none"):
        fit(tmp_path, SynFlow(0.5), module=Headless())


def test_a_resume_with_other_arguments_is_refused(tmp_path):
    keep = KeepEveryResume(tmp_path / "whole", tmp_path / "points")
    fit(tmp_path / "whole", SynFlow(0.5, at_step=6, iterations=4), ExactResume(interval=1), keep, module=Plain())
    with pytest.raises(LotteryError, match="written with iterations 4, this fit asks for 5"):
        fit(tmp_path, SynFlow(0.5, at_step=6, iterations=5), module=Plain(), ckpt=tmp_path / "points" / "3.ckpt")
    with pytest.raises(LotteryError, match="written with method SynFlow, this fit asks for SNIP"):
        fit(tmp_path, SNIP(0.5, at_step=6), module=Plain(), ckpt=tmp_path / "points" / "3.ckpt")


class Reshapes(Plain):
    """``forward`` takes what only ``training_step`` makes of a batch."""

    def forward(self, x):
        assert x.ndim == 3
        return super().forward(x.flatten(1))

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0].view(-1, 2, 3)), batch[1])


class CallsForward(Reshapes):
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.forward(batch[0].view(-1, 2, 3)), batch[1])


class Timed(Plain):
    def forward(self, x, *, t):
        return super().forward(x) * (1 + 0 * t[:, None])

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0], t=torch.arange(len(batch[0]))), batch[1])


class Listed(Plain):
    def forward(self, images):
        if not isinstance(images, list):
            raise TypeError("a list of images")
        return super().forward(torch.stack(images))

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(list(batch[0])), batch[1])


class Graph(Plain):
    def forward(self, nodes, edges):
        return super().forward(nodes)[edges[0]]

    def training_step(self, batch, batch_idx):
        edges = torch.tensor([[0, 7, 5], [1, 2, 3]])
        return F.cross_entropy(self(batch[0], edges), batch[1][edges[0]])


class Latent(Plain):
    """A generator: the batch's first tensor is not what ``forward`` takes."""

    def __init__(self):
        super().__init__()
        self.net[0] = nn.Linear(4, 16, bias=False)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(torch.rand(len(batch[0]), 4)), batch[1])


class ManualLatent(Latent):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


class Halves(Plain):
    """Half precision that casts its own input."""

    parts = slice(None)

    def __init__(self):
        super().__init__()
        self.net[self.parts].to(torch.bfloat16)
        # As written in a project's code, where it does not follow the weights.
        self.dtypes = [next((p.dtype for p in layer.parameters()), None) for layer in self.net]

    def forward(self, x):
        for layer, dtype in zip(self.net, self.dtypes, strict=True):
            x = layer(x.to(dtype))
        return x.float()


class HalfBody(Halves):
    """A half-precision body under a head that is not."""

    parts = slice(0, 3)


class Strange(Plain):
    """Parameters that are no numbers to score beside those that are."""

    def __init__(self):
        super().__init__()
        self.angle = nn.Parameter(torch.ones(2, dtype=torch.cfloat))
        for name, value in {"flag": torch.tensor(True), "count": torch.ones(2).long(), "none": torch.ones(0)}.items():
            self.register_parameter(name, nn.Parameter(value, requires_grad=False))

    def forward(self, x):
        return super().forward(x) * self.angle.abs().mean()


class Detects(Plain):
    """Losses in training mode only."""

    def training_step(self, batch, batch_idx):
        outputs = self.net(batch[0])
        return sum(({"class": F.cross_entropy(outputs, batch[1])} if self.net.training else [outputs]).values())


FOREIGN = [Reshapes, CallsForward, Timed, Listed, Graph, Latent, ManualLatent, Halves, HalfBody, Strange, Detects]
AS_PLAIN = (Reshapes, CallsForward, Timed, Listed, Strange, Detects)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("project", FOREIGN)
@pytest.mark.parametrize("make", [SynFlow, SNIP, GraSP])
def test_a_module_that_nobody_here_has_seen_is_scored_as_it_trains(make, project, tmp_path):
    if project is ManualLatent and make is not SynFlow:
        pytest.skip("refused: test_snip_grasp.py")
    callback, module = make(0.5), project()
    fit(tmp_path, callback, module=module, max_steps=1)
    assert callback.sparsity == 0.5 and all(mask.any() for mask in callback.masks.values())
    if project in AS_PLAIN:
        plain = make(0.5)
        fit(tmp_path, plain, module=Plain(), max_steps=1)
        assert hamming(plain.masks, callback.masks) == 0


def test_what_scoring_falls_back_to_is_said_once(tmp_path):
    with says("SNIP: `training_step` fails in evaluation mode .*AttributeError.*`train_mode=True` asks for", times=1):
        fit(tmp_path, SNIP(0.5), module=Detects(), max_steps=1)
    for make in (SynFlow, SNIP, GraSP):
        with says("dtypes of (its|the module's) own weights", times=1):
            fit(tmp_path, make(0.5), module=Halves(), max_steps=1)


@pytest.mark.parametrize("make", [SynFlow, SNIP, GraSP])
def test_a_foreign_error_names_the_method_and_a_way_round(make, tmp_path):
    class Breaks(Plain):
        def forward(self, x):
            raise KeyError("theirs")

    with pytest.raises(LotteryError, match=rf"{make.__name__} .*KeyError: 'theirs'.*(`input`|at_step)") as told:
        fit(tmp_path, make(0.5), module=Breaks())
    assert isinstance(told.value.__cause__, KeyError)


@pytest.mark.parametrize("scope", [None, Scope(include=("net.0.weight",))])
def test_weights_that_are_all_zero_are_named_as_the_cause_and_a_step_is_the_cure(scope, tmp_path):
    def module():
        nn.init.zeros_((plain := Plain()).net[4].weight)
        return plain

    with pytest.raises(LotteryError, match="'net.4.weight' is all zero.*`at_step=1`"):
        fit(tmp_path, SNIP(0.5, scope=scope), module=module())
    fit(tmp_path, callback := SNIP(0.5, at_step=1, scope=scope), module=module())
    assert callback.sparsity == 0.5


@pytest.mark.filterwarnings("ignore:SynFlow leaves out weights")
@pytest.mark.parametrize("norm", [nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm])
def test_synflow_passes_through_layers_of_spectral_norm(norm, tmp_path):
    module = Plain()
    module.net[2] = norm(module.net[2])
    fit(tmp_path, callback := SynFlow(0.5, iterations=3), module=module)
    assert callback.sparsity == 0.5
