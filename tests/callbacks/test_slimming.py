"""NetworkSlimming: coefficients that are trained, penalised, and folded away without a trace."""

import csv
import math
import warnings
from copy import deepcopy
from functools import partial

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import BatchSizeFinder, Callback, GradientAccumulationScheduler, LearningRateFinder
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from helpers.blocks import Blocks, Convs
from helpers.callbacks import AVERAGING, PRECISIONS, WITH_STATE_PER_WEIGHT, scaler
from helpers.projects import OPTIMIZERS, Batches, fit, plain_loader, says, trainer
from helpers.states import KeepEveryResume, same
from helpers.works_with import rows
from lightning_lottery import ExactResume, LotteryError, NetworkSlimming
from lightning_lottery.callbacks.slimming import folded
from lightning_lottery.units.groups import groups_of
from lightning_lottery.units.removal import parameter_masks

shows = partial(pytest.mark.shows, column="NetworkSlimming")
COMPILED = "`torch.compile` of the module or of submodules"
INPUTS = torch.randn(5, 6, generator=torch.Generator().manual_seed(3))


@pytest.fixture(autouse=True)
def same_weights():
    torch.manual_seed(0)  # of modules built before `fit` sets its seed


class Look(Callback):
    """What the network gives, and its coefficients and state, right before the fit ends."""

    def on_train_end(self, trainer, pl_module):
        slimming = next(c for c in trainer.callbacks if isinstance(c, NetworkSlimming))
        self.coefficients = {name: c.detach().clone() for name, c in slimming.coefficients.items()}
        self.state = {name: value.clone() for name, value in pl_module.state_dict().items()}
        self.output = output_of(pl_module)


def output_of(module, inputs=INPUTS):
    was, parameter = module.training, next(module.parameters())
    with torch.no_grad():
        output = module.eval()(inputs.to(parameter.dtype) if inputs.is_floating_point() else inputs)
    module.train(was)
    return getattr(output, "logits", output)


def slimmed(tmp_path, module, *more, slimming=None, **arguments):
    """Fit a module with coefficients; what it was like right before they were folded."""
    look = Look()
    trainer = fit(tmp_path, slimming or NetworkSlimming(), look, *more, module=module, **arguments)
    return look, trainer


# The module is the plain one again


@pytest.mark.parametrize("make", [Blocks, Convs])
def test_after_the_fit_keys_and_function_are_the_plain_modules(make, tmp_path):
    module = make()
    keys, start = list(module.state_dict()), output_of(module)
    look, _ = slimmed(tmp_path, module)
    assert list(module.state_dict()) == keys
    assert not any(layer._forward_pre_hooks for layer in module.modules())
    assert not any("slimming" in name for name, _ in module.named_modules())
    torch.testing.assert_close(output_of(module), look.output)
    assert (look.output - start).abs().max() > 0.01
    assert all((c - 1).abs().max() > 0.001 for c in look.coefficients.values())


def tiny_vit(attention):
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=8, patch_size=4, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12
    )
    config._attn_implementation = attention
    return ViTForImageClassification(config), torch.randn(2, 3, 8, 8)


def tiny_bert():
    from lightning_lottery.zoo import bert

    return bert(vocab_size=20, hidden_size=8, layers=2, heads=2, mlp_size=12), torch.randint(0, 20, (2, 5))


def tiny_torchvision():
    from torchvision.models import VisionTransformer

    return VisionTransformer(8, 4, 2, 2, 8, 12, num_classes=3), torch.randn(2, 3, 8, 8)


def tiny_timm():
    from timm.models import VisionTransformer

    network = VisionTransformer(img_size=8, patch_size=4, embed_dim=8, depth=2, num_heads=2, num_classes=3)
    return network, torch.randn(2, 3, 8, 8)


def tiny_gpt():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=20, n_positions=8, n_embd=8, n_layer=2, n_head=2, n_inner=8, bos_token_id=1, eos_token_id=2
    )
    return GPT2LMHeadModel(config), torch.randint(0, 20, (2, 5))  # transposed weights, all of them square


