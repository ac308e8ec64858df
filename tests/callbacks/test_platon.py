"""PLATON's averages and masks, by whatever way they are computed; the laws of every callback: `test_contract.py`."""

import warnings

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from helpers import oracles
from helpers.callbacks import CALLBACKS
from helpers.projects import Odd, fit, says
from helpers.states import checkpoint, removed_are_zero, same
from lightning_lottery import PLATON, LotteryError
from lightning_lottery.callbacks import platon as module
from lightning_lottery.functional import keep_top


class Poisons(Callback):
    """Makes one entry of one gradient what it should not be, at some steps."""

    def __init__(self, value: float, *at: int) -> None:
        self.value, self.at = value, at

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.broken = trainer.global_step + 1 in self.at
        if self.broken:
            self.before = [p.detach().clone() for p in pl_module.parameters()]
            pl_module.my_mask[2].weight.grad[0, 0] = self.value

    def on_train_batch_end(self, trainer, pl_module, *_):
        if self.broken:  # the project's own guard
            with torch.no_grad():
                for param, value in zip(pl_module.parameters(), self.before, strict=True):
                    param.copy_(value)
            trainer.optimizers[0].state.clear()


class Replays(Callback):
    """Does what the paper says, parameter by parameter and out of place, beside the callback."""

    lottery_order = 0.5

    def __init__(self, platon: PLATON, *unobserved: int) -> None:
        self.platon, self.unobserved, self.step = platon, unobserved, 0
        self.thetas, self.grads, self.averages, self.scores = {}, {}, {}, {}

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.step += 1
        for name, param in self.platon.parameters.items():
            theta = param.detach().clone()
            grad = torch.zeros_like(theta) if self.step in self.unobserved else param.grad.clone()
            self.thetas.setdefault(name, []).append(theta.double())
            self.grads.setdefault(name, []).append(grad.double())
            window, sensitivity, uncertainty = self.averages.get(name, [torch.zeros_like(theta)] * 3)
            if self.step % self.platon.interval == 0:
                mean = window / self.platon.interval
                sensitivity = torch.lerp(sensitivity, mean, 1 - self.platon.beta1)
                uncertainty = torch.lerp(uncertainty, (mean - sensitivity).abs(), 1 - self.platon.beta2)
                window = torch.zeros_like(theta)
            self.averages[name] = (window + (theta * grad).abs(), sensitivity, uncertainty)
        self.scores[self.step] = {name: unc * sens for name, (_, sens, unc) in self.averages.items()}


def same_averages(platon: PLATON, replayed: Replays) -> bool:
    """Whether the averages are the formulas' bit for bit, and the authors' code's (in double precision) to rounding."""
    saved = platon.state_dict()["averages"]
    for name, replay in replayed.averages.items():
        history = oracles.platon(
            replayed.thetas[name], replayed.grads[name], platon.interval, platon.beta1, platon.beta2
        )
        for field, expected in zip(("sensitivity", "uncertainty"), history[-1], strict=True):
            torch.testing.assert_close(saved[field][name].double(), expected, rtol=1e-4, atol=1e-30)
        if not same([saved[field][name] for field in ("window", "sensitivity", "uncertainty")], list(replay)):
            return False
    return bool(replayed.averages)


@pytest.fixture(params=["looked at", "left on its device"])
def device(request, monkeypatch):
    """Flags that are looked at at once, and flags that nobody waits for, as on a GPU."""
    if request.param == "left on its device":
        monkeypatch.setattr(module, "_on_host", lambda tensor: False)


@pytest.mark.parametrize("interval", [1, 2, 5])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_averages_and_masks_are_those_of_the_formulas_bit_for_bit_and_broken_steps_count_as_nothing(
    interval, value, device, tmp_path
):
    platon = PLATON(0.7, interval=interval, begin=1, end=10)
    replays = Replays(platon, 3, 5)
    with says("PLATON does not observe step 3: its gradients are not finite", times=1):
        fit(tmp_path, Poisons(value, 3, 5), replays, platon)
    assert same_averages(platon, replays)
    last = {1: 12, 2: 12, 5: 10}[interval]  # the step that made the last mask
    scores = {name: score.flatten().tolist() for name, score in replays.scores[last].items()}
    masks = {name: mask.flatten().tolist() for name, mask in platon.masks.items()}
    assert masks == oracles.keep_top(scores, 0.7)


