"""One table of callbacks and one set of laws: a later callback joins the table."""

import warnings

import pytest
import torch
from lightning.pytorch.callbacks import (
    Callback,
    ModelCheckpoint,
)
from lightning.pytorch.plugins.precision import Precision

from helpers.blocks import Blocks
from helpers.callbacks import (
    AVERAGING,
    CALLBACKS,
    EVERY,
    EVERY_FROZEN,
    FROZEN,
    IN_SCOPE,
    PRECISIONS,
    STEPS,
    WITH_STATE_PER_WEIGHT,
    each,
    prunes_as_asked,
    scaler,
    ticket,
)
from helpers.projects import Odd, fit, plain_loader, says
from helpers.states import KeepEveryResume, ending, removed_are_zero, same
from helpers.works_with import claimed, everything_is_collected, rows, shown_by
from lightning_lottery import (
    PLATON,
    EarlyBird,
    ExactResume,
    LotteryError,
    MaskFreezing,
    NetworkSlimming,
    Ticket,
)
from lightning_lottery.callbacks import MaskCallback
from lightning_lottery.functional import count


@pytest.mark.shows(row="resume after any step, bit for bit", cell="yes")
@EVERY
@pytest.mark.parametrize("val_check_interval", [1.0, 3], ids=["validation at epoch ends", "validation every 3 batches"])
def test_resumed_after_any_step_equals_the_unbroken_run(make, val_check_interval, tmp_path):
    validating = {"val_check_interval": val_check_interval}
    if val_check_interval != 1.0:
        validating |= {"check_val_every_n_epoch": None}
    whole = make()
    keep = KeepEveryResume(tmp_path / "whole", tmp_path / "points")
    unbroken = ending(fit(tmp_path / "whole", whole, ExactResume(interval=1), keep, **validating), whole)
    points = sorted((tmp_path / "points").iterdir(), key=lambda path: int(path.stem))
    assert [int(path.stem) for path in points] == list(range(1, STEPS + 1))
    for point in points:
        again = make()
        resumed = fit(
            tmp_path / point.stem, again, ExactResume(interval=100), seed=1, module=Odd(), ckpt=point, **validating
        )
        assert same(ending(resumed, again), unbroken), f"resumed after step {point.stem}"


@EVERY
def test_own_state_survives_a_plain_loader_and_another_seed(make, tmp_path):
    whole = make()
    keep = KeepEveryResume(tmp_path / "whole", tmp_path / "points")
    fit(tmp_path / "whole", whole, ExactResume(interval=1), keep, train=plain_loader())
    for point in (tmp_path / "points").iterdir():
        saved = torch.load(point, weights_only=True)["callbacks"][whole.state_key]
        seen = {}

        class Look(Callback):
            def on_train_start(self, trainer, pl_module, seen=seen):
                seen.update(next(c for c in trainer.callbacks if isinstance(c, MaskCallback)).state_dict())
                trainer.should_stop = True

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* was to reach sparsity")
            fit(tmp_path / "again", make(), Look(), train=plain_loader(), seed=7, ckpt=point, max_epochs=4)
        assert same(seen, saved), f"resumed after step {point.stem}"


def test_a_plain_loader_is_named_once_at_a_resume(tmp_path):
    keep = KeepEveryResume(tmp_path / "whole", tmp_path / "points")
    fit(tmp_path / "whole", ExactResume(interval=2), keep, train=plain_loader())
    with says("DataLoader.* cannot go on in the middle of an epoch", times=1):
        fit(tmp_path / "again", ExactResume(interval=2), train=plain_loader(), ckpt=tmp_path / "points" / "6.ckpt")


@EVERY
def test_checkpoint_keys_are_the_plain_modules_and_load_without_pickle(make, tmp_path):
    trainer = fit(tmp_path, make())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert checkpoint["state_dict"].keys() == Odd().state_dict().keys()
    Odd().load_state_dict(checkpoint["state_dict"], strict=True)


@EVERY
def test_the_asked_sparsity_is_exact_at_the_end_and_tied_weights_agree(make, tmp_path):
    callback = make()
    module = Odd()
    fit(tmp_path, callback, module=module)
    assert prunes_as_asked(callback)
    assert callback.masks.keys() == set(IN_SCOPE)
    assert removed_are_zero(module.state_dict(), callback.masks)
    assert module.tied_a.weight is module.tied_b.weight
    assert set(callback.ticket().masks) == {*IN_SCOPE, "tied_b.weight"}
    assert Ticket.load(tmp_path / "ticket.safetensors").hamming(callback.ticket()) == 0