def tiny_mlp():
    layers = [nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 6), nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(6, 8), nn.SiLU(), nn.Linear(8, 3)), torch.randn(5, 4)


FAMILIES = {
    "GPT-2": tiny_gpt,
    "plain MLP": tiny_mlp,
    "Hugging Face ViT, SDPA": lambda: tiny_vit("sdpa"),
    "Hugging Face ViT, eager": lambda: tiny_vit("eager"),
    "Hugging Face BERT": tiny_bert,
    "torchvision ViT": tiny_torchvision,
    "timm ViT": tiny_timm,
}


def stirred(network):
    """Weights large enough to tell units apart, also where a family begins at zero."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network.eval()


class Around(lightning.LightningModule):
    """As most projects have it: a network, and no ``forward`` around it."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def training_step(self, batch, batch_idx):
        return self.network(batch).sum()


@pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)
def test_a_coefficient_of_zero_is_a_unit_removed_and_one_of_one_changes_nothing_in_every_family(make):
    network, inputs = make()
    stirred(network)
    module = Around(network)
    plain, groups = output_of(network, inputs), groups_of(network)
    slimming = NetworkSlimming()
    slimming._attach(module)
    torch.testing.assert_close(output_of(network, inputs), plain)
    units = {name: torch.arange(group.size) % 2 == 0 for name, group in groups.items()}
    for name, coefficients in slimming.coefficients.items():
        if name.startswith("network."):
            coefficients.data.copy_(units[name.removeprefix("network.")])
    masked = deepcopy(network)
    slimming.fold()
    ours = output_of(network, inputs)
    for module_ in masked.modules():  # a copy that never had coefficients, masked the slow way
        module_._forward_pre_hooks.clear()
        for name in {"slimming", "slimming_transposed"} & module_._modules.keys():
            delattr(module_, name)
    for name, mask in parameter_masks(masked, units, groups).items():
        masked.get_parameter(name).data.mul_(mask)
    torch.testing.assert_close(ours, output_of(masked, inputs))
    assert (ours - plain).abs().max() > 1e-4


def test_a_gradient_reaches_every_coefficient_in_every_family():
    for make in FAMILIES.values():
        network, inputs = make()
        module = Around(stirred(network))
        slimming = NetworkSlimming()
        slimming._attach(module)
        output = network(inputs)
        getattr(output, "logits", output).square().sum().backward()
        grads = [c.grad for name, c in slimming.coefficients.items() if name.startswith("network.")]
        assert len(grads) == len(groups_of(network)) >= 4 and all(
            grad is not None and grad.abs().sum() > 0 for grad in grads
        )


@shows(row=COMPILED, cell="yes")
def test_compiled_layers_train_their_coefficients_and_compute_the_same_once_these_are_folded(tmp_path):
    module = Blocks()
    module.body.layers[0] = torch.compile(module.body.layers[0], backend="eager")
    module.body.layers[1].compile(backend="eager")
    look, _ = slimmed(tmp_path, module, max_epochs=1)
    assert {"body.layers.0.linear1", "body.layers.1.linear1"} <= look.coefficients.keys()
    assert all((c - 1).abs().max() > 0.001 for c in look.coefficients.values())
    torch.testing.assert_close(output_of(module), look.output)


@shows(row=COMPILED, cell="yes")
@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "wrapped"])
def test_a_compiled_module_trains_its_coefficients_and_computes_the_same_once_these_are_folded(in_place, tmp_path):
    module, look = Blocks(), Look()
    if in_place:
        module.compile(backend="eager")
    fitted = module if in_place else torch.compile(module, backend="eager")
    trainer(tmp_path, NetworkSlimming(), look).fit(fitted, Batches(), Batches(batches=1, seed=9))
    assert all((c - 1).abs().max() > 0.001 for c in look.coefficients.values())
    assert module.state_dict().keys() == Blocks().state_dict().keys()
    torch.testing.assert_close(output_of(module), look.output)