@pytest.mark.parametrize("interval", [1, 4])
def test_large_gradients_whose_norm_overflows_are_observed(interval, device, tmp_path):
    class Large(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            pl_module.tied_a.weight.grad.fill_(1e30)

    platon = PLATON(0.5, interval=interval, begin=1, end=8)
    replays = Replays(platon)
    fit(tmp_path, Large(), replays, platon)
    assert same_averages(platon, replays)
    assert platon.state_dict()["averages"]["sensitivity"]["tied_a.weight"].max() > 1e20


def test_scores_at_a_windows_end_stand_in_the_windows_memory_and_the_next_window_opens_all_the_same(tmp_path):
    in_windows = []

    class Spies(PLATON):
        def scores(self, params, step):
            scores = super().scores(params, step)
            in_windows.append(all(s.data_ptr() == self._averages[n].window.data_ptr() for n, s in scores.items()))
            return scores

    platon = Spies(0.7, interval=4, begin=1, end=10)  # masks after steps 4, 8, 10 (within a window) and 12
    replays = Replays(platon)
    fit(tmp_path, replays, platon)
    assert in_windows == [True, True, False, True]
    assert same_averages(platon, replays)


def test_averages_in_bfloat16_take_half_the_memory_differ_by_rounding_and_resume(device, tmp_path):
    half = PLATON(0.7, interval=2, begin=1, end=9, averages_dtype="bfloat16")
    replays = Replays(half)
    trainer = fit(tmp_path / "half", replays, half)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    param = torch.nn.Parameter(torch.ones(1))
    assert (half.bytes_per_weight(param), PLATON(0.7).bytes_per_weight(param)) == (7, 13)
    saved = half.state_dict()["averages"]["sensitivity"]
    assert {value.dtype for value in saved.values()} == {torch.bfloat16}
    for name, value in saved.items():
        torch.testing.assert_close(value.float(), replays.averages[name][1], rtol=0.05, atol=1e-8)
    assert sum(int(mask.sum()) for mask in half.masks.values()) == round(0.3 * 360)
    again = PLATON(0.7, interval=2, begin=1, end=9, averages_dtype="bfloat16")
    fit(tmp_path / "again", again, ckpt=tmp_path / "half.ckpt", max_epochs=4)
    with pytest.raises(LotteryError, match="averages_dtype"):
        PLATON(0.7, averages_dtype="float16")


def test_gradients_whose_norm_overflows_are_observed_all_the_same(tmp_path):
    class Loud(Odd):
        def loss(self, batch):
            return super().loss(batch) * 1e22

    callback = CALLBACKS["PLATON"]()
    fit(tmp_path, callback, module=Loud(optimizer="adamw"))
    assert callback.sparsity == pytest.approx(0.7, abs=2e-3)


def test_a_batch_without_a_loss_at_a_windows_end_does_not_stretch_the_window(tmp_path):
    class Skips(Odd):
        def training_step(self, batch, batch_idx):
            return None if self.trainer.global_step == 7 else super().training_step(batch, batch_idx)

    folded = []

    class Watch(Callback):
        lottery_order = 3

        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 8:
                folded.extend(callback.state_dict()["averages"]["window"].values())

    callback = PLATON(0.5, interval=4, begin=2, end=12)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*returned `None`")
        fit(tmp_path, callback, Watch(), module=Skips())
    assert folded and not any(window.any() for window in folded)


def test_without_saved_state_a_resume_keeps_the_masks_restarts_the_averages_and_warns(tmp_path):
    arguments = {"interval": 2, "begin": 1, "end": 9, "save_state": False}
    path = checkpoint(tmp_path, PLATON(0.7, **arguments))
    saved = torch.load(path, weights_only=True)["callbacks"]["lightning_lottery.pruning"]
    assert "averages" not in saved
    callback, module = PLATON(0.7, **arguments), Odd()
    with says("PLATON resumes at step 6 with its masks, but without its averages"):
        fit(tmp_path, callback, module=module, ckpt=path)
    assert callback.sparsity == pytest.approx(0.7, abs=2e-3)
    assert removed_are_zero(module.state_dict(), callback.masks)


def test_an_update_that_could_not_be_made_at_the_end_is_made_as_soon_as_it_can(tmp_path):
    arguments = {"sparsity": 0.7, "interval": 4, "begin": 1, "end": 7, "save_state": False}
    path = checkpoint(
        tmp_path, PLATON(**arguments)
    )  # after step 6: the averages begin anew, and step 7 comes too early
    callback = PLATON(**arguments)
    with says("without its averages"):
        fit(tmp_path, callback, ckpt=path)
    assert callback.sparsity == pytest.approx(0.7, abs=2e-3)


def test_a_decay_of_one_ranks_by_sensitivity_alone_also_when_resumed(tmp_path):
    settings = {"beta2": 1.0, "interval": 2, "begin": 1, "end": 9}
    platon = PLATON(0.7, **settings)
    fit(tmp_path, platon, module=Odd())
    averages = platon.state_dict()["averages"]
    assert all(bool((uncertainty == 1).all()) for uncertainty in averages["uncertainty"].values())
    assert same(platon.masks, keep_top(averages["sensitivity"], 0.7))
    path = checkpoint(tmp_path / "half", PLATON(0.7, **settings))
    again = PLATON(0.7, **settings)
    fit(tmp_path / "again", again, module=Odd(), ckpt=path, max_epochs=4)
    assert all(bool((u == 1).all()) for u in again.state_dict()["averages"]["uncertainty"].values())
    with pytest.raises(LotteryError, match=r"`beta2`.*\[0, 1\]"):
        PLATON(0.7, beta2=1.1)
