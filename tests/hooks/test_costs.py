"""What a step costs before units were cut out and after."""

import torch
from lightning.pytorch.callbacks import Callback

from helpers.blocks import Blocks
from helpers.projects import fit
from helpers.states import same
from lightning_lottery.hooks.costs import Costs, multiply_adds_of_step, savings

CPU = torch.device("cpu")


class Counts(Callback):
    def __init__(self):
        self.counts, self.costs = [], Costs()

    def on_train_batch_start(self, trainer, pl_module, *_):
        self.costs.start(CPU)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.costs.stop(CPU, has_stepped=batch_idx % 2 == 1)
        before = {name: value.clone() for name, value in pl_module.state_dict().items()}
        drawn, grads = torch.get_rng_state(), [p.grad.clone() for p in pl_module.parameters()]
        self.counts.append(multiply_adds_of_step(trainer, batch, batch_idx))
        assert same(dict(pl_module.state_dict()), before) and pl_module.training
        assert torch.equal(torch.get_rng_state(), drawn) and "val_loss" not in trainer.callback_metrics
        assert same([p.grad for p in pl_module.parameters()], grads)


class Manual(Blocks):
    def __init__(self):
        super().__init__("sgd")
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.optimizers().zero_grad()
        self.manual_backward(self.loss(batch))
        self.optimizers().step()


def test_the_count_is_that_of_all_products_of_a_batch_and_leaves_no_trace(tmp_path):
    counts = Counts()
    fit(tmp_path, counts, module=Blocks(), max_epochs=1, limit_val_batches=0)
    # 8 samples: 6x32, then 2 layers of 4 tokens with 4 8x8, two attention products of 4x4x8, 2 8x16; then 8x3.
    layer = 4 * (4 * 64 + 2 * 128) + 2 * 4 * 4 * 8
    assert counts.counts == [8 * (6 * 32 + 2 * layer + 8 * 3)] * 4
    counts = Counts()
    trainer = fit(tmp_path, counts, module=Manual(), max_epochs=1, limit_val_batches=0)
    assert counts.counts == [None] * 4 and trainer.global_step == 4  # its step would step the optimizer


class Otherwise(Blocks):
    """Names its arguments as it likes, and keeps what it saw."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def training_step(self, samples, number):
        loss = self.loss(samples)
        self.seen.append(number)
        self.log("loss", loss, on_epoch=True)
        return loss


def test_a_step_may_name_its_arguments_as_it_likes(tmp_path):
    counts, plain, module = Counts(), Counts(), Otherwise()
    fit(tmp_path, counts, module=module, max_epochs=1, limit_val_batches=0)
    fit(tmp_path, plain, module=Blocks(), max_epochs=1, limit_val_batches=0)
    assert counts.counts == plain.counts and module.seen == [0, 1, 2, 3]


def test_times_are_of_steps_before_and_after_and_those_of_a_first_life_are_read_again(tmp_path):
    costs, path = Costs(), tmp_path / "shrunk.csv"
    for batch in range(6):
        costs.start(CPU)
        costs.stop(CPU, has_stepped=batch % 2 == 1)
    costs.counted, costs.step = [(10, 2_000_000), (5, 1_000_000)], 3
    whole, smaller = costs.write(path)
    assert (whole["steps_timed"], smaller["steps_timed"], smaller["seconds_per_step"]) == (3, 0, None)
    again = Costs()
    again.load_state_dict(costs.state_dict())
    again.start(CPU)
    again.stop(CPU, has_stepped=True)
    rows = again.write(path)
    assert rows[0] == whole and rows[1]["steps_timed"] == 1 and rows[1]["from_step"] == 3
    assert savings(rows).startswith(
        "5 of 10 parameters are left, and 1.00 of 2.00 million multiply-adds of a batch, a step "
    )
    assert savings(rows[:1]) == ""
    path.write_text("something else\n")
    assert again.write(path)[0]["seconds_per_step"] is None
