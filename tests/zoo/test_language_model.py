import math

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional as F

from lightning_lottery import path
from lightning_lottery.shards import gathered
from lightning_lottery.zoo import LanguageModel, ToyStream, gpt2

VOCABULARY = 40


def model(seed: int = 0) -> LanguageModel:
    torch.manual_seed(seed)
    network = gpt2(vocab_size=VOCABULARY, hidden_size=8, layers=1, heads=2, dropout=0.0)
    return LanguageModel(network, VOCABULARY, lr=0.01)


def trainer(folder, **arguments) -> Trainer:
    quiet = dict(logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
    return Trainer(accelerator="cpu", default_root_dir=folder, num_sanity_val_steps=0, **(quiet | arguments))


def by_hand(module: LanguageModel, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of every token, and whether it was foretold."""
    pieces, following = ToyStream().samples(split)
    text = torch.cat([pieces.long(), following[:, None]], dim=1)
    logits = module.eval()(text[:, :-1]).detach()
    losses = F.cross_entropy(logits.transpose(1, 2), text[:, 1:], reduction="none")
    return losses, (logits.argmax(-1) == text[:, 1:]).float()


@pytest.mark.parametrize("split", ["val", "test"])
def test_perplexity_is_the_exponential_of_the_mean_loss_over_tokens_whatever_the_batches(split, tmp_path):
    module, data = model(), ToyStream(batch_size=7)
    run = trainer(tmp_path)
    (logged,) = (run.validate if split == "val" else run.test)(module, data, verbose=False)
    losses, hits = by_hand(module, split)
    assert logged[f"{split}_perplexity"] == pytest.approx(math.exp(losses.mean()), rel=1e-5)
    assert logged[f"{split}_loss"] == pytest.approx(float(losses.mean()), rel=1e-5)
    assert logged[f"{split}_acc"] == pytest.approx(float(hits.mean()))
    # The mean over batches, which this is not, lies above.
    assert logged[f"{split}_perplexity"] < float(losses.mean(1).exp().mean()) - 1e-3


def test_training_takes_the_mean_over_tokens_of_the_next_one(tmp_path):
    module = model()
    batch = next(iter(ToyStream(batch_size=300, seed=0).test_dataloader()))
    module.log = lambda *_, **__: None
    assert module.training_step(batch, 0).item() == pytest.approx(float(by_hand(module, "test")[0].mean()), rel=1e-5)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Two short trainings of one initialisation, and the folder of their checkpoints."""
    folder = tmp_path_factory.mktemp("fitted")
    for seed in (1, 2):
        seed_everything(seed, verbose=False)
        run = trainer(folder, max_steps=15, limit_val_batches=0)
        run.fit(model(), ToyStream(seed=seed))
        run.save_checkpoint(folder / f"{seed}.ckpt")
    return folder


def test_a_line_reports_perplexity_and_judges_the_loss_over_samples_too(fitted):
    networks = [str(fitted / f"{seed}.ckpt") for seed in (1, 2)]
    arguments = dict(mode="min", alphas=[0, 0.5, 1], trainer=trainer(fitted))
    report = path(model(), ToyStream(), networks, monitor="test_loss", **arguments)
    (curve,) = report.curves["raw"].values()
    assert curve["test_perplexity"] == pytest.approx([math.exp(loss) for loss in curve["test_loss"]], rel=1e-5)
    assert report.blocks is not None  # pieces are of one length, so that the loss is a mean over them
    with_it = path(model(), ToyStream(), networks, monitor="test_perplexity", threshold_ratio=0.02, **arguments)
    assert with_it.blocks is None and "no mean over batches" in with_it.networks_alone


class Sharded(Callback):
    """Whether each block and the whole are sharded, as each run of the Trainer begins."""

    def __init__(self):
        self.sharded = []

    def on_fit_start(self, trainer, module):
        blocks = module.network.transformer.h
        self.sharded.append([isinstance(each, FSDPModule) for each in (*blocks, module.network)])

    on_test_start = on_fit_start


@pytest.mark.skipif(
    torch.__version__.startswith("2.6."),
    reason="torch 2.6 has no streams for FSDP2 on a CPU, and fails in its own hooks",
)
def test_under_a_strategy_that_shards_each_block_is_sharded_once_and_trains_as_it_does_whole(tmp_path):
    weights = []
    for strategy in (ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=1), "auto"):
        module, watch = model(), Sharded()
        run = trainer(tmp_path, devices=1, strategy=strategy, max_steps=3, limit_val_batches=0, callbacks=[watch])
        run.fit(module, ToyStream())
        weights.append({name: gathered(param) for name, param in module.named_parameters()})
        run.test(module, ToyStream(), verbose=False)
        assert watch.sharded == [[strategy != "auto"] * 2] * 2
    torch.distributed.destroy_process_group()
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-6) for name in weights[1])
