"""Units cut out of a running fit: what goes on with the smaller module, and what is refused before the first step."""

import csv
import gc
import shutil
import sys
import weakref
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy
from torch import nn

from helpers.blocks import Blocks, Convs
from helpers.processes import run
from helpers.projects import Batches, fit, says
from helpers.states import KeepEveryResume, differences, ending, same
from lightning_lottery import (
    EarlyBird,
    ExactResume,
    HammingFIFO,
    LotteryError,
    MagnitudePruning,
    NetworkSlimming,
    load_shrunk,
    save_shrunk,
)
from lightning_lottery.functional import Constant
from lightning_lottery.hooks.masked import averaged_copies
from lightning_lottery.hooks.private import why_not_wrapped_anew
from lightning_lottery.scope import Scope
from lightning_lottery.units.groups import groups_of

LONG = {"max_epochs": 5}  # twenty steps
DRAWN = 10


@pytest.fixture(autouse=True)
def same_weights():
    torch.manual_seed(0)


def bird(action="shrink", scores="coefficients", **arguments):
    return EarlyBird(
        [HammingFIFO(2, 0.9, interval=5, min_steps=DRAWN)], [0.5], action=action, scores=scores, **arguments
    )


class Losses(Callback):
    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, trainer, pl_module, outputs, *_):
        self.losses.append(outputs["loss"].item())


def without_dropout(module):
    for child in module.modules():
        if isinstance(child, nn.Dropout):
            child.p = 0.0
        elif isinstance(child, nn.MultiheadAttention):
            child.dropout = 0.0
    return module


class Law(Callback):
    """Whatever optimizers hold belongs to the module as it is, has its shapes, and nothing of the old one lives on."""

    lottery_order = 3

    def __init__(self):
        self.old, self.sizes = [], []

    def on_train_start(self, trainer, pl_module):
        self.old = [weakref.ref(p) for p in pl_module.parameters()]

    def on_train_batch_end(self, trainer, pl_module, *_):
        present = {id(p): p for p in pl_module.parameters()}
        for optimizer in trainer.optimizers:
            held = [p for group in optimizer.param_groups for p in group["params"]]
            assert len(held) == len(present) and {id(p) for p in held} == present.keys()
            assert {id(p) for p in optimizer.state} <= present.keys()
            for param, kept in optimizer.state.items():
                assert all(v.shape == param.shape for key, v in kept.items() if key != "step" and v is not None)
                assert param.grad is not None and param.grad.shape == param.shape
        size = sum(p.numel() for p in present.values())
        if self.sizes and size < self.sizes[-1]:
            gc.collect()
            alive = [p for ref in self.old if (p := ref()) is not None]
            assert all(id(p) in present for p in alive) and len(alive) < len(self.old)
        self.sizes.append(size)


FITS = {
    "sgd": (lambda: Blocks("sgd"), "coefficients", {}),
    "adam": (lambda: Blocks("adam"), "coefficients", {}),
    "accumulated": (lambda: Blocks("adamw"), "coefficients", {"accumulate_grad_batches": 2, "max_epochs": 10}),
    "clipped": (lambda: Blocks("sgd"), "weights", {"gradient_clip_val": 0.1}),
    "channels": (lambda: Convs("adam"), "coefficients", {}),
    "channels without coefficients": (lambda: Convs("sgd"), "weights", {}),
}


@pytest.mark.parametrize("case", FITS)
def test_the_smaller_module_trains_as_the_masked_one_does(case, tmp_path):
    make, scores, arguments = FITS[case]
    curves, outputs, sizes = {}, {}, {}
    for action in ("prune", "shrink"):
        torch.manual_seed(0)
        module, losses, law = without_dropout(make()), Losses(), Law()
        callbacks = [NetworkSlimming()] if scores == "coefficients" else []
        fit(tmp_path / action, *callbacks, losses, law, bird(action, scores), module=module, **(LONG | arguments))
        curves[action], sizes[action] = losses.losses, law.sizes
        outputs[action] = module.eval()(torch.arange(12.0).view(2, 6) / 12)
    torch.testing.assert_close(curves["shrink"], curves["prune"], rtol=2e-5, atol=2e-6)
    torch.testing.assert_close(outputs["shrink"], outputs["prune"], rtol=1e-4, atol=1e-5)
    assert len(set(sizes["prune"])) == 1 and sizes["shrink"][-1] < sizes["shrink"][0]