def test_code_compiled_for_a_module_without_coefficients_does_not_serve_one_with_them(tmp_path):
    for _ in range(2):  # the second meets what was compiled for the first, once folded
        module, look = Blocks(), Look()
        module.compile(backend="eager")
        trainer(tmp_path, NetworkSlimming(), look).fit(module, Batches(), Batches(batches=1, seed=9))
        torch.testing.assert_close(output_of(module), look.output)


# The penalty


STEP = 0.1 * 0.01  # rate times l1

LOOPS = {
    "alone": {},
    "accumulation": {"accumulate_grad_batches": 3, "max_epochs": 6},
    "bf16-mixed": {"precision": "bf16-mixed"},
    "clipping that does not bind": {"gradient_clip_val": 10.0},
}


@pytest.mark.parametrize("arguments", LOOPS.values(), ids=LOOPS)
def test_where_the_loss_is_flat_each_step_takes_rate_times_l1_once_and_weight_decay_nothing(arguments, tmp_path):
    look, trainer = slimmed(tmp_path, Blocks("sgd", loss_is_flat=True), slimming=NetworkSlimming(l1=0.01), **arguments)
    assert trainer.global_step == 12
    for coefficients in look.coefficients.values():
        torch.testing.assert_close(coefficients, torch.full_like(coefficients, 1 - 12 * STEP))


@pytest.mark.parametrize("optimizer", ["sgd", "fused sgd"])
def test_the_penalty_is_not_scaled_by_the_gradient_scaler_and_not_lost_in_it(optimizer, tmp_path):
    module = Blocks(optimizer, loss_is_flat=True)
    look, _ = slimmed(tmp_path, module, slimming=NetworkSlimming(l1=0.01), plugins=[scaler(1024.0)])
    for coefficients in look.coefficients.values():
        torch.testing.assert_close(coefficients, torch.full_like(coefficients, 1 - 12 * STEP))


def test_the_penalty_is_clipped_with_the_rest(tmp_path):
    module = Blocks("sgd", loss_is_flat=True)
    look, _ = slimmed(tmp_path, module, slimming=NetworkSlimming(l1=0.01), gradient_clip_val=0.001)
    coefficients = torch.cat(list(look.coefficients.values()))
    expected = 1 - 12 * 0.1 * 0.001 / math.sqrt(len(coefficients))
    torch.testing.assert_close(coefficients, torch.full_like(coefficients, expected), atol=1e-6, rtol=0)


def test_a_coefficient_that_went_negative_is_drawn_up(tmp_path):
    class Negative(Callback):
        def on_train_start(self, trainer, pl_module):
            next(iter(trainer.callbacks[0].coefficients.values())).data.fill_(-0.5)

    look, _ = slimmed(tmp_path, Blocks("sgd", loss_is_flat=True), Negative(), slimming=NetworkSlimming(l1=0.01))
    first = next(iter(look.coefficients.values()))
    torch.testing.assert_close(first, torch.full_like(first, -0.5 + 12 * STEP))


def test_scales_of_batch_norm_are_the_channels_coefficients_and_penalised_but_decayed_as_ever(tmp_path):
    slimming = NetworkSlimming(l1=0.01)
    look, _ = slimmed(tmp_path, Convs("sgd", loss_is_flat=True), slimming=slimming)
    assert {name: len(c) for name, c in look.coefficients.items()} == {"net.0": 6, "net.3": 8}
    expected = 1.0
    for _ in range(12):
        expected -= 0.1 * (0.01 + 0.1 * expected)
    for coefficients in look.coefficients.values():
        torch.testing.assert_close(coefficients, torch.full_like(coefficients, expected))


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd", "fused"])
def test_new_coefficients_are_not_decayed_and_the_optimizers_groups_stay_the_projects(optimizer, tmp_path):
    class Groups(Callback):
        seen = set()

        def on_train_batch_end(self, trainer, pl_module, *_):
            groups = trainer.optimizers[0].param_groups
            self.seen.add((len(groups), len(groups[0]["params"]), round(groups[0]["weight_decay"], 3)))

    module = Blocks(optimizer, loss_is_flat=True)
    before = module.head.weight.detach().clone()
    groups = Groups()
    look, _ = slimmed(tmp_path, module, groups, slimming=NetworkSlimming(l1=0.0))
    assert all((c == 1).all() for c in look.coefficients.values())
    assert (module.head.weight.norm() < before.norm()).all()
    assert groups.seen == {(1, len(list(module.parameters())) + 4, 0.1)}


