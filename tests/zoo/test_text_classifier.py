import math
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.cli import LightningCLI
from torch import nn
from torch.nn import functional as F

from lightning_lottery.errors import LotteryError
from lightning_lottery.zoo import CosineRate, TextClassifier, ToyReviews, bert

TINY = {"vocab_size": 30, "hidden_size": 8, "layers": 1, "heads": 2, "mlp_size": 8, "dropout": 0.0}


def trainer(folder: Path | None = None, **arguments) -> Trainer:
    quiet = dict(logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
    return Trainer(**(quiet | dict(accelerator="cpu", default_root_dir=folder, num_sanity_val_steps=0) | arguments))


def few() -> ToyReviews:
    """Three optimizer steps an epoch."""
    return ToyReviews(batch_size=4, limit=12)


def whole(split: str):
    """All tokens and labels of a split as one batch."""
    ((tokens, labels),) = getattr(ToyReviews(batch_size=300), f"{split}_dataloader")()
    return tokens, labels


class Bag(nn.Module):
    """Plain logits, as networks that are not Hugging Face's return them."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Embedding(30, 2)

    def forward(self, input_ids, attention_mask):
        return (self.logits(input_ids) * attention_mask[..., None]).sum(1)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [({"optimizer": "adam"}, "optimizer"), ({"lr": 0.0}, "lr"), ({"weight_decay": -1.0}, "weight_decay")],
)
def test_arguments_out_of_range_are_refused_when_built(arguments, reason):
    with pytest.raises(LotteryError, match=reason):
        TextClassifier(Bag(), **arguments)


def test_logits_come_with_or_without_hugging_face():
    tokens, _ = next(iter(few().test_dataloader()))
    network = bert(**TINY).eval()
    assert torch.equal(TextClassifier(network)(tokens), network(**tokens).logits)
    assert TextClassifier(Bag())(tokens).shape == (4, 2)


def test_the_state_holds_the_network_s_parameters_and_nothing_else():
    assert set(TextClassifier(Bag()).state_dict()) == {"network.logits.weight"}


@pytest.mark.parametrize("split", ["val", "test"])
def test_loss_and_accuracy_are_means_over_samples_whatever_the_batches(split):
    torch.manual_seed(0)
    model, data = TextClassifier(bert(**TINY)), ToyReviews(batch_size=7)
    run = trainer()
    (logged,) = (run.validate if split == "val" else run.test)(model, data, verbose=False)
    assert len({len(labels) for _, labels in data.test_dataloader()}) == 2
    tokens, labels = whole(split)
    logits = model.eval()(tokens).detach()
    assert set(logged) == {f"{split}_loss", f"{split}_acc"}
    assert logged[f"{split}_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert logged[f"{split}_acc"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())


def test_a_loss_that_is_not_a_number_is_logged_as_such():
    model = TextClassifier(Bag())
    nn.init.constant_(model.network.logits.weight, math.nan)
    (logged,) = trainer().test(model, few(), verbose=False)
    assert math.isnan(logged["test_loss"])


def test_predictions_are_the_logits():
    model, data = TextClassifier(bert(**TINY)).eval(), few()
    predicted = torch.cat(trainer().predict(model, data))
    torch.testing.assert_close(predicted, model(whole("test")[0]).detach())


def test_a_few_epochs_learn_what_not_does():
    torch.manual_seed(0)
    model = TextClassifier(bert(vocab_size=30, hidden_size=32, layers=2, heads=2, mlp_size=32, dropout=0.0), lr=0.003)
    run = trainer(max_epochs=10, limit_val_batches=0)
    run.fit(model, ToyReviews(batch_size=16))
    (logged,) = run.test(model, ToyReviews(), verbose=False)
    assert logged["test_acc"] > 0.85  # without a word for "not", 0.8


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5])
def test_a_fit_resumed_at_any_step_ends_with_the_weights_of_the_unbroken_one(stop, tmp_path):
    def fitted(ckpt_path=None, **arguments):
        torch.manual_seed(0)
        model = TextClassifier(bert(**TINY), learning_rate=CosineRate())
        trainer(tmp_path, max_epochs=2, **arguments).fit(model, few(), ckpt_path=ckpt_path)
        return model.state_dict()

    def save(trainer, *_):
        trainer.save_checkpoint(tmp_path / f"step={trainer.global_step}.ckpt")

    unbroken = fitted(callbacks=[LambdaCallback(on_train_batch_end=save)])
    resumed = fitted(ckpt_path=str(tmp_path / f"step={stop}.ckpt"))
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)


@pytest.fixture
def from_yaml(tmp_path, monkeypatch):
    """What the command builds from a model and data with short names."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # the command seeds, and this variable would outlive the test

    def build(model, data) -> LightningCLI:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        settings = {"accelerator": "cpu", "max_steps": 2, "limit_val_batches": 1, "default_root_dir": str(tmp_path)}
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({"model": model, "data": data, "trainer": quiet | settings}))
        monkeypatch.setattr("sys.argv", ["fit", "--config", str(path)])
        return LightningCLI(run=False, parser_kwargs={"parser_mode": "omegaconf"}, save_config_callback=None)

    return build


def named(class_path: str, **init_args):
    return {"class_path": class_path, "init_args": init_args}


def test_yaml_with_short_names_builds_fits_and_leaves_a_checkpoint_that_loads_without_pickle(from_yaml):
    network = named("lightning_lottery.zoo.bert", **TINY)
    learning_rate = named("CosineRate", warmup=0.1)
    cli = from_yaml(
        named("TextClassifier", network=network, lr=0.01, learning_rate=learning_rate),
        named("ToyReviews", batch_size=4),
    )
    assert isinstance(cli.model, TextClassifier)
    assert cli.model.learning_rate == CosineRate(warmup=0.1)
    cli.trainer.fit(cli.model, cli.datamodule)
    path = cli.trainer.checkpoint_callback.best_model_path
    stored = torch.load(path, weights_only=True)
    assert stored["hyper_parameters"].keys().isdisjoint({"network", "learning_rate"})
    again = TextClassifier.load_from_checkpoint(path, network=bert(**TINY), weights_only=True)
    assert again.lr == 0.01
    tokens, _ = whole("test")
    assert torch.equal(again.eval()(tokens), cli.model.eval()(tokens))


@pytest.mark.parametrize("network", ["pretrained_text", "random_text"])
def test_yaml_names_published_networks_and_the_files_of_sst2(network, from_yaml, tmp_path):
    bert(**TINY).save_pretrained(tmp_path)
    cli = from_yaml(
        named("TextClassifier", network=named(f"lightning_lottery.zoo.{network}", name=str(tmp_path))),
        named("SST2", root=str(tmp_path), tokenizer="words", max_length=32, limit=8),
    )
    assert type(cli.model.network).__name__ == "BertForSequenceClassification"
    assert (cli.datamodule.tokenizer, cli.datamodule.limit) == ("words", 8)
