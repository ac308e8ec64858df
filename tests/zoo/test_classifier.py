import math
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.cli import LightningCLI
from torch import nn
from torch.nn import functional as F

from lightning_lottery.errors import LotteryError
from lightning_lottery.zoo import (
    ConstantRate,
    CosineRate,
    Digits,
    ImageClassifier,
    MilestoneRate,
    SeededBatches,
    lenet_300_100,
    vit,
)


class Linear(nn.Module):
    """Logits of the flattened image; keeps what it was fed."""

    def __init__(self, inputs: int = 64, num_classes: int = 10) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, num_classes)

    def forward(self, images):
        self.fed = images.detach()
        return self.layer(images.flatten(1))


class Few(LightningDataModule):
    """Twelve training samples and seven others, augmented with noise: three optimizer steps an epoch."""

    def _loader(self, count, **arguments):
        generator = torch.Generator().manual_seed(count)
        images = torch.randint(256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
        return SeededBatches(images / 255, torch.arange(count) % 10, batch_size=4, seed=1, **arguments)

    def train_dataloader(self):
        return self._loader(12, shuffle=True, prepare=lambda x, g: x + torch.rand(x.shape, generator=g))

    def val_dataloader(self):
        return self._loader(7)

    test_dataloader = predict_dataloader = val_dataloader


def trainer(folder: Path | None = None, **arguments) -> Trainer:
    quiet = dict(logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
    return Trainer(**(quiet | dict(accelerator="cpu", default_root_dir=folder, num_sanity_val_steps=0) | arguments))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"optimizer": "adam"}, "optimizer"),
        ({"lr": 0.0}, "lr"),
        ({"lr": math.nan}, "lr"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"momentum": 1.0}, "momentum"),
        ({"mean": (0.5,)}, "together"),
        ({"mean": (0.5,), "std": (0.5, 0.5)}, "one number per channel"),
        ({"mean": (0.5,), "std": (0.0,)}, "std"),
    ],
)
def test_arguments_out_of_range_are_refused_when_built(arguments, reason):
    with pytest.raises(LotteryError, match=reason):
        ImageClassifier(Linear(), **arguments)


def test_images_go_in_as_they_are_by_default():
    model = ImageClassifier(Linear())
    images = torch.rand(2, 1, 8, 8)
    model(images)
    assert torch.equal(model.network.fed, images)


def test_images_are_normalised_channel_by_channel():
    model = ImageClassifier(Linear(inputs=2 * 16), mean=(0.5, 0.25), std=(0.5, 0.25))
    model(torch.full((1, 2, 4, 4), 0.75))
    assert torch.equal(model.network.fed[0, :, 0, 0], torch.tensor([0.5, 2.0]))


def test_a_network_s_own_size_mean_and_std_are_used_unless_others_are_given():
    network = Linear(inputs=3 * 36)
    network.image_size, network.image_mean, network.image_std = (6, 6), (0.5, 0.5, 0.5), (0.5, 0.5, 0.25)
    ImageClassifier(network)(torch.ones(2, 3, 8, 8))
    assert network.fed.shape == (2, 3, 6, 6)
    torch.testing.assert_close(network.fed[0, :, 2, 2], torch.tensor([1.0, 1.0, 2.0]))
    ImageClassifier(network, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))(torch.ones(2, 3, 8, 8))
    torch.testing.assert_close(network.fed[0, :, 2, 2], torch.ones(3))


def test_the_output_of_a_hugging_face_network_is_unwrapped_to_logits():
    network = vit(layers=1).eval()
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(ImageClassifier(network)(images), network(images).logits)


def test_the_state_holds_the_network_s_parameters_and_nothing_else():
    model = ImageClassifier(Linear(), mean=(0.5,), std=(0.5,))
    assert set(model.state_dict()) == {"network.layer.weight", "network.layer.bias"}


@pytest.mark.parametrize("split", ["val", "test"])
def test_loss_and_accuracy_are_means_over_samples_whatever_the_batches(split):
    model, data = ImageClassifier(Linear()), Few()
    run = trainer()
    (logged,) = (run.validate if split == "val" else run.test)(model, data, verbose=False)
    loader = data.val_dataloader()
    assert {len(labels) for _, labels in loader} == {3, 4}
    logits, labels = model(loader.inputs).detach(), loader.labels
    assert set(logged) == {f"{split}_loss", f"{split}_acc"}
    assert logged[f"{split}_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert logged[f"{split}_acc"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())


def test_a_loss_that_is_not_a_number_is_logged_as_such():
    model = ImageClassifier(Linear())
    nn.init.constant_(model.network.layer.bias, math.nan)
    (logged,) = trainer().test(model, Few(), verbose=False)
    assert math.isnan(logged["test_loss"])


def test_predictions_are_the_logits():
    model, data = ImageClassifier(Linear()), Few()
    predicted = torch.cat(trainer().predict(model, data))
    torch.testing.assert_close(predicted, model(data.predict_dataloader().inputs).detach())


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_learning_rate_follows_its_schedule_at_every_step(optimizer):
    rates = []

    class Watched(ImageClassifier):
        def on_before_optimizer_step(self, optimizer):
            rates.append(optimizer.param_groups[0]["lr"])

    schedule = CosineRate(warmup=2)
    trainer(max_epochs=2).fit(Watched(Linear(), lr=0.1, learning_rate=schedule, optimizer=optimizer), Few())
    assert rates == pytest.approx([0.1 * schedule.factor_at(step, 6) for step in range(6)])


def test_the_optimizer_is_the_one_asked_for_with_its_settings():
    model = ImageClassifier(Linear(), optimizer="sgd", lr=0.3, momentum=0.5, weight_decay=0.1)
    run = trainer(max_steps=1)
    run.fit(model, Few())
    (group,) = run.optimizers[0].param_groups
    assert isinstance(run.optimizers[0], torch.optim.SGD)
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.3, 0.5, 0.1)