def test_a_falling_rate_holds_for_the_coefficients_too(tmp_path):
    class Falls(Blocks):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1, weight_decay=0.1)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]

    look, _ = slimmed(tmp_path, Falls(loss_is_flat=True), slimming=NetworkSlimming(l1=0.01))
    expected = 1 - 4 * STEP * (1 + 0.5 + 0.25)
    for coefficients in look.coefficients.values():
        torch.testing.assert_close(coefficients, torch.full_like(coefficients, expected))


# Checkpoints


@shows(row="resume after any step, bit for bit", cell="yes")
def test_resumed_after_any_step_equals_the_unbroken_run(tmp_path):
    def end(folder, *more, **arguments):
        look, trainer = slimmed(folder, Blocks(), ExactResume(interval=1), *more, **arguments)
        return [
            look.state,
            look.coefficients,
            trainer.optimizers[0].state_dict(),
            trainer.lightning_module.state_dict(),
        ]

    keep = KeepEveryResume(tmp_path / "whole", tmp_path / "points")
    unbroken = end(tmp_path / "whole", keep)
    points = list((tmp_path / "points").iterdir())
    assert len(points) == 12
    for point in points:
        state = torch.load(point, weights_only=True)["state_dict"]
        assert sum("slimming" in key for key in state) == 4
        assert same(end(tmp_path / point.stem, ckpt=point), unbroken), point.stem


