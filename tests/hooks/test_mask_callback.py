"""What every mask callback does around a fit: other runs and instances, odd layers, logs, checkpoints."""

import csv
import warnings
from datetime import timedelta

import pytest
import torch
from lightning.pytorch.callbacks import (
    Callback,
    ModelCheckpoint,
    RichProgressBar,
)
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import nn

from helpers.boards import Board, board_in
from helpers.callbacks import BODY, CALLBACKS, EVERY, EVERY_FROZEN, FROZEN, STEPS, each, ticket
from helpers.loggers import Online
from helpers.one_shot import Plain
from helpers.projects import Batches, Odd, fit, says, trainer
from helpers.states import KeepEveryResume, removed_are_zero
from lightning_lottery import (
    PLATON,
    SNIP,
    Constant,
    Cubic,
    ExactResume,
    GraSP,
    LotteryError,
    MagnitudePruning,
    MaskFreezing,
    Scope,
    Snapshots,
    SynFlow,
    Ticket,
)


class BuiltLate(Odd):
    """Has no body before `configure_model`."""

    def __init__(self) -> None:
        super().__init__()
        self.body = None

    def configure_model(self) -> None:
        if self.body is None:
            self.body = nn.Linear(12, 12)

    def forward(self, x):
        return self.head(self.norm(self.body(torch.relu(self.my_mask(x)))))


def test_layers_built_in_configure_model_are_in_scope(tmp_path):
    callback = PLATON(0.5, interval=2, scope=Scope(include=("body.*",)))
    fit(tmp_path, callback, module=BuiltLate())
    assert callback.masks.keys() == {"body.weight"}
    assert callback.sparsity == 0.5


RANKING = {
    "PLATON": lambda **more: PLATON(0.7, interval=2, **more),
    "MagnitudePruning": lambda **more: MagnitudePruning(0.7, interval=2, **more),
    "SynFlow": lambda **more: SynFlow(0.7, iterations=5, **more),
    "SNIP": lambda **more: SNIP(0.7, **more),
    "GraSP": lambda **more: GraSP(0.7, **more),
}


@pytest.mark.parametrize("make", RANKING.values(), ids=RANKING)
def test_every_ranking_pruner_keeps_its_share_of_all_weights_or_of_each_tensor(make, tmp_path):
    kept = {}
    for per in ("all", "tensor"):
        callback = make(per=per)
        fit(tmp_path / per, callback, module=Plain())
        kept[per] = [int(mask.sum()) for mask in callback.masks.values()]
    sizes = [mask.numel() for mask in callback.masks.values()]
    assert kept["tensor"] == [round(0.3 * size) for size in sizes] != kept["all"]
    assert sum(kept["all"]) == round(0.3 * sum(sizes))
    with pytest.raises(LotteryError, match="`per` is 'all' or 'tensor', got 'layer'"):
        make(per="layer")


@EVERY
def test_validating_before_and_after_changes_nothing(make, tmp_path):
    callback, module = make(), Odd()
    fitted = trainer(tmp_path, callback)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    fitted.validate(module, Batches(batches=1), verbose=False)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    fitted.fit(module, Batches(), Batches(batches=1))
    after, masks = {name: value.clone() for name, value in module.state_dict().items()}, callback.masks
    fitted.validate(module, Batches(batches=1), verbose=False)
    assert all(torch.equal(after[name], value) for name, value in module.state_dict().items())
    assert all(torch.equal(masks[name], mask) for name, mask in callback.masks.items())


@EVERY
def test_a_second_fit_on_the_same_trainer_goes_on_and_on_a_new_one_begins_anew(make, tmp_path):
    callback, module = make(), Odd()
    fitted = fit(tmp_path, callback, module=module)
    first = callback.masks
    fitted.fit(module, Batches(), Batches(batches=1))  # its limits are reached: nothing is trained
    assert callback.step == STEPS
    assert all(torch.equal(first[name], mask) for name, mask in callback.masks.items())
    fitted.fit_loop.max_epochs = 4
    with warnings.catch_warnings():
        fitted.fit(module, Batches(), Batches(batches=1))
    assert callback.step == STEPS + 4
    assert removed_are_zero(module.state_dict(), callback.masks)
    fit(tmp_path / "new", callback, module=Odd())
    assert callback.step == STEPS


