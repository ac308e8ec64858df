"""By what children of one checkpoint differ: all that a seed changes, a part of it, or one change of their weights."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from lightning_lottery.checks import check_word
from lightning_lottery.children.options import NoiseOptions
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.counters import mix64
from lightning_lottery.functional.perturbation import Perturbation, gaussian_noise, weight_change
from lightning_lottery.hooks.mask_callback import MaskCallback
from lightning_lottery.hooks.ordering import Order, ordered
from lightning_lottery.hooks.scoring import loss_in, state_of, training_batches, untouched, with_state
from lightning_lottery.hooks.strategies import refuse_sharding
from lightning_lottery.scope import Scope, named_parameters

Noise = Literal["seed", "order", "augmentation"] | Perturbation | None
"""By what children differ; None is ``"seed"``."""

WORDS = {"seed": "SGD noise", "order": "data order", "augmentation": "augmentation and dropout"}
"""What sentences call it."""


def check_noise(noise: Any) -> None:
    """Refuse what is no noise.

    Raises:
        LotteryError: It is none.
    """
    if noise is not None and not isinstance(noise, Perturbation):
        if not isinstance(noise, str):
            raise LotteryError(f"`noise` is a word or a Perturbation, got {noise!r}.")
        check_word("noise", noise, tuple(WORDS))


def noise_in_words(noise: Noise) -> str:
    """What a verdict is about, as in "stable to data order".

    Example:
        >>> noise_in_words("order"), noise_in_words(None)
        ('data order', 'SGD noise')
    """
    return str(noise) if isinstance(noise, Perturbation) else WORDS[noise or "seed"]


def seeds_of_child(noise: Noise, seed: int, shared: int) -> tuple[int, NoiseOptions | None]:
    """Under which seed a child is built and trained, and what it needs to know beside.

    Args:
        noise: By what the children differ.
        seed: The child's.
        shared: The first child's, for all that they share.
    """
    if isinstance(noise, Perturbation):
        return shared, NoiseOptions(perturbation=noise, perturbation_seed=seed)
    if noise == "order":
        return shared, NoiseOptions(order_seed=seed)
    return seed, NoiseOptions(order_seed=shared) if noise == "augmentation" else None


def callbacks_of(noise: NoiseOptions | None, *, resumed: bool) -> list[Callback]:
    """What makes the noise in a fit; a resumed one has its perturbation behind it."""
    if noise is None:
        return []
    order = [] if noise.order_seed is None else [Order(noise.order_seed)]
    if noise.perturbation is None or noise.perturbation_seed is None or resumed:
        return [*order]
    return [*order, Perturbs(noise.perturbation, noise.perturbation_seed)]


class Perturbs(Callback):
    """Changes the weights once: after the checkpoint that a fit begins with, before its first step.

    The scale of the initialisation is each tensor's standard deviation in the module as it was built, before the
    checkpoint is loaded; of a pretrained network it is that of the pretrained weights. Removed weights stay zero.
    Optimizers and averages go on from the checkpoint's state.

    Args:
        perturbation: The change.
        seed: Of its draws: Gaussian entries, places, or the batch, which is the first one of the order that a ``noise``
            of ``"order"`` would give a child of this seed.
    """

    def __init__(self, perturbation: Perturbation, seed: int) -> None:
        self.perturbation, self.seed = perturbation, seed
        self._scales: dict[str, float] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note the scales in the last hook before Lightning loads the checkpoint: all layers are there by then."""
        if stage != "fit":
            return
        refuse_sharding(trainer, "A perturbation")
        load = pl_module.on_load_checkpoint

        def note_scales(checkpoint: dict[str, Any]) -> None:
            del vars(pl_module)["on_load_checkpoint"]
            self._scales = _scales_of(pl_module)
            load(checkpoint)

        vars(pl_module)["on_load_checkpoint"] = note_scales

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Change the weights, once all that must be alike was written down."""
        vars(pl_module).pop("on_load_checkpoint", None)  # of a fit that begins as built
        if self.perturbation.sigma == 0:
            return
        trained = [p for optimizer in trainer.optimizers for group in optimizer.param_groups for p in group["params"]]
        params = (self.perturbation.scope or Scope()).select(pl_module, trained)
        scales = _scales_of(pl_module) if self._scales is None else self._scales
        if self.perturbation.direction == "gaussian":
            direction = gaussian_noise(scales, params, mix64(self.seed))
        else:
            direction = _gradient(trainer, params, self.seed)
        change = weight_change(self.perturbation, direction, _masks_in(trainer), scales, mix64(self.seed, 1))
        self._apply_(params, change)

    def _apply_(self, params: Mapping[str, nn.Parameter], change: Mapping[str, Tensor]) -> None:
        is_changed = False
        with torch.no_grad():
            for name, param in params.items():
                added = change[name].to(param.device)
                changed = torch.where(added != 0, (param + added).to(param.dtype), param)
                is_changed = is_changed or not torch.equal(changed, param)
                param.copy_(changed)
        if not is_changed:
            dtypes = ", ".join(sorted({str(param.dtype).removeprefix("torch.") for param in params.values()}))
            raise LotteryError(
                f"`sigma` {self.perturbation.sigma:g} is too small to change any weight in {dtypes}: take a larger "
                "one; 0 is the null control."
            )


def _scales_of(module: LightningModule) -> dict[str, float]:
    """Standard deviation of each tensor, in float64: 0 where all entries are equal."""
    with torch.no_grad():
        return {
            name: float(param.detach().double().std(correction=0))
            if param.is_floating_point() and param.numel()
            else 0.0
            for name, param in named_parameters(module).items()
            if not isinstance(param, nn.parameter.UninitializedParameter)
        }


def _masks_in(trainer: Trainer) -> dict[str, Tensor]:
    """What each parameter keeps under the masks of all callbacks of a fit."""
    masks: dict[str, Tensor] = {}
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, MaskCallback):
            for name, mask in callback.masks.items():
                masks[name] = masks[name] & mask if name in masks else mask
    return masks


def _gradient(trainer: Trainer, params: Mapping[str, nn.Parameter], seed: int) -> dict[str, Tensor]:
    """The gradient of the training loss on one batch, in the modes that the module trains in; the mean over ranks."""
    who = "A perturbation along the gradient"
    if not trainer.lightning_module.automatic_optimization:
        raise LotteryError(
            f"{who} needs the loss alone, and a `training_step` in manual optimization steps the optimizers itself: "
            "take a Gaussian one."
        )

    def in_order_of_the_child(loader: Any) -> Any:
        return ordered(loader, seed, lambda: trainer.current_epoch, trainer.global_rank)

    with untouched(trainer, None) as module:
        torch.manual_seed(mix64(seed, trainer.global_rank, 2))
        state = state_of(module, torch.float32)
        (arguments,) = training_batches(trainer, 1, in_order_of_the_child)
        step: Callable[..., Any] = with_state(module, "training_step", None)
        loss = loss_in(step(state, *arguments.values()), who)
        gradients = torch.autograd.grad(loss, [state[name] for name in params], allow_unused=True)
    summed = {
        name: torch.zeros_like(param, dtype=torch.float32) if gradient is None else gradient
        for (name, param), gradient in zip(params.items(), gradients, strict=True)
    }
    for gradient in summed.values() if trainer.world_size > 1 else ():
        torch.distributed.all_reduce(gradient)
    return summed  # of several ranks the sum: only its direction counts
