"""PLATON's averages and masks, by whatever way they are computed; the laws of every callback: `test_contract.py`."""

import pytest
import torch
from lightning.pytorch import Callback

from helpers.projects import fit, says
from lightning_lottery import PLATON, LotteryError
from lightning_lottery.callbacks import platon as module
from lightning_lottery.functional import averages_like, hamming, keep_top, observe_, score


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

    lottery_place = 0.5

    def __init__(self, platon: PLATON, *unobserved: int) -> None:
        self.platon, self.unobserved, self.step = platon, unobserved, 0
        self.averages, self.scores = {}, {}

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.step += 1
        for name, param in self.platon.parameters.items():
            own = self.averages.setdefault(name, averages_like(param))
            grad = None if self.step in self.unobserved else param.grad
            given = {"interval": self.platon.interval, "beta1": self.platon.beta1, "beta2": self.platon.beta2}
            observe_(own, param, grad, step=self.step, **given)
            self.scores[name] = score(own)


def same_averages(platon: PLATON, replayed: Replays) -> bool:
    saved = platon.state_dict()["averages"]
    return all(
        torch.equal(saved[field][name], getattr(of, field))
        for name, of in replayed.averages.items()
        for field in of._fields
    )


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
    last = keep_top(replays.scores, 0.7)  # of step 12, which makes a mask for intervals 1 and 2
    assert hamming(platon.masks, last) == 0 or interval == 5


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
    places = []

    class Spies(PLATON):
        def scores(self, params, step):
            scores = super().scores(params, step)
            places.append(all(s.data_ptr() == self._averages[n].window.data_ptr() for n, s in scores.items()))
            return scores

    platon = Spies(0.7, interval=4, begin=1, end=10)  # masks after steps 4, 8, 10 (within a window) and 12
    replays = Replays(platon)
    fit(tmp_path, replays, platon)
    assert places == [True, True, False, True]
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
        torch.testing.assert_close(value.float(), replays.averages[name].sensitivity, rtol=0.05, atol=1e-8)
    assert sum(int(mask.sum()) for mask in half.masks.values()) == round(0.3 * 360)
    again = PLATON(0.7, interval=2, begin=1, end=9, averages_dtype="bfloat16")
    fit(tmp_path / "again", again, ckpt=tmp_path / "half.ckpt", max_epochs=4)
    with pytest.raises(LotteryError, match="averages_dtype"):
        PLATON(0.7, averages_dtype="float16")
