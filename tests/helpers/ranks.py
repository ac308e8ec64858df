"""What `test_ranks.py` starts as a script, as a user would: two gloo processes, several Trainers one after another.

Prints `ok` from each rank once everything has held.
"""

import sys
from pathlib import Path

import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint

from helpers.callbacks import CALLBACKS, STEPS, prunes_as_asked
from helpers.projects import Odd, RankBatches, trainer
from helpers.states import KeepEveryResume, ending, removed_are_zero, same
from lightning_lottery import ExactResume, LotteryError, MaskFreezing, Ticket
from lightning_lottery.callbacks import MaskCallback
from lightning_lottery.files import hash_of_tensors

torch.set_num_threads(1)
FOLDER = Path(sys.argv[1])


class LogsMeans(Odd):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("mean_loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        return loss


def fit(folder: Path, *callbacks, ckpt=None, **given):
    seed_everything(1, verbose=False)
    arguments = {"devices": 2, "strategy": "ddp", "max_epochs": 3, "use_distributed_sampler": False}
    fitted = trainer(folder, *callbacks, **(arguments | given))
    fitted.fit(LogsMeans(), RankBatches(), RankBatches(batches=1, seed=9), ckpt_path=ckpt)
    return fitted


def equal_on_ranks(value: str) -> bool:
    everyone = [None, None]
    torch.distributed.all_gather_object(everyone, value)
    return everyone[0] == everyone[1]


def laws(name: str, folder: Path) -> None:
    whole = CALLBACKS[name]()
    keep = KeepEveryResume(folder, folder / "points")
    first = fit(folder, whole, ExactResume(interval=1), keep)
    assert first.world_size == 2 and whole.step == STEPS
    assert equal_on_ranks(hash_of_tensors(whole.masks)), "masks differ between ranks"
    assert equal_on_ranks(hash_of_tensors(dict(first.lightning_module.named_parameters()))), "weights differ"
    assert prunes_as_asked(whole)
    assert removed_are_zero(first.lightning_module.state_dict(), whole.masks)
    unbroken, means = ending(first, whole), dict(first.logged_metrics)
    for step in (3, 4, 7, 10):
        again = CALLBACKS[name]()
        resumed = fit(folder / f"from-{step}", again, ExactResume(), ckpt=folder / "points" / f"{step}.ckpt")
        assert same(ending(resumed, again), unbroken), f"{name} resumed after step {step}"
        # From the last epoch on; both ranks' batches are in a mean.
        assert step < 9 or resumed.logged_metrics["mean_loss"] == means["mean_loss"], f"means after step {step}"
    sys.stdout.write(f"{name} holds the laws\n")
    sys.stdout.flush()


class Unsynchronised(Callback):
    """A bug in somebody's training loop: one rank's gradients are its own."""

    lottery_order = 0

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_rank == 1:
            for param in pl_module.parameters():
                if param.grad is not None:
                    param.grad.normal_()


for number, name in enumerate(CALLBACKS):
    laws(name, FOLDER / str(number))
other = CALLBACKS["PLATON"]()
saving = ModelCheckpoint(dirpath=FOLDER / "ema", every_n_train_steps=4, save_top_k=-1)
fit(FOLDER / "ema", other, EMAWeightAveraging(decay=0.5), saving, enable_checkpointing=True,
    accumulate_grad_batches=2, max_epochs=6)  # fmt: skip
assert equal_on_ranks(hash_of_tensors(other.masks)) and other.step == STEPS
try:
    fit(FOLDER / "unsynchronised", CALLBACKS["PLATON"](), Unsynchronised())
except LotteryError as error:
    assert "ranks found different masks" in str(error)
else:
    raise AssertionError("different masks went unnoticed")
own = torch.rand(12, 12, generator=torch.Generator().manual_seed(torch.distributed.get_rank())) < 0.5
try:
    fit(FOLDER / "tickets", MaskFreezing(Ticket({"tied_a.weight": own})))
except LotteryError as error:
    assert "give all the same ticket" in str(error)
else:
    raise AssertionError("different tickets went unnoticed")
assert not any(isinstance(callback, MaskCallback) for callback in trainer(FOLDER).callbacks)
sys.stdout.write("ok\n")
sys.stdout.flush()