def scaled():
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}


def test_a_scaler_and_a_fused_optimizer_go_on(tmp_path):
    law = Law()
    fit(tmp_path, NetworkSlimming(), law, bird(), module=Blocks("fused"), **LONG, **scaled())
    assert law.sizes[-1] < law.sizes[0]


def resumable(folder, *more, make=Blocks, **arguments):
    callback = bird()
    ema = [] if make is Convs else [EMAWeightAveraging(decay=0.9)]
    slimming = NetworkSlimming()
    trainer = fit(folder, slimming, *ema, callback, ExactResume(interval=1), *more, module=make(), **LONG, **arguments)
    files = {p.name: p.read_bytes() for p in (folder / "early_bird").iterdir()} | {
        "ticket": (folder / "ticket.safetensors").read_bytes()
    }
    return {**ending(trainer, callback), "files": files}


@pytest.mark.parametrize("make", [Blocks, Convs])
def test_killed_and_resumed_across_the_draw_equals_the_unbroken_run(make, tmp_path):
    keep = KeepEveryResume(tmp_path / "whole", tmp_path / "points")
    whole = resumable(tmp_path / "whole", keep, make=make)
    sizes = {}
    for step in (DRAWN - 1, DRAWN, DRAWN + 3):
        point = tmp_path / "points" / f"{step}.ckpt"
        checkpoint = torch.load(point, weights_only=True)
        sizes[step] = sum(value.numel() for value in checkpoint["state_dict"].values())
        assert ("lightning_lottery.units_left" in checkpoint) == (step >= DRAWN)
        shutil.copytree(tmp_path / "whole", tmp_path / str(step))  # a run goes on in its folder
        resumed = resumable(tmp_path / str(step), make=make, ckpt=point)
        assert not list(differences(whole, resumed)), step
        rows = list(csv.DictReader((tmp_path / str(step) / "shrunk.csv").read_text().splitlines()))
        assert [row["module"] for row in rows] == ["whole", "smaller"] and all(row["seconds_per_step"] for row in rows)
    assert sizes[DRAWN] == sizes[DRAWN + 3] < sizes[DRAWN - 1]


