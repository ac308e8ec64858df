"""Many sets of weights in one run of a Trainer: module and callbacks see what they would see in as many runs."""

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric

from helpers.projects import trainer
from lightning_lottery import LotteryError
from lightning_lottery.connectivity.batches import Batches
from lightning_lottery.connectivity.evaluation import Evaluator

pytestmark = pytest.mark.filterwarnings("ignore:You have overridden `.*transfer.*` in `LightningModule`:UserWarning")

HOOKS = ("start", "epoch_start", "batch_start", "batch_end", "epoch_end", "end")
MODES = ("model_eval", "model_train")
TRANSFERS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


def noting(seen: list, who: str, prefix: str, hooks: tuple[str, ...]) -> dict:
    """Methods that write down their call: whose, which, with what, in which modes."""

    def method(hook):
        def note(self, *arguments):
            module = next((one for one in (self, *arguments) if isinstance(one, LightningModule)), None)
            plain = [
                float(one) if isinstance(one, torch.Tensor) else one for one in arguments if not hasattr(one, "fit")
            ]
            plain = [sum(float(t.sum()) for t in one) if isinstance(one, list) else one for one in plain]
            plain = [one for one in plain if not isinstance(one, LightningModule)]
            weight = float(module.weight)
            seen.append((who, hook, plain, weight, module.training, torch.is_inference_mode_enabled()))

        return note

    return {f"{prefix}_{hook}": method(hook) for hook in hooks}


def project(seen: list, split: str, *, step: str = "indexed", logs: bool = True, brings: bool = False):
    """A module that keeps its outputs from start to end, and a callback; both write down what is called."""
    prefix = "on_test" if split == "test" else "on_validation"

    class Module(LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))
            self.wide = torch.nn.Linear(1, 1)  # whose result depends on the precision
            self.mean = MeanMetric()

        def evaluate(self, batch):
            progress = self.trainer._evaluation_loop.batch_progress
            counted = progress.current.ready, progress.current.completed, progress.is_last_batch
            seen.append(("step", float(batch[0].sum()), batch[0].dtype, self.training, self.wide.training, counted))
            self.wide.train(self.training)
            self.kept.append(batch[0] * self.weight)
            if logs:
                self.log(f"{split}_mean", self.kept[-1].mean())
                self.log(f"{split}_wide", self.wide(batch[0][:, None]).double().sum())
                self.mean.update(self.kept[-1])
                self.log(f"{split}_metric", self.mean)
            return self.kept[-1].sum()

        def configure_callbacks(self):
            return [type("Brought", (Callback,), noting(seen, "brought", prefix, HOOKS))()] if brings else []

    def start(self):
        getattr(noted, f"{prefix}_start")(self)
        self.kept = []

    def begin_epoch(self):
        getattr(noted, f"{prefix}_epoch_start")(self)
        if logs:
            self.log(f"{split}_outside", 1.0)

    def end_epoch(self):
        getattr(noted, f"{prefix}_epoch_end")(self)
        if logs:
            self.log(f"{split}_all", torch.cat(self.kept).sum())
            self.log(f"{split}_outside", 2.0)  # weighs as much as all samples
        self.wide.train()

    def turning(mode, name):
        def turn(self):
            getattr(noted, f"{prefix}_{name}")(self)
            self.training = mode  # and leaves its layers as they are

        return turn

    noted = type("Noted", (), noting(seen, "module", prefix, (*HOOKS, *MODES)))
    methods = {f"{prefix}_{hook}": getattr(noted, f"{prefix}_{hook}") for hook in HOOKS}
    methods |= {f"{prefix}_start": start, f"{prefix}_epoch_start": begin_epoch, f"{prefix}_epoch_end": end_epoch}
    methods |= {f"{prefix}_model_eval": turning(False, "model_eval")}
    if step != "plain":
        methods |= {f"{prefix}_model_train": turning(True, "model_train")}
    steps = {
        "indexed": lambda self, batch, batch_idx: self.evaluate(batch),
        "numbered": lambda self, batch, number: self.evaluate(batch),
        "plain": lambda self, batch: self.evaluate(batch),
        "any": lambda self, *arguments: self.evaluate(arguments[0]) if arguments[1:] else None,
        "options": lambda self, batch, *, scale=1.0: self.evaluate(batch),
    }
    methods["test_step" if split == "test" else "validation_step"] = steps[step]
    for hook in TRANSFERS:

        def transfer(self, batch, *arguments, hook=hook, **named):
            seen.append(("module", hook, float(batch[0].sum()), batch[0].dtype))
            return getattr(LightningModule, hook)(self, batch, *arguments, **named)

        methods[hook] = transfer
    module = type("Project", (Module,), methods)()
    return module, type("Onlooker", (Callback,), noting(seen, "callback", prefix, HOOKS))()