def test_a_checkpoint_of_the_middle_is_tested_as_it_was_and_a_final_one_is_plain(tmp_path):
    keep = KeepEveryResume(tmp_path, tmp_path / "points")
    module = Blocks()
    look, trainer = slimmed(tmp_path, module, ExactResume(interval=1), keep)
    middle = tmp_path / "points" / "12.ckpt"
    state = torch.load(middle, weights_only=True)["state_dict"]
    plain = Blocks()
    plain.load_state_dict(folded(state), strict=True)
    torch.testing.assert_close(output_of(plain), look.output)
    trainer.save_checkpoint(tmp_path / "final.ckpt")
    final = torch.load(tmp_path / "final.ckpt", weights_only=True)["state_dict"]
    assert final.keys() == Blocks().state_dict().keys()
    results = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`")
        for checkpoint in (middle, tmp_path / "final.ckpt"):
            torch.nn.init.zeros_(module.head.weight)
            results += trainer.test(module, Batches(seed=4), ckpt_path=checkpoint, verbose=False)
    assert results[0]["val_loss"] == pytest.approx(results[1]["val_loss"], rel=1e-5)
    assert results[0]["val_loss"] != pytest.approx(math.log(3), rel=1e-3)


@shows(cell="after only")
@rows("averaging", AVERAGING, "{}, before or after in the list")
def test_averages_hold_the_coefficients_and_the_final_average_is_folded(averaging, tmp_path):
    module, look = Blocks(), Look()
    fit(tmp_path, NetworkSlimming(), averaging(), look, module=module)
    assert sum("slimming" in name for name in look.state) == 4
    assert module.state_dict().keys() == Blocks().state_dict().keys()
    torch.testing.assert_close(output_of(module), look.output)


@shows(cell="after only")
@rows("averaging", AVERAGING, "{}, before or after in the list")
def test_an_averaging_callback_before_slimming_is_refused(averaging, tmp_path):
    with pytest.raises(LotteryError, match="Averaging has copied .* put NetworkSlimming first"):
        fit(tmp_path, averaging(), NetworkSlimming(), module=Blocks())


def test_a_checkpoint_without_coefficients_is_refused_in_a_sentence(tmp_path):
    ended = fit(tmp_path, NetworkSlimming(), module=Blocks())
    ended.save_checkpoint(tmp_path / "ended.ckpt")
    with pytest.raises(LotteryError, match="ended.ckpt' has no slimming coefficients: .* fit that without `ckpt_path`"):
        fit(tmp_path, NetworkSlimming(), module=Blocks(), ckpt=tmp_path / "ended.ckpt", max_epochs=4)


def test_a_step_that_breaks_leaves_the_optimizers_groups_whole(tmp_path):
    class Breaks(Callback):
        def on_before_backward(self, trainer, pl_module, loss):
            if trainer.global_step == 5:
                raise RuntimeError("night")

        def on_exception(self, trainer, pl_module, exception):
            self.groups = len(trainer.optimizers[0].param_groups)

    breaks, slimming, module = Breaks(), NetworkSlimming(), Blocks()
    with pytest.raises(RuntimeError, match="night"):
        fit(tmp_path, slimming, breaks, module=module)
    assert breaks.groups == 1
    with pytest.raises(LotteryError, match="still has coefficients of a fit that was broken off"):
        fit(tmp_path, NetworkSlimming(), module=module)
    fit(tmp_path, slimming, module=module)  # the same one goes on
    assert module.state_dict().keys() == Blocks().state_dict().keys()


@shows(cell="yes")
@rows("how", {name: how for name, how in PRECISIONS.items() if name != "bf16-true"})
def test_every_precision_and_loop_trains_coefficients_and_folds_them(how, tmp_path):
    trains_and_folds(how, tmp_path)


@shows(row="bf16-true", cell="warned of")
def test_half_precision_of_the_coefficients_themselves_is_named_once(tmp_path):
    with says("coefficients are bfloat16, in which 1 has no neighbour closer than 0.0039: .*'bf16-mixed'", times=1):
        trains_and_folds(PRECISIONS["bf16-true"], tmp_path)


def trains_and_folds(how, tmp_path):
    module = Blocks()
    look, trainer = slimmed(tmp_path, module, **how())
    assert trainer.global_step == 12
    assert all((c.float() - 1).abs().max() > 0.001 for c in look.coefficients.values())
    assert module.state_dict().keys() == Blocks().state_dict().keys()


class Under(Blocks):
    def __init__(self, optimizer):
        super().__init__()
        self.optimizer = optimizer

    def configure_optimizers(self):
        return OPTIMIZERS[self.optimizer](self.parameters())


@shows(cell="yes")
@rows("optimizer", WITH_STATE_PER_WEIGHT | {"LBFGS": "lbfgs"})
def test_every_optimizer_trains_coefficients_and_folds_them(optimizer, tmp_path):
    module = Under(optimizer)
    look, trainer = slimmed(tmp_path, module)
    assert trainer.global_step == 12
    assert all((c - 1).abs().max() > 0.001 for c in look.coefficients.values())
    torch.testing.assert_close(output_of(module), look.output)


class TwoOptimizers(Blocks):
    """Manual optimization: two optimizers step in every batch, and each has some coefficients."""

    def __init__(self, zero_last):
        super().__init__(loss_is_flat=True)
        self.automatic_optimization, self.zero_last = False, zero_last

    def training_step(self, batch, batch_idx):
        both = self.optimizers()
        for one in [] if self.zero_last else both:
            one.zero_grad()
        self.manual_backward(self.loss(batch) * 0)
        for one in both:
            one.step()
        for one in both if self.zero_last else []:
            one.zero_grad()

    def configure_optimizers(self):
        parts = ([], [])
        for name, parameter in self.named_parameters():
            parts["layers.1" in name].append(parameter)
        return [torch.optim.SGD(part, 0.1, weight_decay=0.1) for part in parts]


@shows(cell="yes")
@rows("zero_last", {"several optimizers": False, "`zero_grad()` after `step()`": True}, "manual optimization, {}")
def test_under_two_manual_optimizers_each_step_takes_rate_times_l1_once(zero_last, tmp_path):
    look, trainer = slimmed(tmp_path, TwoOptimizers(zero_last), slimming=NetworkSlimming(l1=0.01))
    assert trainer.global_step == 24
    for coefficients in look.coefficients.values():
        torch.testing.assert_close(coefficients, torch.full_like(coefficients, 1 - 12 * STEP))


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield from Batches()


ENDLESS = "iterable loaders, `max_time`, changing accumulation"


@shows(row=ENDLESS, cell="yes")
def test_a_loader_without_end_trains_and_folds(tmp_path):
    module, endless = Blocks(), DataLoader(Endless(), batch_size=None)
    look, trainer = slimmed(tmp_path, module, train=endless, max_epochs=-1, max_steps=12, max_time={"minutes": 9})
    assert trainer.global_step == 12
    torch.testing.assert_close(output_of(module), look.output)


@shows(row=ENDLESS, cell="yes")
def test_where_accumulation_changes_each_step_takes_rate_times_l1_once(tmp_path):
    look, trainer = slimmed(
        tmp_path,
        Blocks("sgd", loss_is_flat=True),
        GradientAccumulationScheduler({0: 1, 1: 2}),
        slimming=NetworkSlimming(l1=0.01),
    )
    assert trainer.global_step == 4 + 2 + 2
    for coefficients in look.coefficients.values():
        torch.testing.assert_close(coefficients, torch.full_like(coefficients, 1 - 8 * STEP))


class Tunable(Blocks):
    def __init__(self):
        super().__init__()
        self.lr, self.batch_size = 1e-2, 4

    def train_dataloader(self):
        return plain_loader(32, self.batch_size)

    val_dataloader = train_dataloader

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), self.lr)


TUNERS = {
    "learning rate": lambda: LearningRateFinder(num_training_steps=8),
    "batch size": lambda: BatchSizeFinder(mode="power", max_trials=2, steps_per_trial=2),
}


@shows(row="learning-rate finder, batch-size finder", cell="yes")
@pytest.mark.parametrize("tuner", TUNERS.values(), ids=TUNERS)
@pytest.mark.parametrize("first", [True, False])
def test_after_a_tuner_every_coefficient_is_1_again_and_the_fit_trains_it(tuner, first, tmp_path):
    class AtTheBeginning(Callback):
        def on_train_start(self, trainer, pl_module):
            self.coefficients = {name: c.detach().clone() for name, c in slimming.coefficients.items()}

    slimming, start, look, module = NetworkSlimming(), AtTheBeginning(), Look(), Tunable()
    pair = [slimming, tuner()] if first else [tuner(), slimming]
    fitted = trainer(tmp_path, *pair, start, look, max_epochs=-1, max_steps=12, enable_checkpointing=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted.fit(module)
    assert len(start.coefficients) == 4 and all((c == 1).all() for c in start.coefficients.values())
    assert all((c - 1).abs().max() > 0.001 for c in look.coefficients.values())
    torch.testing.assert_close(output_of(module), look.output)


# What it says


@pytest.mark.parametrize("log_layers", [False, True])
def test_mean_and_smallest_coefficient_of_each_kind_are_logged_now_and_then_and_of_layers_on_request(
    log_layers, tmp_path
):
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(tmp_path)
    fit(tmp_path, NetworkSlimming(log_layers=log_layers), module=Blocks(), logger=logger, log_every_n_steps=4)
    with open(logger.experiment.metrics_file_path) as file:
        rows = [row for row in csv.DictReader(file) if row["slimming/neuron/mean"]]
    assert [int(row["step"]) for row in rows] == [3, 7, 11]
    assert all(0 < float(row["slimming/head/min"]) <= float(row["slimming/head/mean"]) < 1.2 for row in rows)
    layers = [f"slimming_of/body.layers.{layer}.linear1" for layer in (0, 1)]
    assert [key for key in rows[0] if key.startswith("slimming_of/")] == sorted(
        f"{name}/{what}"
        for name in ([*layers, *(f"slimming_of/body.layers.{n}.self_attn" for n in (0, 1))] if log_layers else [])
        for what in ("mean", "min")
    )
    for row in rows if log_layers else ():
        means = [float(row[f"{name}/mean"]) for name in layers]
        assert float(row["slimming/neuron/mean"]) == pytest.approx(sum(means) / 2, rel=1e-5)  # layers of one size
        assert float(row["slimming/neuron/min"]) == min(float(row[f"{name}/min"]) for name in layers)


class Decayed(Blocks):
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01, weight_decay=0.5)


def test_two_of_different_names_do_what_one_of_both_kinds_does_and_resume_bit_for_bit(tmp_path):
    def end(folder, *callbacks, ckpt=None):
        torch.manual_seed(0)
        module = Decayed()
        fit(tmp_path / folder, *callbacks, ExactResume(interval=1), module=module, ckpt=ckpt)
        return module.state_dict()

    def parted():
        return [NetworkSlimming(kinds=["head"]), NetworkSlimming(kinds=["neuron"], name="neurons")]

    whole = end("whole", NetworkSlimming())
    assert same(end("parted", *parted(), KeepEveryResume(tmp_path / "parted", tmp_path / "points")), whole)
    middle = tmp_path / "points" / "5.ckpt"
    assert {"NetworkSlimming", "NetworkSlimming.neurons"} <= torch.load(middle, weights_only=True)["callbacks"].keys()
    assert same(end("resumed", *parted(), ckpt=middle), whole)


def test_two_that_would_scale_the_same_units_are_refused(tmp_path):
    message = "NetworkSlimming and NetworkSlimming 'b' both give coefficients to the units of 'body.layers.0.linear1'"
    with pytest.raises(LotteryError, match=message):
        fit(tmp_path, NetworkSlimming(kinds=["neuron"]), NetworkSlimming(name="b"), module=Blocks())


REFUSED = {
    "l1 negative": (lambda: NetworkSlimming(-1.0), "`l1`.*>= 0"),
    "l1 no number": (lambda: NetworkSlimming(True), "`l1`"),
    "unknown kind": (lambda: NetworkSlimming(kinds=["heads"]), "'head', 'neuron', 'channel'"),
    "no kind": (lambda: NetworkSlimming(kinds=[]), "`kinds`"),
    "a word for a list": (lambda: NetworkSlimming(kinds="head"), "`kinds`"),
}


@pytest.mark.parametrize(("build", "message"), REFUSED.values(), ids=REFUSED)
def test_what_it_cannot_mean_is_refused_when_it_is_built(build, message):
    with pytest.raises(LotteryError, match=message):
        build()


class Late(Blocks):
    def __init__(self):
        super().__init__()
        del self.tokens, self.body, self.head


class OnlyHead(Blocks):
    def configure_optimizers(self):
        return torch.optim.SGD(self.head.parameters(), lr=0.1)


class Plain(Blocks):
    def __init__(self):
        super().__init__()
        self.body = nn.Identity()


class Tied(Blocks):
    def __init__(self):
        super().__init__()
        self.body.layers[1].linear2.weight = self.body.layers[0].linear2.weight


@pytest.mark.parametrize(
    ("make", "callbacks", "message"),
    [
        (Late, [NetworkSlimming], "has no parameters yet.*__init__"),
        (OnlyHead, [NetworkSlimming], "No optimizer trains the coefficients of 'body.layers.0.self_attn' .4 of 4"),
        (Plain, [NetworkSlimming], "no block that could be recognised"),
        (Tied, [NetworkSlimming], "cannot fold the coefficients of 'body.layers.0.linear1'.*tied"),
        (Convs, [lambda: NetworkSlimming(kinds=["head"])], "finds no head .*units of the kind channel"),
    ],
)
def test_a_project_that_it_cannot_slim_is_refused_in_a_sentence(make, callbacks, message, tmp_path):
    with pytest.raises(LotteryError, match=message):
        fit(tmp_path, *(callback() for callback in callbacks), module=make())


def test_a_layer_that_is_not_called_is_named(tmp_path):
    class Skips(Blocks):
        def forward(self, x):
            return self.head(self.body.layers[0](self.tokens(x).view(len(x), 4, 8)).mean(1))

    with says("no gradient reaches the coefficients of body.layers.1.self_attn, body.layers.1.linear1", times=1):
        fit(tmp_path, NetworkSlimming(), module=Skips())