class ScopeIsZero(Callback):
    """Looks at removed weights wherever somebody could see them, and counts the looks."""

    lottery_order = 0

    def __init__(self, callback: MaskCallback) -> None:
        self.callback, self.looks = callback, 0

    def _look(self, trainer, pl_module, *_):
        self.looks += 1
        assert removed_are_zero(pl_module.state_dict(), self.callback.masks)

    on_validation_start = on_validation_epoch_end = on_train_batch_start = on_train_batch_end = on_fit_end = _look


@EVERY_FROZEN
@rows("optimizer", WITH_STATE_PER_WEIGHT)
def test_frozen_weights_are_zero_in_every_step_with_every_optimizer(make, optimizer, tmp_path):
    callback = make()
    look = ScopeIsZero(callback)
    module = Odd(optimizer=optimizer)
    trainer = fit(tmp_path, look, callback, module=module)
    assert look.looks > 2 * STEPS
    assert prunes_as_asked(callback)
    states = trainer.optimizers[0].state
    params = dict(module.named_parameters())
    for name, mask in callback.masks.items():
        for key, value in states[params[name]].items():
            assert key == "step" or value is None or not value[~mask].any()


class Onlooker(Callback):
    """Acts after the callback, so that gradients of removed weights must be zero when it looks at them."""

    lottery_order = 2

    def __init__(self, callback: MaskCallback) -> None:
        self.callback = callback

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        for name, mask in self.callback.masks.items():
            assert not self.callback.parameters[name].grad[~mask].any()


@EVERY_FROZEN
@rows("optimizer", WITH_STATE_PER_WEIGHT)
def test_whether_gradients_are_masked_changes_no_weight_and_no_state_at_the_end(make, optimizer, tmp_path):
    ends = []
    for looks in (False, True):
        torch.manual_seed(0)
        callback = make()
        others = [Onlooker(callback)] if looks else []
        ends.append(ending(fit(tmp_path, callback, *others, module=Odd(optimizer=optimizer)), callback))
    assert same(*ends)


class AtTheLastStepButOne(Callback):
    """What is left of removed weights in gradients, in optimizer state, and in a checkpoint written then."""

    lottery_order = 3

    def __init__(self, callback: MaskCallback) -> None:
        self.callback = callback

    def on_train_batch_end(self, trainer, pl_module, *_):
        if trainer.global_step == STEPS - 1:
            removed = {self.callback.parameters[name]: ~mask for name, mask in self.callback.masks.items()}
            (optimizer,) = trainer.optimizers
            self.gradients = any(param.grad[where].any() for param, where in removed.items())
            self.state = any(optimizer.state[param]["exp_avg"][where].any() for param, where in removed.items())
            trainer.save_checkpoint("a.ckpt")
            saved = torch.load("a.ckpt", weights_only=True)["optimizer_states"][0]["state"]
            numbers = {param: number for number, param in enumerate(optimizer.param_groups[0]["params"])}
            self.saved = any(saved[numbers[param]]["exp_avg"][where].any() for param, where in removed.items())


class OwnClipping(Odd):
    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        torch.nn.utils.clip_grad_norm_(self.parameters(), 0.1)


class OwnLook(Odd):
    def on_before_optimizer_step(self, optimizer):
        self.seen = optimizer


def trainable(module):
    return [param for param in module.parameters() if param.requires_grad]


class OwnOptimizer(Odd):
    def configure_optimizers(self):
        return type("Own", (torch.optim.AdamW,), {})(trainable(self), lr=1e-2)


class OwnPrecision(Precision):
    """May do with gradients what it likes."""


class LooksToo(MaskFreezing):
    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        super().on_before_optimizer_step(trainer, pl_module, optimizer)
        torch.nn.utils.clip_grad_norm_(pl_module.parameters(), 0.1)


FREEZING, MAGNITUDE = CALLBACKS["MaskFreezing"], CALLBACKS["MagnitudePruning"]


