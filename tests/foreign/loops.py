"""Loops of foreign projects, to be laid over any of the modules: who steps and when, who else writes weights."""

import copy
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch.optim import LBFGS, SGD


class Automatic:
    """Lightning's own loop; others change what they must."""

    latest_refusal = 0
    """Up to which `global_step` a refusal is in time."""

    breaks = False
    """Whether a first fit ends in an exception."""

    def others(self) -> list[Callback]:
        """The user's own callbacks."""
        return []

    def configure_optimizers(self) -> Any:
        return SGD(self.trained(), 0.1, momentum=0.9)


class Manual(Automatic):
    """`zero_grad`, `backward`, `step` by hand, for every optimizer."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in optimizers:
            optimizer.step()


class TwoOptimizers(Manual):
    """Each of two trains a half."""

    def configure_optimizers(self):
        params = self.trained()
        half = len(params) // 2
        return SGD(params[:half], 0.1, momentum=0.9), torch.optim.AdamW(params[half:], 1e-2)


class Sam(SGD):
    """Steps by the gradient a little uphill: runs the closure twice."""

    def step(self, closure):
        with torch.enable_grad():
            loss = closure()
        params = [param for group in self.param_groups for param in group["params"] if param.grad is not None]
        moves = [0.05 * param.grad for param in params]
        with torch.no_grad():
            torch._foreach_add_(params, moves)
        with torch.enable_grad():
            closure()
        with torch.no_grad():
            torch._foreach_sub_(params, moves)
        super().step()
        return loss


class Closure(Automatic):
    """Sharpness-aware minimisation."""

    def configure_optimizers(self):
        return Sam(self.trained(), 0.1, momentum=0.9)


class Lbfgs(Automatic):
    """An optimizer whose history mixes all weights."""

    def configure_optimizers(self):
        return LBFGS(self.trained(), 1e-2, max_iter=2)


class Night(Callback):
    """Breaks off a fit."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == 2:
            raise RuntimeError("night")


class BrokenOff(Automatic):
    """A fit ends in an exception, and another one begins with the same optimizer."""

    breaks = True

    def configure_optimizers(self):
        return self.__dict__.setdefault("_kept", super().configure_optimizers())


class Renewed(Automatic):
    """Optimizers are made anew in the middle of the fit."""

    def on_train_epoch_start(self):
        super().on_train_epoch_start()
        if self.current_epoch == 1:
            self.trainer.strategy.setup_optimizers(self.trainer)


class Assigned(Automatic):
    """Parameters are replaced in the middle of the fit, and optimizers made anew."""

    def on_train_epoch_start(self):
        super().on_train_epoch_start()
        if self.current_epoch == 1:
            self.load_state_dict({name: value.clone() for name, value in self.state_dict().items()}, assign=True)
            self.after_loading()
            self.trainer.strategy.setup_optimizers(self.trainer)


class TwoKinds(SGD):
    """Schedule-free in essence: `eval` moves the weights towards an average in the state, `train` moves them back."""

    @torch.no_grad()
    def step(self, closure=None):
        loss = super().step(closure)
        for param in self._with_gradients():
            self.state[param].setdefault("z", copy.deepcopy(param.detach())).lerp_(param, 0.1)
        return loss

    def _with_gradients(self):
        return [param for group in self.param_groups for param in group["params"] if param.grad is not None]

    @torch.no_grad()
    def move(self, weight):
        for param, state in self.state.items():
            if "z" in state:
                param.lerp_(state["z"], weight)

    def eval(self):
        self.move(0.5)

    def train(self):
        self.move(-1.0)


class ScheduleFree(Automatic):
    """The optimizer swaps weights for validation and back."""

    def configure_optimizers(self):
        return TwoKinds(self.trained(), 0.1)

    def on_validation_model_eval(self):
        super().on_validation_model_eval()
        self.optimizers().optimizer.eval()

    def on_validation_model_train(self):
        super().on_validation_model_train()
        self.optimizers().optimizer.train()


@torch.no_grad()
def push(module):
    torch._foreach_add_(module.trained(), 1e-3)


class Noise(Callback):
    def on_train_batch_end(self, trainer, pl_module, *_):
        push(pl_module)


class WrittenByCallback(Automatic):
    """A user's callback writes weights after the step."""

    def others(self):
        return [Noise()]


class WrittenByModule(Automatic):
    """The module writes weights after the step, later than every callback."""

    def on_train_batch_end(self, *arguments):
        super().on_train_batch_end(*arguments)
        push(self)


class Cleared(Automatic):
    """Gradients are cleared right after the step, so that nobody finds them at the batch's end."""

    latest_refusal = 1  # it shows at the first batch's end

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
        optimizer.step(closure=optimizer_closure)
        optimizer.zero_grad(set_to_none=False)


LOOPS: dict[str, type[Automatic]] = {
    "automatic": Automatic,
    "manual": Manual,
    "two optimizers": TwoOptimizers,
    "closure run twice": Closure,
    "LBFGS": Lbfgs,
    "exception, and again": BrokenOff,
    "optimizer renewed": Renewed,
    "parameters replaced": Assigned,
    "schedule-free": ScheduleFree,
    "written by a callback": WrittenByCallback,
    "written by the module": WrittenByModule,
    "gradients cleared": Cleared,
}