def evaluated(folder, split, *, at_once: bool, weights=(1.0, 2.0, 3.0), streamed=False, trained=None, **options):
    seen: list = []
    torch.manual_seed(0)
    module, onlooker = project(seen, split, **options)
    x = torch.rand(10, generator=torch.Generator().manual_seed(0))
    loader = DataLoader(TensorDataset(x), batch_size=3)
    batches = Batches(loader, memory=0 if streamed else 2**20)
    evaluate = Evaluator(module, trainer(folder, onlooker, **(trained or {})), batches, split)

    def setting(weight):
        def prepare(module):
            seen.append(("setting", weight))
            module.wide(torch.ones(1, 1, dtype=module.weight.dtype))
            module.mean.update(weight)  # as recalibration would
            with torch.no_grad():
                module.weight.fill_(weight)

        return prepare

    settings = [setting(weight) for weight in weights]
    results = evaluate(*settings) if at_once else [values for one in settings for values in evaluate(one)]
    return results, seen, evaluate.samples


LIMITED = {"limit_test_batches": 2, "limit_val_batches": 2}
CASES = [
    {},
    {"step": "plain"},
    {"step": "numbered"},
    {"step": "any"},
    {"step": "options"},
    {"streamed": True},
    {"brings": True},
    {"trained": LIMITED},
    {"trained": {"precision": "bf16-mixed"}},
    {"trained": {"precision": "64-true"}},
    {"trained": {"inference_mode": False}},
]


@pytest.mark.parametrize("split", ["test", "val"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_hooks_steps_and_values_of_many_settings_are_those_of_one_run_of_the_trainer_each(split, case, tmp_path):
    at_once, one_by_one = (evaluated(tmp_path, split, at_once=at_once, **case) for at_once in (True, False))
    assert at_once[0] == one_by_one[0]
    assert at_once[1] == one_by_one[1]
    assert at_once[2] == one_by_one[2] == (6 if case.get("trained") is LIMITED else 10)
    totals, means, outside = (
        [values[f"{split}_{name}"] for values in at_once[0]] for name in ("all", "metric", "outside")
    )
    assert totals == pytest.approx([weight * totals[0] for weight in (1, 2, 3)], rel=1e-3)
    assert means == pytest.approx([total / at_once[2] for total in totals], rel=1e-3)
    assert outside == pytest.approx([(1 + 2 * at_once[2]) / (1 + at_once[2])] * 3)
    names = {entry[:2] for entry in at_once[1]}
    callbacks = ("callback", "brought") if case.get("brings") else ("callback",)
    assert {(who, hook) for who in ("module", *callbacks) for hook in HOOKS} <= names
    assert {("module", hook) for hook in ("model_eval", *TRANSFERS)} <= names


@pytest.mark.filterwarnings("ignore:.*`dataloader_iter`:UserWarning")
def test_a_step_that_draws_its_batches_itself_is_run_setting_by_setting(tmp_path):
    class Draws(LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def test_step(self, dataloader_iter):
            (x,), _, _ = next(dataloader_iter)
            self.log("test_mean", (x * self.weight).mean())

    def setting(weight):
        return lambda module: torch.nn.init.constant_(module.weight, weight)

    loader = DataLoader(TensorDataset(torch.ones(4)), batch_size=2)
    evaluate = Evaluator(Draws(), trainer(tmp_path), Batches(loader), "test")
    assert [values["test_mean"] for values in evaluate(setting(1.0), setting(2.0))] == [1.0, 2.0]


def test_a_module_that_logs_nothing_is_refused_after_its_first_setting_and_left_with_its_own_log(tmp_path):
    seen: list = []
    module, onlooker = project(seen, "test", logs=False)
    judging = trainer(tmp_path, onlooker)
    before = judging.callbacks
    evaluate = Evaluator(module, judging, Batches(DataLoader(TensorDataset(torch.ones(4)))), "test")
    with pytest.raises(LotteryError, match="logs nothing in `test_step`"):
        evaluate(*[lambda module: seen.append("setting")] * 3)
    assert seen.count("setting") == 1
    assert "log" not in module.__dict__ and judging.callbacks is before


def test_a_trainer_that_allows_no_batch_is_refused(tmp_path):
    with pytest.raises(LotteryError, match="limits their number to 0"):
        evaluated(tmp_path, "test", at_once=True, trained={"limit_test_batches": 0})


def test_a_run_that_must_stop_stops_between_two_batches_of_any_setting(tmp_path):
    seen: list = []
    module, onlooker = project(seen, "test")

    def stop(trainer, pl_module, output, batch, index):
        trainer._signal_connector.received_sigterm = index == 1

    onlooker.on_test_batch_end = stop
    loader = DataLoader(TensorDataset(torch.ones(10)), batch_size=3)
    evaluate = Evaluator(module, trainer(tmp_path, onlooker), Batches(loader), "test")
    with pytest.raises(SIGTERMException):
        evaluate(lambda module: None, lambda module: None)
    assert len([entry for entry in seen if entry[0] == "step"]) == 2