@EVERY
def test_two_instances_live_in_one_trainer_by_name_and_part(make, tmp_path):
    if make().schedule is None:
        halves = [
            MaskFreezing(Ticket({name: ticket().masks[name]}), name=word)
            for name, word in (("my_mask.0.weight", "one"), ("my_mask.2.weight", "two"))
        ]
    else:
        halves = [make(name="one"), make(name="two")]
        halves[0].scope, halves[1].scope = (Scope(include=(f"my_mask.{i}.*",)) for i in (0, 2))
    logger = CSVLogger(tmp_path, name="", version="")
    module = Odd()
    fitted = fit(tmp_path, *halves, module=module, logger=logger)
    assert len({half.state_key for half in halves}) == 2
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [
        "ticket-one.safetensors",
        "ticket-two.safetensors",
    ]
    assert {"one/sparsity/scope", "two/sparsity/scope"} <= fitted.callback_metrics.keys()
    for half in halves:
        assert len(half.masks) == 1 and removed_are_zero(module.state_dict(), half.masks)


def test_two_callbacks_for_one_file_or_one_weight_are_refused(tmp_path):
    with pytest.raises(LotteryError, match="Two callbacks would both write ticket.safetensors"):
        fit(tmp_path, PLATON(0.5), MaskFreezing(ticket()))
    with pytest.raises(LotteryError, match="PLATON and MaskFreezing 'b' both mask 'my_mask.0.weight'"):
        fit(tmp_path, PLATON(0.5, interval=2), MaskFreezing(ticket(), name="b"))


def test_every_value_promised_is_logged_and_the_bar_shows_the_sparsity(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, name="", version="")
    fitted = fit(tmp_path, CALLBACKS["PLATON"](), RichProgressBar(), logger=logger, enable_progress_bar=True)
    events = EventAccumulator(str(tmp_path)).Reload()
    for key in ("scope", "model", "target"):
        values = [event.value for event in events.Scalars(f"sparsity/{key}")]
        assert values[-1] > 0.3
        assert len(values) >= 4
    assert [event.step + 1 for event in events.Scalars("mask/change")] == [2, 4, 6, 8, 9, 10, 12]
    assert max(event.value for event in events.Scalars("mask/regrowth")) > 0
    assert "sparsity/scope" in fitted.progress_bar_metrics


@pytest.mark.parametrize("log_layers", [False, True])
@pytest.mark.parametrize("method", ["PLATON", "MagnitudePruning", "SynFlow", "SNIP", "GraSP", "MaskFreezing"])
def test_the_sparsity_of_each_layer_is_logged_on_request_alone(method, log_layers, tmp_path):
    callback, logger = CALLBACKS[method](log_layers=log_layers), Updates(tmp_path)
    fit(tmp_path, callback, logger=logger)
    (seen, *_) = [values for values in reversed(logger.seen) if "sparsity/scope" in values]
    layers = {key: value for key, value in seen.items() if key.startswith("sparsity_of/")}
    expected = {f"sparsity_of/{name}": 1 - mask.float().mean().item() for name, mask in callback.masks.items()}
    assert layers == (pytest.approx(expected) if log_layers else {})


def test_text_and_layout_are_written_for_a_fit_that_begins_and_not_again_where_it_goes_on(tmp_path):
    folder = tmp_path / "log"
    pruned = fit(tmp_path, PLATON(0.7, interval=2, begin=1, end=9), ExactResume(), logger=board_in(folder))
    written = Board(folder)
    assert written.layout["pruning"] == {
        "sparsity: target and achieved": ["sparsity/target", "sparsity/scope"],
        "training loss and mask change": ["train_loss", "mask/change"],
    }
    (text,) = written.texts("what is pruned")
    for words in (
        "## PLATON",
        "| after step | removed | weights kept |",
        "| my&#95;mask.0.weight | Linear | 12 x 6 | 72 |",
    ):
        assert words in text
    fit(
        tmp_path,
        PLATON(0.7, interval=2, begin=1, end=9),
        ExactResume(),
        ckpt=tmp_path / "log" / "resume.ckpt",
        logger=board_in(folder),
        max_epochs=4,
    )
    assert pruned.global_step == 12 and Board(folder).texts("what is pruned") == [text]
    assert len(Board(folder).events("custom_scalars__config__")) == 1


