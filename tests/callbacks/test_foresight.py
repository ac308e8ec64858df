"""SynFlow, SNIP and GraSP in a fit; what holds for every callback that makes masks: `test_contract.py`."""

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from helpers.callbacks import BODY
from helpers.projects import Batches, Odd, fit, plain_loader, says
from helpers.states import KeepEveryResume
from lightning_lottery import SNIP, ExactResume, GraSP, LotteryError, Scope, SynFlow, Ticket
from lightning_lottery.callbacks import foresight
from lightning_lottery.functional import count, grasp, hamming, iterative_masks, keep_top, snip, synflow


class Plain(LightningModule):
    """Linear layers without biases and ReLU: what SynFlow's laws are about."""

    def __init__(self, *, first: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(5)
        linear = [nn.Linear(6, 16, bias=False), nn.ReLU(), nn.Linear(16, 16, bias=False), nn.ReLU()]
        self.net = nn.Sequential(*linear, nn.Linear(16, 3, bias=False))
        self.first = first

    def forward(self, x):
        return self.net(x if self.first is None else self.first(x))

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)


class AtStep(Callback):
    """The weights right before and after the callback prunes, and the first batches of the epoch it prunes in."""

    lottery_place = 0

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_start(self, trainer, pl_module):
        if trainer.global_step == self.step:
            self._remember(pl_module)

    def on_train_batch_end(self, trainer, pl_module, *_):
        if trainer.global_step == self.step:
            self._remember(pl_module)

    def _remember(self, module):
        self.weights = {name: param.detach().clone() for name, param in module.named_parameters()}


def first_batches(n: int, epoch: int) -> list:
    loader = Batches()
    loader.set_epoch(epoch)
    return [batch for batch, _ in zip(loader, range(n), strict=False)]


def net_of(module):
    return lambda weights, x: torch.func.functional_call(module, {**weights}, (x,))


