"""Many sets of weights in one run of a Trainer: nobody can tell them from as many runs."""

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.utils.data import DataLoader, TensorDataset

from lightning_lottery import LotteryError
from lightning_lottery.runners.batches import Batches
from lightning_lottery.runners.evaluation import Evaluator
from projects import trainer

pytestmark = pytest.mark.filterwarnings("ignore:You have overridden `.*transfer.*` in `LightningModule`:UserWarning")

HOOKS = ("start", "epoch_start", "batch_start", "batch_end", "epoch_end", "end")
MODES = ("model_eval", "model_train")
TRANSFERS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


def noting(seen: list, who: str, prefix: str, hooks: tuple[str, ...]) -> dict:
    """Methods that write down their call: whose, which, with what, in which modes."""

    def method(hook):
        def note(self, *given):
            module = next((one for one in (self, *given) if isinstance(one, LightningModule)), None)
            plain = [float(one) if isinstance(one, torch.Tensor) else one for one in given if not hasattr(one, "fit")]
            plain = [sum(float(t.sum()) for t in one) if isinstance(one, list) else one for one in plain]
            plain = [one for one in plain if not isinstance(one, LightningModule)]
            weight = float(module.weight)
            seen.append((who, hook, plain, weight, module.training, torch.is_inference_mode_enabled()))

        return note

    return {f"{prefix}_{hook}": method(hook) for hook in hooks}


def project(seen: list, split: str, *, takes_index: bool = True, logs: bool = True):
    """A module that keeps its outputs from start to end, and a callback; both write down what is called."""
    prefix = "on_test" if split == "test" else "on_validation"

    class Module(LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))
            self.dropout = torch.nn.Dropout()

        def step(self, batch):
            seen.append(("step", float(batch[0].sum()), self.training, self.dropout.training))
            self.kept.append(batch[0] * self.weight)
            if logs:
                self.log(f"{split}_mean", self.kept[-1].mean())
            return self.kept[-1].sum()

    def start(self):
        getattr(noted, f"{prefix}_start")(self)
        self.kept = []

    def end_of_epoch(self):
        getattr(noted, f"{prefix}_epoch_end")(self)
        if logs:
            self.log(f"{split}_all", torch.cat(self.kept).sum())

    def turning_to(hook, mode):
        def turn(self):
            getattr(noted, f"{prefix}_{hook}")(self)
            self.train(mode)

        return turn

    noted = type("Noted", (), noting(seen, "module", prefix, (*HOOKS, *MODES)))
    own = {f"{prefix}_{hook}": getattr(noted, f"{prefix}_{hook}") for hook in HOOKS}
    own |= {f"{prefix}_start": start, f"{prefix}_epoch_end": end_of_epoch}
    own |= {f"{prefix}_model_eval": turning_to("model_eval", False)}
    own |= {f"{prefix}_model_train": turning_to("model_train", True)}
    step = "test_step" if split == "test" else "validation_step"
    own[step] = (
        (lambda self, batch, batch_idx: self.step(batch)) if takes_index else lambda self, batch: self.step(batch)
    )
    for hook in TRANSFERS:

        def transfer(self, batch, *given, hook=hook, **named):
            seen.append(("module", hook, float(batch[0].sum())))
            return getattr(LightningModule, hook)(self, batch, *given, **named)

        own[hook] = transfer
    module = type("Project", (Module,), own)()
    return module, type("Onlooker", (Callback,), noting(seen, "callback", prefix, HOOKS))()


def evaluated(folder, split, *, at_once: bool, weights=(1.0, 2.0, 3.0), streamed=False, given=None, **options):
    seen: list = []
    module, onlooker = project(seen, split, **options)
    x = torch.rand(10, generator=torch.Generator().manual_seed(0))
    loader = DataLoader(TensorDataset(x), batch_size=3)
    batches = Batches(loader, memory=0 if streamed else 2**20)
    evaluate = Evaluator(module, trainer(folder, callbacks=[onlooker], **(given or {})), batches, split)

    def setting(weight):
        def prepare(module):
            seen.append(("setting", weight))
            with torch.no_grad():
                module.weight.fill_(weight)

        return prepare

    settings = [setting(weight) for weight in weights]
    found = evaluate(*settings) if at_once else [values for one in settings for values in evaluate(one)]
    return found, seen, evaluate.samples


@pytest.mark.parametrize("split", ["test", "val"])
@pytest.mark.parametrize("options", [{}, {"takes_index": False}, {"streamed": True}], ids=str)
@pytest.mark.parametrize("limit", [{}, {"limit_test_batches": 2, "limit_val_batches": 2}], ids=["all", "limited"])
def test_hooks_steps_and_values_of_many_settings_are_those_of_one_run_of_the_trainer_each(
    split, options, limit, tmp_path
):
    at_once, one_by_one = (
        evaluated(tmp_path, split, at_once=at_once, given=limit, **options) for at_once in (True, False)
    )
    assert at_once[0] == one_by_one[0]
    assert at_once[1] == one_by_one[1]
    assert at_once[2] == one_by_one[2] == (6 if limit else 10)
    assert {len(values) for values in at_once[0]} == {2}
    assert [values[f"{split}_all"] for values in at_once[0]] == pytest.approx(
        [weight * at_once[0][0][f"{split}_all"] for weight in (1, 2, 3)]
    )
    names = {entry[:2] for entry in at_once[1]}
    assert {(who, hook) for who in ("module", "callback") for hook in HOOKS} <= names
    assert {("module", hook) for hook in (*MODES, *TRANSFERS)} <= names


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


def test_a_module_that_logs_nothing_is_refused(tmp_path):
    with pytest.raises(LotteryError, match="logs nothing in `test_step`"):
        evaluated(tmp_path, "test", at_once=True, logs=False)


def test_a_run_that_is_told_to_stop_stops_between_two_batches_of_any_setting(tmp_path):
    seen: list = []
    module, onlooker = project(seen, "test")

    def told(trainer, pl_module, output, batch, index):
        trainer._signal_connector.received_sigterm = index == 1

    onlooker.on_test_batch_end = told
    loader = DataLoader(TensorDataset(torch.ones(10)), batch_size=3)
    evaluate = Evaluator(module, trainer(tmp_path, callbacks=[onlooker]), Batches(loader), "test")
    with pytest.raises(SIGTERMException):
        evaluate(lambda module: None, lambda module: None)
    assert len([entry for entry in seen if entry[0] == "step"]) == 2