def rows_of(folder, name="pruning"):
    with open(folder / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


@EVERY
def test_every_pruned_fit_leaves_a_table_of_losses_and_layers_and_a_trained_ticket_none(make, tmp_path):
    losses, callback = CSVLogger(tmp_path, name="log", version=""), make()
    fit(tmp_path, callback, logger=losses)
    folder = tmp_path / "log"
    if callback.schedule is None:
        assert not (folder / "pruning.csv").exists()
        return
    rows = rows_of(folder)
    with open(folder / "metrics.csv", newline="") as file:
        logged = {int(row["step"]) + 1: float(row["train_loss"]) for row in csv.DictReader(file) if row["train_loss"]}
    assert {int(row["step"]): float(row["loss"]) for row in rows if row["loss"]} == pytest.approx(logged)
    assert len(logged) == STEPS
    masks = [row for row in rows if row["sparsity"]]
    assert int(masks[0]["step"]) == 0 and float(masks[-1]["sparsity"]) == callback.sparsity
    shares = {name: 1 - mask.float().mean().item() for name, mask in callback.masks.items()}
    assert {name: float(masks[-1][f"removed of {name}"]) for name in shares} == pytest.approx(shares, abs=1e-6)
    assert sum(float(row["change"]) for row in rows if row["change"]) >= callback.sparsity - 1e-9


@pytest.mark.pictures
@pytest.mark.parametrize("name", ["PLATON", "SNIP"])
def test_a_gradual_and_a_one_shot_fit_leave_a_picture_as_png_and_svg(name, tmp_path):
    fit(tmp_path, CALLBACKS[name](name="mine"))
    assert (tmp_path / "pruning-mine.png").read_bytes().startswith(b"\x89PNG")
    assert b"</svg>" in (tmp_path / "pruning-mine.svg").read_bytes()


@pytest.mark.pictures
def test_loggers_that_take_figures_get_one_at_validations_when_the_fit_is_half_as_long_again_and_at_the_end(tmp_path):
    online = Online()
    pruner = CALLBACKS["PLATON"]()
    each_step = {"val_check_interval": 1, "max_epochs": 8, "num_sanity_val_steps": 2}
    fitted = fit(tmp_path, pruner, logger=online, **each_step)
    steps = [step for *_, step in online.images]
    assert steps == [1, 2, 3, 5, 8, 12, 18, 27, 32]
    assert {key for key, *_ in online.images} == {"pruning"}
    fitted.validate(fitted.lightning_module, Batches(batches=1), verbose=False)
    assert len(online.images) == len(steps)


@pytest.mark.pictures
def test_a_resumed_fit_draws_where_the_unbroken_one_does(tmp_path):
    online, again = Online(), Online()
    keep = KeepEveryResume(tmp_path / "whole", tmp_path / "points")
    make, each_step = CALLBACKS["PLATON"], {"val_check_interval": 1, "max_epochs": 8}
    fit(tmp_path / "whole", make(), ExactResume(interval=1), keep, logger=online, **each_step)
    fit(
        tmp_path / "again",
        make(),
        ExactResume(interval=100),
        ckpt=tmp_path / "points" / "6.ckpt",
        logger=again,
        **each_step,
    )
    assert [step for *_, step in again.images] == [8, 12, 18, 27, 32]
    assert again.images == [image for image in online.images if image[-1] > 6]


def test_a_resumed_fit_leaves_the_same_table_and_one_from_a_state_without_history_begins_it_there(tmp_path):
    keep = KeepEveryResume(tmp_path / "whole", tmp_path / "points")
    make = CALLBACKS["PLATON"]
    fit(tmp_path / "whole", make(), ExactResume(interval=1), keep)
    point = tmp_path / "points" / "5.ckpt"
    fit(tmp_path / "again", make(), ExactResume(interval=100), ckpt=point)
    whole = rows_of(tmp_path / "whole")
    assert rows_of(tmp_path / "again") == whole and len(whole) == STEPS + 1
    checkpoint = torch.load(point, weights_only=True)
    del checkpoint["callbacks"][make().state_key]["history"]
    torch.save(checkpoint, point)
    fit(tmp_path / "old", make(), ExactResume(interval=100), ckpt=point)
    late = rows_of(tmp_path / "old")
    assert late == [row for row in whole if int(row["step"]) > 5]


@EVERY_FROZEN
def test_the_audit_of_revived_weights_is_logged_and_is_zero(make, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(tmp_path, make(), logger=TensorBoardLogger(tmp_path, name="", version=""))
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("mask/revived")
    assert len(events) >= 3 and all(event.value == 0 for event in events)


def test_the_audit_finds_and_names_weights_that_somebody_else_revived(tmp_path):
    class Vandal(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            self.at = trainer.global_step

        def on_validation_start(self, trainer, pl_module):
            if trainer.global_step == 8:
                with torch.no_grad():
                    pl_module.my_mask[0].weight.fill_(1.0)

    module = Odd()
    with says("removed weights in my_mask.0.weight that were no longer zero, and set them back"):
        fit(tmp_path, Vandal(), MaskFreezing(ticket()), module=module)
    assert removed_are_zero(module.state_dict(), ticket().masks)


def test_a_layer_that_loses_its_last_weight_is_named(tmp_path):
    class Vanishing(Odd):
        def __init__(self):
            super().__init__()
            with torch.no_grad():
                self.my_mask[0].weight.mul_(1e-6)

    with says("keeps no weight of my_mask.0.weight at step 5"):
        fit(tmp_path, MagnitudePruning(Constant(0.7, begin=5), scope=BODY), module=Vanishing())


@pytest.mark.parametrize("make", [CALLBACKS["PLATON"], CALLBACKS["MagnitudePruning"]], ids=["PLATON", "Magnitude"])
def test_a_batch_without_a_loss_is_survived(make, tmp_path):
    class Skips(Odd):
        def training_step(self, batch, batch_idx):
            return None if self.trainer.global_step == 3 else super().training_step(batch, batch_idx)

    callback = make()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*returned `None`")
        fit(tmp_path, callback, module=Skips())
    assert callback.sparsity == pytest.approx(0.7, abs=2e-3)


@each({name: make for name, make in FROZEN.items() if "Dynamic" not in name})  # there some weights begin at zero
def test_a_loss_infinitely_steep_at_zero_does_not_turn_removed_weights_into_nan(make, tmp_path):
    class Steep(Odd):
        def loss(self, batch):
            return super().loss(batch) + 1e-3 * sum(self.get_parameter(n).abs().sqrt().sum() for n in ticket().distinct)

    callback, module = make(), Steep()
    fit(tmp_path, callback, module=module)
    assert all(torch.isfinite(value).all() for value in module.state_dict().values())
    assert removed_are_zero(module.state_dict(), callback.masks)


def test_lazy_layers_outside_the_scope_do_not_matter(tmp_path):
    class Lazy(Odd):
        def __init__(self):
            super().__init__()
            self.late = nn.LazyLinear(3)

        def forward(self, x):
            return super().forward(x) + self.late(x)

        def configure_optimizers(self):
            return torch.optim.SGD(self.head.parameters(), 0.1)

    callback = MagnitudePruning(0.5, scope=Scope(include=("head.*",)))
    fit(tmp_path, callback, module=Lazy())
    assert callback.sparsity == 0.5


def test_somebody_elses_callback_may_have_an_attribute_called_order(tmp_path):
    class Seated(Callback):
        order = "top"

    fit(tmp_path, Seated(), CALLBACKS["PLATON"]())


class Updates(CSVLogger):
    """Keeps what is logged, in memory."""

    def __init__(self, folder):
        super().__init__(folder, name="", version="")
        self.seen = []

    def log_metrics(self, metrics, step=None):
        self.seen.append(dict(metrics))


@pytest.mark.parametrize("dead", [False, True], ids=["distinct scores", "all scores zero"])
@pytest.mark.parametrize("method", [PLATON, MagnitudePruning])
def test_after_every_update_the_density_is_exact_ties_or_not(method, dead, tmp_path):
    class Dead(Odd):
        """All scores are equal: no gradient but zeros, no weight but zeros."""

        def __init__(self):
            super().__init__()
            with torch.no_grad():
                for name in ticket().distinct:
                    self.get_parameter(name).zero_()

        def loss(self, batch):
            return super().loss(batch)

        def configure_optimizers(self):
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], 0.1)

    callback, logger = method(0.83, interval=1, begin=1, end=9, scope=BODY), Updates(tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* keeps no weight of")
        fit(tmp_path, callback, module=Dead() if dead else Odd(), logger=logger)
    total = sum(mask.numel() for mask in callback.masks.values())
    updates = [seen for seen in logger.seen if "mask/change" in seen]
    assert len(updates) >= 8 and updates[-1]["sparsity/target"] == 0.83
    for seen in updates:
        kept = round((1 - seen["sparsity/target"]) * total)
        assert seen["sparsity/scope"] == pytest.approx(1 - kept / total, abs=1e-12)


MODES = {
    "best": {"monitor": "val_loss", "save_top_k": 2},
    "every epoch": {"every_n_epochs": 1, "save_top_k": -1},
    "at the end of training epochs": {"every_n_epochs": 1, "save_top_k": -1, "save_on_train_epoch_end": True},
    "by time": {"train_time_interval": timedelta(seconds=0.01), "save_top_k": -1},
    "last": {"save_top_k": 0, "save_last": True},
    "weights only": {"every_n_train_steps": 2, "save_top_k": -1, "save_weights_only": True},
}


@EVERY_FROZEN
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_every_kind_of_checkpoint_is_zero_where_frozen(make, mode, tmp_path):
    masks = {}

    class Remember(Callback):
        """The masks as they were after each step."""

        lottery_order = 3

        def on_train_batch_end(self, trainer, *_):
            masks[trainer.global_step] = callback.masks

    callback = make()
    saving = ModelCheckpoint(dirpath=tmp_path, filename="{step}", **mode)
    fit(tmp_path, Remember(), callback, saving, enable_checkpointing=True)
    files = list(tmp_path.glob("*.ckpt"))
    assert files
    for file in files:
        saved = torch.load(file, weights_only=True)
        assert removed_are_zero(saved["state_dict"], masks[saved["global_step"]]), file.name


def test_the_log_says_what_is_pruned_and_what_is_not_and_where_the_ticket_is(tmp_path, caplog):
    fit(tmp_path, CALLBACKS["PLATON"]())
    assert "PLATON: 360 of 603 weights in scope, in 3 parameters. Left out: " in caplog.text
    assert (
        "1 a classifier, head or pooler" in caplog.text
        and "1 frozen" in caplog.text
        and "2 owned by BatchNorm1d" in caplog.text
    )
    assert f"PLATON: sparsity 0.7000 of the scope; the ticket is '{tmp_path / 'ticket.safetensors'}'" in caplog.text
    fit(tmp_path, MaskFreezing(ticket()))
    assert "MaskFreezing: Ticket(3 parameters" in caplog.text


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Snapshots(5), "list of optimizer steps >= 0, at least one, got 5"),
        (lambda: Snapshots([]), "at least one"),
        (lambda: Snapshots([1.5]), "list of optimizer steps"),
        (lambda: MaskFreezing(3), "a Ticket or the path of one, got 3"),
        (lambda: PLATON(0.5, scope="*.weight"), "`scope` is a Scope"),
        (lambda: PLATON(0.5, name=3), "must be a plain word"),
        (lambda: PLATON(0.5, name="a/b"), "must be a plain word"),
        (lambda: PLATON(0.5, interval=0), "`interval` is a number of optimizer steps >= 1"),
        (lambda: PLATON(0.5, beta1=1.0), r"`beta1` is the decay .* in \[0, 1\)"),
        (lambda: PLATON(1.0), r"in \[0, 1\), got 1.0"),
        (lambda: PLATON(Cubic(0.5), begin=3), "has its own begin and end"),
        (lambda: MagnitudePruning(0.5, per="layer"), "'all' or 'tensor'"),
        (lambda: MagnitudePruning(0.5, begin=20, end=10), "begins after its end"),
        (lambda: ExactResume(interval=0), "`interval` is a number of optimizer steps >= 1"),
    ],
)
def test_arguments_that_mean_nothing_are_refused_when_a_callback_is_built(build, words):
    with pytest.raises(LotteryError, match=words):
        build()


def test_the_loss_that_is_noted_is_the_one_that_was_computed_whatever_is_accumulated(tmp_path):
    class Constant3(Odd):
        def loss(self, batch):
            return super().loss(batch) * 0 + 3.0

    callback = MagnitudePruning(0.5, interval=1)
    fit(tmp_path, callback, module=Constant3(), accumulate_grad_batches=4)
    losses = {float(row["loss"]) for row in rows_of(tmp_path) if row["loss"]}
    assert losses == {3.0}