@pytest.mark.parametrize("at_step", [0, 5])
@pytest.mark.parametrize("method", [SNIP, GraSP])
def test_snip_and_grasp_rank_by_the_gradients_of_the_first_batches(method, at_step, tmp_path):
    callback, look, module = method(0.7, at_step=at_step, batches=3), AtStep(at_step), Plain()
    fit(tmp_path, look, callback, module=module)
    pure = {SNIP: snip, GraSP: grasp}[method]
    net = net_of(Plain())
    batches = first_batches(3, epoch=at_step // 4)
    scores = pure(lambda w, batch: F.cross_entropy(net(w, batch[0]), batch[1]), look.weights, batches)
    assert hamming(callback.masks, keep_top(scores, 0.7)) == 0


@pytest.mark.parametrize("at_step", [0, 5])
@pytest.mark.parametrize("kind", ["ones", "sample", "mean"])
def test_synflow_ranks_by_the_flow_of_its_input(kind, at_step, tmp_path):
    callback, look = SynFlow(0.5, at_step=at_step, input=kind, batches=3), AtStep(at_step)
    fit(tmp_path, look, callback, module=Plain())
    batches = [x.double().abs() for x, _ in first_batches(3, epoch=at_step // 4)]
    mean = sum(x.mean(0, keepdim=True) for x in batches) / 3
    x = {"ones": torch.ones(1, 6, dtype=torch.float64), "sample": batches[0][:1], "mean": mean}[kind]
    net = net_of(Plain().double())
    weights = {name: w.double().abs() for name, w in look.weights.items()}
    *_, masks = iterative_masks(lambda w: synflow(lambda v: net(v, x), w), weights, 0.5)
    assert hamming(callback.masks, masks) == 0
    assert count(callback.masks)[0] == round(0.5 * count(callback.masks)[1])


def test_the_three_inputs_give_three_tickets(tmp_path):
    tickets = []
    for kind in ("ones", "sample", "mean"):
        callback = SynFlow(0.8, input=kind, iterations=10)
        fit(tmp_path, callback, module=Plain())
        tickets.append(callback.ticket())
    assert min(tickets[i].hamming(tickets[j]) for i, j in ((0, 1), (0, 2), (1, 2))) > 0


@pytest.mark.parametrize("kind", ["ones", "sample", "mean"])
def test_a_module_that_normalises_its_input_gets_the_ticket_of_one_whose_data_are_normalised(kind, tmp_path):
    class Normalised(Batches):
        def __iter__(self):
            for x, y in super().__iter__():
                yield [(x - 3.0) / 0.5, y]

    class Normalise(nn.Module):
        def forward(self, x):
            return (x - 3.0) / 0.5

    inside, outside = (SynFlow(0.8, input=kind, iterations=20) for _ in range(2))
    fit(tmp_path, inside, module=Plain(first=Normalise()))
    fit(tmp_path, outside, module=Plain(), train=Normalised())
    assert hamming(inside.masks, outside.masks) == 0


def test_statistics_are_absolute_before_training_and_neutral_after_unless_told_otherwise(tmp_path):
    seen = []

    class Seen(foresight.Flow):
        def __init__(self, *args, neutral, **given):
            seen.append(neutral)
            super().__init__(*args, neutral=neutral, **given)

    original, foresight.Flow = foresight.Flow, Seen
    try:
        for given in ({}, {"at_step": 3}, {"batch_norm": "neutral"}, {"at_step": 3, "batch_norm": "absolute"}):
            fit(tmp_path, SynFlow(0.3, iterations=1, per="tensor", scope=BODY, **given))
    finally:
        foresight.Flow = original
    assert seen == [False, True, True, False]


@pytest.mark.parametrize("make", [SynFlow, SNIP, GraSP])
def test_a_fit_that_goes_on_from_a_checkpoint_without_its_state_is_pruned_at_once_where_its_step_is_over(
    make, tmp_path
):
    keep = KeepEveryResume(tmp_path / "whole", tmp_path / "points")
    fit(tmp_path / "whole", ExactResume(every=1), keep, module=Plain())
    found = {}

    class Look(Callback):
        lottery_place = 3

        def on_train_start(self, trainer, pl_module):
            found["at once"] = callback.sparsity

        def on_train_batch_end(self, trainer, pl_module, *_):
            found[trainer.global_step] = callback.sparsity

    for at_step, first in ((4, "at once"), (6, "at once"), (8, 8)):
        callback = make(0.5, at_step=at_step)
        found.clear()
        fit(
            tmp_path / "again",
            ExactResume(every=100),
            callback,
            Look(),
            module=Plain(),
            ckpt=tmp_path / "points/6.ckpt",
        )
        assert [place for place, sparsity in found.items() if sparsity == 0.5][0] == first


class Tokens(LightningModule):
    """A transformer over tokens, with layer norm and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.body = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.1)
        self.head = nn.Linear(8, 3)

    def forward(self, ids=None, embeddings=None):
        x = self.embedding(ids) if embeddings is None else embeddings
        return self.head(self.body(x).mean(1))

    def training_step(self, batch, batch_idx):
        return {"loss": F.cross_entropy(self(batch["ids"]), batch["labels"])}

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 1e-3)


def sentences():
    ids = torch.randint(0, 11, (32, 5), generator=torch.Generator().manual_seed(0))
    pairs = [{"ids": row, "labels": row.sum() % 3} for row in ids]
    return torch.utils.data.DataLoader(pairs, batch_size=8)


def ones_for_tokens(module, batch):
    return {"embeddings": torch.ones(1, batch["ids"].shape[1], 8)}


TOKENS = {
    "SynFlow": lambda: SynFlow(0.5, iterations=5, input_fn=ones_for_tokens, bypass=("LayerNorm",)),
    "SNIP": lambda: SNIP(0.5, batches=2),
    "GraSP": lambda: GraSP(0.5, batches=2, train_mode=True),
}


@pytest.mark.parametrize("make", TOKENS.values(), ids=TOKENS)
def test_a_transformer_over_tokens_is_pruned_attention_included(make, tmp_path):
    callback = make()
    fit(tmp_path, callback, module=Tokens(), train=sentences(), val=sentences())
    assert "body.self_attn.in_proj_weight" in callback.masks
    assert callback.sparsity == 0.5 and all(mask.any() for mask in callback.masks.values())


def test_tokens_without_an_input_fn_are_refused(tmp_path):
    with pytest.raises(LotteryError, match=r"a batch begins with torch.int64 of shape \(8, 5\): give an `input_fn`"):
        fit(tmp_path, SynFlow(0.5), module=Tokens(), train=sentences(), val=sentences())


@pytest.mark.parametrize("what", ["module", "submodule", "submodule in place"])
@pytest.mark.parametrize("make", [SynFlow, SNIP, GraSP])
def test_compiled_modules_get_the_masks_of_plain_ones(make, what, tmp_path):
    plain = make(0.6, at_step=2)
    fit(tmp_path, plain, module=Plain())
    module = given = Plain()
    if what == "module":
        given = torch.compile(module, backend="eager")
    elif what == "submodule":
        module.net = torch.compile(module.net, backend="eager")
    else:
        module.net.compile(backend="eager")
    compiled = make(0.6, at_step=2)
    fit(tmp_path, compiled, module=given)
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


def test_without_float64_scores_are_float32_which_is_said_once(tmp_path, monkeypatch):
    wide = SynFlow(0.8, iterations=10)
    fit(tmp_path, wide, module=Plain())
    monkeypatch.setattr(foresight, "widest_dtype", lambda device: torch.float32)
    narrow = SynFlow(0.8, iterations=10)
    with says("SynFlow: cpu has no float64, so scores are computed in scaled float32", times=1):
        fit(tmp_path, narrow, module=Plain())
    assert hamming(wide.masks, narrow.masks) == 0


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


class Floats(nn.Module):
    """What the data are put through in many projects."""

    def forward(self, x):
        return x.float()


class Constant(nn.Module):
    """A tensor that is no buffer, so that nothing casts it."""

    def __init__(self) -> None:
        super().__init__()
        self.rotation = torch.eye(6).roll(1, 0)

    def forward(self, x):
        return x @ self.rotation


@pytest.mark.parametrize("first", [Floats, Constant])
def test_a_module_that_insists_on_float32_is_scored_in_float32_which_is_said_once(first, tmp_path):
    plain, callback = SynFlow(0.8, iterations=10), SynFlow(0.8, iterations=10)
    fit(tmp_path, plain, module=Plain())
    with says("SynFlow: the module does not run in float64 .*, so scores are computed in scaled float32", times=1):
        fit(tmp_path, callback, module=Plain(first=first()))
    assert hamming(plain.masks, callback.masks) == 0


def test_an_error_of_the_module_s_own_is_not_taken_for_one_of_float64(tmp_path):
    class Fails(nn.Module):
        def forward(self, x):
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fit(tmp_path, SynFlow(0.8), module=Plain(first=Fails()))


class Returns(Plain):
    def __init__(self, what) -> None:
        super().__init__()
        self.what = what

    def training_step(self, batch, batch_idx):
        return self.what(super().training_step(batch, batch_idx))


@pytest.mark.parametrize("make", [SNIP, GraSP])
@pytest.mark.parametrize("what", [lambda loss: None, lambda loss: {"other": loss}], ids=["None", "no loss"])
def test_a_training_step_without_a_loss_is_refused(make, what, tmp_path):
    with pytest.raises(LotteryError, match=f"{make.__name__} needs the loss, and `training_step` returned None"):
        fit(tmp_path, make(0.5), module=Returns(what))


@pytest.mark.parametrize("what", [lambda loss: loss * 0, lambda loss: loss.detach()], ids=["zero", "detached"])
@pytest.mark.parametrize("make", [SNIP, GraSP])
def test_gradients_that_are_zero_everywhere_are_refused(make, what, tmp_path):
    with pytest.raises(LotteryError, match=f"{make.__name__}: every score at step 0 is zero"):
        fit(tmp_path, make(0.5), module=Returns(what))


def test_a_flow_that_is_zero_everywhere_is_refused(tmp_path):
    module = Plain()
    nn.init.zeros_(module.net[2].weight)
    with pytest.raises(LotteryError, match="SynFlow: every score at step 0 is zero"):
        fit(tmp_path, SynFlow(0.5), module=module)


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


@pytest.mark.parametrize("make", [SNIP, GraSP])
def test_manual_optimization_is_refused_and_synflow_is_offered(make, tmp_path):
    with pytest.raises(LotteryError, match="manual optimization steps the optimizers itself.*or SynFlow"):
        fit(tmp_path, make(0.5), module=Odd(manual=True))
    fit(tmp_path, SynFlow(0.5, per="tensor", iterations=2), module=Odd(manual=True))


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


def test_a_lazy_layer_outside_the_scope_is_refused_in_a_sentence(tmp_path):
    class Lazy(Plain):
        def __init__(self):
            super().__init__()
            self.late = nn.LazyLinear(3)

        def configure_optimizers(self):
            return torch.optim.SGD(self.net.parameters(), 0.1)

    with pytest.raises(LotteryError, match="'late.weight' has no shape yet"):
        fit(tmp_path, SNIP(0.5, scope=Scope(include=("net.*",))), module=Lazy())


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"at_step": -1}, "`at_step` is a whole number >= 0, got -1"),
        ({"at_step": 0.5}, "`at_step` is a whole number >= 0, got 0.5"),
        ({"at_step": True}, "`at_step` is a whole number"),
        ({"batches": 0}, "`batches` is a whole number >= 1, got 0"),
        ({"iterations": 0}, "`iterations` is a whole number >= 1, got 0"),
        ({"input": "zeros"}, "`input` is 'ones', 'sample' or 'mean', got 'zeros'"),
        ({"batch_norm": "none"}, "`batch_norm` is 'absolute', 'neutral' or None, got 'none'"),
        ({"bypass": "LayerNorm"}, "`bypass` is a list of class names, got 'LayerNorm'"),
        ({"input": "mean", "input_fn": ones_for_tokens}, "`input_fn` takes the place of `input`"),
        ({"per": "layer"}, "`per` is 'all' or 'tensor'"),
        ({"sparsity": 1.0}, r"must be in \[0, 1\)"),
    ],
)
def test_arguments_that_mean_nothing_are_refused_when_it_is_built(given, sentence):
    with pytest.raises(LotteryError, match=sentence):
        SynFlow(**{"sparsity": 0.5, **given})


def test_a_resume_with_other_arguments_is_refused(tmp_path):
    keep = KeepEveryResume(tmp_path / "whole", tmp_path / "points")
    fit(tmp_path / "whole", SynFlow(0.5, at_step=6, iterations=4), ExactResume(every=1), keep, module=Plain())
    with pytest.raises(LotteryError, match="written with iterations 4, this fit asks for 5"):
        fit(tmp_path, SynFlow(0.5, at_step=6, iterations=5), module=Plain(), ckpt=tmp_path / "points" / "3.ckpt")
    with pytest.raises(LotteryError, match="written with method SynFlow, this fit asks for SNIP"):
        fit(tmp_path, SNIP(0.5, at_step=6), module=Plain(), ckpt=tmp_path / "points" / "3.ckpt")


def test_progress_over_iterations_is_logged_and_nothing_holds_the_trainer_afterwards(tmp_path, caplog):
    callback = SynFlow(0.5, iterations=50)
    fit(tmp_path, callback, module=Plain())
    assert [f"{done} of 50 iterations" in caplog.text for done in (10, 20, 30, 40, 50, 5)] == [True] * 5 + [False]
    assert callback._trainer is None