@pytest.mark.parametrize("schedule", [CosineRate(), ConstantRate(warmup=0.1), MilestoneRate()])
def test_a_schedule_that_needs_the_end_of_an_endless_fit_is_refused_before_it_starts(schedule):
    with pytest.raises(LotteryError, match="max_steps"):
        trainer(max_epochs=-1).fit(ImageClassifier(Linear(), learning_rate=schedule), Few())


def test_a_constant_rate_does_not_mind_an_endless_fit():
    run = trainer(max_epochs=-1, max_time={"seconds": 0.01})
    run.fit(ImageClassifier(Linear()), Few())
    assert run.global_step >= 1


@pytest.mark.parametrize("limits", [{}, {"limit_train_batches": 2}])
@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5])
def test_a_fit_resumed_at_any_step_ends_with_the_weights_of_the_unbroken_one(stop, limits, tmp_path):
    def fitted(ckpt_path=None, **arguments):
        torch.manual_seed(0)
        model = ImageClassifier(Linear(), learning_rate=CosineRate())
        trainer(tmp_path, max_epochs=3, **limits, **arguments).fit(model, Few(), ckpt_path=ckpt_path)
        return model.state_dict()

    def save(trainer, *_):
        trainer.save_checkpoint(tmp_path / f"step={trainer.global_step}.ckpt")

    unbroken = fitted(callbacks=[LambdaCallback(on_train_batch_end=save)])
    resumed = fitted(ckpt_path=str(tmp_path / f"step={stop}.ckpt"))
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)


TINY = {"layers": 1, "hidden_size": 8, "heads": 2}
CONFIGURATION = {
    "model": {
        "class_path": "ImageClassifier",
        "init_args": {
            "network": {"class_path": "lightning_lottery.zoo.vit", "init_args": TINY},
            "learning_rate": {"class_path": "CosineRate", "init_args": {"warmup": 0.1}},
            "mean": [0.5],
            "std": [0.25],
        },
    },
    "data": {"class_path": "Digits", "init_args": {"batch_size": 4, "limit": 16}},
    "trainer": {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "max_steps": 2,
        "limit_val_batches": 1,
    },
}


@pytest.fixture
def from_yaml(tmp_path, monkeypatch):
    """What the command builds from a configuration, laid over the one above."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # the command seeds, and this variable would outlive the test

    def build(**overlaid) -> LightningCLI:
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(CONFIGURATION | overlaid))
        monkeypatch.setattr("sys.argv", ["fit", "--config", str(path), f"--trainer.default_root_dir={tmp_path}"])
        return LightningCLI(run=False, parser_kwargs={"parser_mode": "omegaconf"}, save_config_callback=None)

    return build


def test_yaml_with_short_names_builds_fits_and_leaves_a_checkpoint_that_loads_without_pickle(from_yaml):
    cli = from_yaml()
    assert isinstance(cli.model, ImageClassifier)
    assert isinstance(cli.datamodule, Digits)
    assert cli.model.learning_rate == CosineRate(warmup=0.1)
    assert (cli.model.mean, cli.model.std) == (torch.tensor(0.5), torch.tensor(0.25))
    cli.trainer.fit(cli.model, cli.datamodule)
    assert cli.trainer.global_step == 2
    path = cli.trainer.checkpoint_callback.best_model_path
    stored = torch.load(path, weights_only=True)
    assert stored["hyper_parameters"].keys().isdisjoint({"network", "learning_rate"})
    network = vit(**TINY)
    again = ImageClassifier.load_from_checkpoint(path, network=network, weights_only=True)
    assert again.mean.item() == 0.5
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(again.eval()(images), cli.model.eval()(images))


@pytest.mark.parametrize(
    ("schedule", "built"),
    [
        ({"class_path": "ConstantRate"}, ConstantRate()),
        ({"class_path": "ConstantRate", "init_args": {"warmup": 10}}, ConstantRate(10)),
        ({"class_path": "MilestoneRate", "init_args": {"at": [20, 30]}}, MilestoneRate(at=(20, 30))),
        ({"class_path": "MilestoneRate", "init_args": {"at": [0.25, 0.5]}}, MilestoneRate(at=(0.25, 0.5))),
    ],
)
def test_yaml_tells_steps_from_fractions(schedule, built, from_yaml):
    network = {"class_path": "lightning_lottery.zoo.lenet_300_100", "init_args": {"inputs": 64}}
    model = {"class_path": "ImageClassifier", "init_args": {"network": network, "learning_rate": schedule}}
    cli = from_yaml(model=model)
    assert cli.model.learning_rate == built
    assert isinstance(cli.model.network, type(lenet_300_100()))


@pytest.mark.parametrize(
    "network",
    [
        {"class_path": "lightning_lottery.zoo.resnet", "init_args": {"depth": 8, "channels": 1}},
        {"class_path": "lightning_lottery.zoo.torchvision_model", "init_args": {"name": "resnet18", "num_classes": 10}},
    ],
)
def test_yaml_names_any_network_of_the_zoo(network, from_yaml):
    model = {"class_path": "ImageClassifier", "init_args": {"network": network}}
    assert isinstance(from_yaml(model=model).model.network, nn.Module)