def test_averages_are_cut_alike_and_stay_those_of_the_smaller_module(tmp_path):
    class Looks(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            (average,) = averaged_copies(trainer.callbacks)
            shapes = [{n: p.shape for n, p in m.named_parameters()} for m in (average, pl_module)]
            assert shapes[0] == shapes[1]
            self.size = sum(p.numel() for p in average.parameters())

    class Mine(Callback):
        """A project's own average."""

        def on_fit_start(self, trainer, pl_module):
            self.average = torch.optim.swa_utils.AveragedModel(pl_module)

        def on_train_batch_end(self, trainer, pl_module, *_):
            self.average.update_parameters(pl_module)

    looks, module = Looks(), Blocks()
    before = sum(p.numel() for p in module.parameters())
    fit(tmp_path, NetworkSlimming(), Mine(), bird(), looks, module=module, **LONG)
    assert looks.size < before


def test_a_checkpoint_tests_a_new_module_and_one_from_before_the_draw_does_not_load_into_the_smaller_one(tmp_path):
    saver = ModelCheckpoint(tmp_path / "kept", "{step}", save_top_k=-1, every_n_train_steps=4)
    callbacks = [NetworkSlimming(), bird(), saver]
    module = Blocks()
    fitted = fit(tmp_path, *callbacks, module=module, enable_checkpointing=True, **LONG)
    points = {step: str(tmp_path / "kept" / f"step={step}.ckpt") for step in (4, 8, 12, 16, 20)}
    (last,) = fitted.test(module, Batches(seed=4), verbose=False)
    fresh = Blocks()
    assert fitted.test(fresh, Batches(seed=4), ckpt_path=points[20], verbose=False) == [last]
    assert sum(p.numel() for p in fresh.parameters()) == sum(p.numel() for p in module.parameters())
    assert len(fitted.test(Blocks(), Batches(seed=4), ckpt_path=points[8], verbose=False)) == 1
    with pytest.raises(LotteryError, match="by making a whole one smaller, and this module is not whole"):
        fit(tmp_path / "again", NetworkSlimming(), bird(), module=module, ckpt=points[12], **LONG)
    save_shrunk(fresh, tmp_path / "small")
    for kept in (tmp_path / "small", points[20]):
        assert same(load_shrunk(kept, Blocks()).state_dict(), fresh.state_dict())
    with pytest.raises(LotteryError, match=r"step=8.ckpt' has .* and this module .* Load it into a new Blocks"):
        fitted.test(module, Batches(seed=4), ckpt_path=points[8], verbose=False)


def test_a_second_fit_goes_on_with_the_smaller_module(tmp_path):
    module, callback = Blocks(), bird()
    fitted = fit(tmp_path, NetworkSlimming(), callback, module=module, **LONG)
    size, ticket = sum(p.numel() for p in module.parameters()), callback.ticket()
    fitted.fit_loop.max_epochs = 7
    fitted.fit(module, Batches(), Batches(batches=1))
    assert fitted.global_step == callback.clock.step == 28
    assert size == sum(p.numel() for p in module.parameters()) and same(
        dict(callback.ticket().units), dict(ticket.units)
    )


class Own(nn.Linear):
    """A layer of somebody's own: torch 2.6 does not compile one of its own classes by itself, asked or not."""

    def forward(self, inputs):
        return nn.functional.linear(inputs, self.weight, self.bias)


def test_compiled_blocks_are_compiled_anew(tmp_path):
    module, compiled = Blocks("sgd"), []
    module.body.layers[1].linear1.__class__ = Own

    def backend(graph, inputs):
        compiled.append([tuple(value.shape) for value in inputs if isinstance(value, torch.Tensor)])
        return graph

    module.body.layers[1].linear1.compile(backend=backend)
    law = Law()
    fit(tmp_path, NetworkSlimming(kinds=["neuron"]), law, bird(), module=module, **LONG)
    widths = [{shape[0] for shape in shapes if len(shape) == 1} for shapes in compiled]
    assert {16} in widths and module.body.layers[1].linear1.out_features < 16
    assert {module.body.layers[1].linear1.out_features} in widths


# Refusals


class Lists(Blocks):
    def configure_optimizers(self):
        self.mine = {"clipped": list(self.body.parameters())}
        return super().configure_optimizers()


class Hooked(Blocks):
    def configure_optimizers(self):
        self.body.layers[0].linear1.weight.register_hook(lambda grad: grad)
        return super().configure_optimizers()


class Teaches(Blocks):
    """Distils from a copy of itself."""

    def __init__(self):
        super().__init__("sgd")
        self.teacher = Blocks().body.requires_grad_(False)


class Averaging(Blocks):
    def __init__(self):
        super().__init__()
        self.average = torch.optim.swa_utils.AveragedModel(self.body)


class By(Blocks):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def configure_optimizers(self):
        return self.make(self.parameters())


class Wrapped(torch.optim.SGD):
    """Steps another optimizer."""

    def __init__(self, params):
        super().__init__(params, lr=0.1)
        self.inner = torch.optim.SGD(self.param_groups[0]["params"], lr=0.1)


class Odd(torch.optim.SGD):
    """Needs something at each step."""

    def step(self, closure):
        closure()
        super().step()


REFUSED = {
    "a list": (Lists, [], "'mine' of Lists keeps 'body.layers.0"),
    "a hook": (Hooked, [], "'body.layers.0.linear1.weight' has a hook on its gradient"),
    "an average of a part": (Averaging, [], "averages a part of itself"),
    "lbfgs": (lambda: By(lambda p: torch.optim.LBFGS(p)), [], "LBFGS keeps tensors of the old shapes in '_params'"),
    "adafactor": (lambda: By(lambda p: torch.optim.Adafactor(p)), [], "Adafactor keeps '.*' in another shape"),
    "a wrapper": (lambda: By(Wrapped), [], "Wrapped keeps tensors of the old shapes in 'inner'"),
    "a closure": (lambda: By(lambda p: Odd(p, lr=0.1)), [], "Odd does not step by itself"),
    "masks": (
        Blocks,
        [MagnitudePruning(Constant(0.5), scope=Scope(include=("*linear1*",)), name="other")],
        "MagnitudePruning.* masks 'body.layers.0.linear1.weight' of them",
    ),
    "another watch": (Blocks, [bird("record", "weights", name="other")], "EarlyBird 'other' watches them as well"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_who_would_go_on_with_what_is_no_more_is_refused_before_the_first_step(case, tmp_path):
    make, beside, reason = REFUSED[case]
    module = make()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(LotteryError, match=reason):
        fit(tmp_path, bird(scores="weights"), *beside, module=module, **LONG)
    assert same(dict(module.state_dict()), before)


def test_an_untrained_copy_that_keeps_its_units_is_warned_of(tmp_path):
    module = Teaches()
    with says("'teacher' is built as 'body' and is not trained, so it keeps its units"):
        fit(tmp_path, bird(scores="weights"), module=module, **LONG)
    sizes = {name: group.size for name, group in groups_of(module).items()}
    assert sizes["teacher.layers.0.self_attn"] == 4 > sizes["body.layers.0.self_attn"]


RANKS = """
import sys
from pathlib import Path

import torch
from helpers.blocks import Blocks
from helpers.projects import RankBatches, trainer
from lightning.pytorch import seed_everything
from lightning_lottery import EarlyBird, ExactResume, HammingFIFO, NetworkSlimming
from lightning_lottery.files import hash_of_tensors


def fit(folder, ckpt=None):
    seed_everything(1, verbose=False)
    callback = EarlyBird([HammingFIFO(2, 0.9, interval=5, min_steps=10)], [0.5], action="shrink")
    two = {"devices": 2, "strategy": "ddp", "max_epochs": 5, "use_distributed_sampler": False}
    saver, module = ExactResume(interval=13), Blocks()
    trainer(folder, NetworkSlimming(), callback, saver, **two).fit(
        module, RankBatches(), RankBatches(batches=1), ckpt_path=ckpt
    )
    return module


if __name__ == "__main__":
    torch.set_num_threads(1)
    module = fit(Path(sys.argv[1]))
    assert module.body.layers[0].self_attn.num_heads < 4
    everyone = [None, None]
    torch.distributed.all_gather_object(everyone, hash_of_tensors(module.state_dict()))
    assert everyone[0] == everyone[1]  # gradients of different batches were reduced
    sys.stdout.write("ok\\n")
"""


def test_two_ranks_reduce_the_gradients_of_the_smaller_module(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(RANKS)
    done = run(sys.executable, str(script), str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("ok\n") == 2


def test_strategies_that_keep_tensors_of_the_whole_module_are_told():
    why = [
        why_not_wrapped_anew(SimpleNamespace(strategy=strategy))
        for strategy in (
            SingleDeviceStrategy(),
            DDPStrategy(),
            DDPStrategy(ddp_comm_state=object()),
            ModelParallelStrategy(),
        )
    ]
    assert why[:2] == [None, None] and "communication hook" in why[2] and "nobody knows" in why[3]