@pytest.mark.parametrize(
    ("make", "module", "given", "masked"),
    [
        (FREEZING, Odd, lambda: {}, False),
        (MAGNITUDE, Odd, lambda: {}, False),
        (FREEZING, Odd, lambda: {"gradient_clip_val": 1.0}, True),
        (MAGNITUDE, Odd, lambda: {"gradient_clip_val": 1.0}, True),
        (FREEZING, OwnClipping, lambda: {}, True),
        (FREEZING, OwnLook, lambda: {}, True),
        (FREEZING, OwnOptimizer, lambda: {}, True),
        (FREEZING, lambda: Odd(manual=True), lambda: {}, True),
        (FREEZING, Odd, lambda: {"plugins": [OwnPrecision()]}, True),
        (FREEZING, Odd, lambda: {"plugins": [scaler(1024.0)]}, True),
        (lambda: LooksToo(ticket()), Odd, lambda: {}, True),
    ],
    ids=[
        *("nobody looks", "nobody looks, magnitude", "clipped", "clipped, magnitude", "own clipping", "own hook"),
        *("own optimizer", "manual", "own precision", "scaler", "a method that does more"),
    ],
)
def test_gradients_are_masked_where_kept_weights_depend_on_them_and_no_checkpoint_remembers_others(
    make, module, given, masked, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    callback = make()
    look = AtTheLastStepButOne(callback)
    fit(tmp_path, callback, look, module=module(), **given())
    assert (look.gradients, look.state) == (not masked, not masked)
    assert not look.saved


class Within(Callback):
    """Hands every hook on to another callback, which the Trainer does not know."""

    def __init__(self, callback: MaskCallback) -> None:
        self.callback = callback


for _hook in (
    *("setup", "on_fit_start", "on_train_start", "on_before_optimizer_step", "on_train_batch_end"),
    *("on_validation_start", "on_train_end", "on_fit_end", "on_save_checkpoint", "teardown"),
):
    setattr(Within, _hook, lambda self, *given, hook=_hook, **named: getattr(self.callback, hook)(*given, **named))


def test_a_callback_within_another_freezes_as_one_by_itself(tmp_path):
    ends = []
    for wrap in (lambda callback: callback, Within):
        torch.manual_seed(0)
        callback = FREEZING()
        ends.append(ending(fit(tmp_path, wrap(callback), module=Odd()), callback))
    assert same(*ends)


def test_gradients_are_masked_from_the_step_on_in_which_clipping_begins(tmp_path):
    class Later(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                trainer.gradient_clip_val = 0.05

    ends = []
    for looks in (False, True):
        torch.manual_seed(0)
        callback = FREEZING()
        others = [Onlooker(callback)] if looks else []
        ends.append(ending(fit(tmp_path, Later(), callback, *others, module=Odd()), callback))
    assert same(*ends)


def test_an_infinite_gradient_of_removed_weights_skips_no_step_of_a_fused_optimizer_under_a_scaler(tmp_path):
    class SteepAtZero(Odd):
        def loss(self, batch):
            return super().loss(batch) + 1e-3 * self.tied_a.weight.abs().sqrt().sum()

    callback = FREEZING()
    trainer = fit(tmp_path, callback, module=SteepAtZero("fused"), plugins=[scaler(1024.0)])
    assert callback.step == STEPS and trainer.precision_plugin.scaler.get_scale() == 1024.0


class Preconditioned(torch.optim.SGD):
    """Keeps a matrix for each weight that has the weight's shape, but not its meaning."""

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure()
        for param in self.param_groups[0]["params"]:
            if param.ndim == 2 and param.shape[0] == param.shape[1]:
                matrix = self.state[param].setdefault("matrix", torch.eye(len(param)))
                matrix.lerp_(param.grad @ param.grad.mT + torch.eye(len(param)), 0.1)
                param.grad.copy_(torch.linalg.solve(matrix, param.grad))
        super().step()
        return loss


def test_saving_changes_nothing_for_an_optimizer_that_mixes_entries(tmp_path):
    class WithPreconditioner(Odd):
        def configure_optimizers(self):
            return Preconditioned(trainable(self), lr=1e-2)

    class Saves(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            trainer.save_checkpoint(tmp_path / "a.ckpt")

    ends = []
    for others in ([], [Saves()]):
        torch.manual_seed(0)
        trainer = fit(tmp_path, FREEZING(), *others, module=WithPreconditioner())
        ends.append(trainer.lightning_module.state_dict())
    assert same(*ends)


@pytest.mark.shows(cell="yes")
@EVERY
@rows("optimizer", WITH_STATE_PER_WEIGHT)
def test_twelve_steps_prune_exactly_with_every_optimizer(make, optimizer, tmp_path):
    callback, module = make(), Odd(optimizer=optimizer)
    fit(tmp_path, callback, module=module)
    assert prunes_as_asked(callback)
    assert removed_are_zero(module.state_dict(), callback.masks)


@pytest.mark.shows(row="LBFGS", cell="refused")
@EVERY_FROZEN
def test_lbfgs_is_refused_where_weights_are_frozen(make, tmp_path):
    with pytest.raises(LotteryError, match="LBFGS"):
        fit(tmp_path, make(), module=Odd(optimizer="lbfgs"))


@pytest.mark.shows(row="LBFGS", cell="yes")
@each({name: make for name, make in CALLBACKS.items() if name not in FROZEN})
def test_lbfgs_prunes_exactly_where_weights_are_not_frozen(make, tmp_path):
    callback, module = make(), Odd(optimizer="lbfgs")
    fit(tmp_path, callback, module=module)
    assert prunes_as_asked(callback)
    assert removed_are_zero(module.state_dict(), callback.masks)


def test_lbfgs_trains_what_early_bird_only_watches(tmp_path):
    bird = EarlyBird([], [0.5], at=[1.0], scores="weights")
    module = Blocks()
    module.configure_optimizers = lambda: torch.optim.LBFGS(module.parameters(), lr=1e-2)
    fit(tmp_path, bird, module=module)
    assert bird.tickets


@pytest.mark.shows(cell="yes")
@EVERY_FROZEN
@rows("averaging", AVERAGING, "{}, before or after in the list")
@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_averages_and_their_checkpoints_are_zero_where_frozen(make, averaging, first, tmp_path):
    callback, averager = make(), averaging()
    pair = [callback, averager] if first else [averager, callback]
    saving = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}", save_last=True)
    module = Odd()
    trainer = fit(tmp_path, *pair, saving, module=module, enable_checkpointing=True)
    assert prunes_as_asked(callback)
    assert removed_are_zero(module.state_dict(), callback.masks)
    files = sorted(tmp_path.glob("*.ckpt"))
    assert len(files) >= STEPS + 1  # SWA adds one for its batch-norm epoch
    for file in files:
        checkpoint = torch.load(file, weights_only=False)  # torch 2.6's scheduler of SWA saves a function
        masks = checkpoint["callbacks"][callback.state_key]["masks"]
        for key in ("state_dict", "current_model_state"):
            if key in checkpoint:
                assert removed_are_zero(checkpoint[key], masks), (file.name, key)
    assert trainer.global_step >= STEPS


@pytest.mark.shows(column="PLATON", cell="yes")
@rows("averaging", AVERAGING, "{}, before or after in the list")
@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_platons_final_model_is_zero_where_removed_under_averaging(averaging, first, tmp_path):
    callback, averager, module = CALLBACKS["PLATON"](), averaging(), Odd()
    trainer = fit(tmp_path, *([callback, averager] if first else [averager, callback]), module=module)
    assert prunes_as_asked(callback)
    assert removed_are_zero(module.state_dict(), callback.masks)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    saved = torch.load(tmp_path / "end.ckpt", weights_only=False)  # as above
    assert removed_are_zero(saved["state_dict"], callback.masks)


@EVERY_FROZEN
def test_a_checkpoint_written_on_an_exception_right_after_the_step_is_zero_where_frozen(make, tmp_path):
    class Breaks(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            if trainer.global_step == 10:
                raise RuntimeError("night")

    callback = make()
    saving = ModelCheckpoint(dirpath=tmp_path, save_on_exception=True)
    with pytest.raises(RuntimeError, match="night"):
        fit(tmp_path, Breaks(), callback, saving, enable_checkpointing=True)
    checkpoints = [torch.load(file, weights_only=True) for file in tmp_path.glob("*.ckpt")]
    (checkpoint,) = (one for one in checkpoints if one["global_step"] == 10)
    masks = checkpoint["callbacks"][callback.state_key]["masks"]
    assert count(masks)[0] < count(masks)[1]
    assert removed_are_zero(checkpoint["state_dict"], masks)


@pytest.mark.shows(cell="yes")
@EVERY
@rows("how", PRECISIONS)
def test_twelve_steps_prune_exactly_whatever_the_precision_and_the_loop(make, how, tmp_path):
    callback, module = make(), Odd()
    trainer = fit(tmp_path, callback, module=module, **how())
    assert callback.step == trainer.global_step == STEPS
    assert prunes_as_asked(callback)
    assert removed_are_zero(module.state_dict(), callback.masks)


@EVERY
@pytest.mark.parametrize("optimizer", ["adamw", "fused"])
def test_a_step_that_the_scaler_skips_does_not_count(make, optimizer, tmp_path):
    class Overflows(Callback):
        def on_before_backward(self, trainer, pl_module, loss):
            if trainer.global_step == 4:
                loss.data.fill_(1.0)
                pl_module.head.weight.register_hook(lambda grad: grad * torch.inf if trainer.global_step == 4 else grad)

    callback, module = make(), Odd(optimizer=optimizer)
    trainer = fit(tmp_path, Overflows(), callback, module=module, plugins=[scaler(1024.0)])
    assert trainer.global_step == STEPS
    assert callback.step == STEPS - 1
    assert all(torch.isfinite(value).all() for value in module.state_dict().values())
    assert removed_are_zero(module.state_dict(), callback.masks)


def test_non_finite_gradients_are_not_observed(tmp_path):
    class Poison(Callback):
        """A project's own guard: a step with NaN gradients is left out of the weights."""

        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            self.broken = trainer.global_step == 5
            if self.broken:
                self.before = [p.detach().clone() for p in pl_module.parameters()]
                pl_module.tied_a.weight.grad[0, 0] = torch.nan

        def on_train_batch_end(self, trainer, pl_module, *_):
            if self.broken:
                with torch.no_grad():
                    for param, value in zip(pl_module.parameters(), self.before, strict=True):
                        param.copy_(value)
                trainer.optimizers[0].state.clear()

    callback = CALLBACKS["PLATON"]()
    with says("PLATON does not observe step 6: its gradients are not finite", times=1):
        fit(tmp_path, Poison(), callback)
    averages = callback.state_dict()["averages"]
    assert all(torch.isfinite(t).all() for kinds in averages.values() for t in kinds.values())


def test_platon_observes_fused_gradients_under_a_scaler_as_any_others(tmp_path):
    seen = {}
    for optimizer in ("adamw", "fused"):
        callback = PLATON(0.7, interval=1, begin=1, end=2)
        torch.manual_seed(0)
        fit(tmp_path / optimizer, callback, module=Odd(optimizer=optimizer), plugins=[scaler(1024.0)], max_steps=3)
        seen[optimizer] = callback.state_dict()["averages"]["sensitivity"]["tied_a.weight"]
    torch.testing.assert_close(seen["adamw"], seen["fused"], rtol=1e-3, atol=1e-9)


@pytest.mark.torture
@EVERY
@rows("optimizer", WITH_STATE_PER_WEIGHT)
@pytest.mark.parametrize("how", PRECISIONS.values(), ids=PRECISIONS)
@pytest.mark.parametrize("averaging", [None, *AVERAGING.values()], ids=["no averaging", *AVERAGING])
def test_the_full_product_prunes_exactly_and_ends_with_zeros(make, optimizer, how, averaging, tmp_path):
    product = how()
    alone = ("max_steps", "plugins", "gradient_clip_algorithm")  # SWA's last epoch takes no gradients: fails without us
    if averaging is AVERAGING["StochasticWeightAveraging"] and any(name in product for name in alone):
        pytest.skip("Lightning's own SWA refuses or fails here: max_steps, a gradient scaler, clipping by value")
    callback, module = make(), Odd(optimizer=optimizer)
    others = [] if averaging is None else [averaging()]
    fit(tmp_path, callback, *others, module=module, **product)
    assert prunes_as_asked(callback)
    assert removed_are_zero(module.state_dict(), callback.masks)


BESIDE = {name: make for name, make in CALLBACKS.items() if name.startswith(("PLATON", "MagnitudePruning"))}


@pytest.mark.parametrize("make", BESIDE.values(), ids=BESIDE)
@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_slimming_coefficients_are_in_no_mask_and_folding_them_revives_nothing(make, first, tmp_path):
    callback, slimming, module = make(), NetworkSlimming(l1=0.01), Blocks()
    fit(tmp_path, *([slimming, callback] if first else [callback, slimming]), module=module)
    assert module.state_dict().keys() == Blocks().state_dict().keys()
    assert not any("slimming" in name for name in callback.masks)
    assert prunes_as_asked(callback)
    assert removed_are_zero(module.state_dict(), callback.masks)


# README's table


def test_readme_claims_what_tests_show_and_nothing_else(request):
    shown, claims = shown_by(request.session.items), claimed()
    if not everything_is_collected(request.config):
        claims = {cell: text for cell, text in claims.items() if cell in shown}
    unshown = {cell: text for cell, text in claims.items() if shown.get(cell) != text}
    unsaid = {cell: text for cell, text in shown.items() if claims.get(cell) != text}
    assert not unshown and not unsaid, f"README says what no test shows: {unshown}; tests show: {unsaid}"
