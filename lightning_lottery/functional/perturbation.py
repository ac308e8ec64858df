"""One small change of a network's weights, in units of the scale that they were initialised with."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lightning_lottery.checks import check_fraction, check_word, is_number
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.shares import share as share_of
from lightning_lottery.scope import Scope


@dataclass(frozen=True)
class Perturbation:
    """A change of weights that is made once: Gaussian, or along the gradient of the training loss on one batch.

    With ``s`` the standard deviation that a tensor was initialised with, and ``n`` its kept entries in scope, the whole
    change has the length ``sigma * sqrt(sum(s^2 n))``: at 1, as far as initial weights lie from their mean. Gaussian
    entries are drawn in proportion to ``s``; a gradient keeps its direction, uphill. Where only a share of the weights
    is changed, these are changed as much as they were in a change of all.

    Args:
        sigma: Length of the change, in lengths of the initialisation, >= 0; 0 changes nothing: the null control.
        direction: ``"gaussian"``, or ``"gradient"`` of one batch.
        share: Fraction of the kept weights in scope that are changed, at random places, in (0, 1]; at least one weight.
        scope: Which weights may be changed; default: the weights of linear and convolution layers.

    Raises:
        LotteryError: An argument out of its range.

    Example:
        >>> str(Perturbation(0.1, share=0.01))
        "a Gaussian perturbation of 1 % of the weights by 0.1 times the initialisation's scale"

    Source: Altıntaş et al. 2025, "The Butterfly Effect: Neural network training trajectories are highly sensitive to
    initial conditions". Biases and norms can be changed by ``scope``; those that are initialised to a constant, which
    has no scale, get no Gaussian noise here, and that of the layer behind them there.
    """

    sigma: float
    direction: Literal["gaussian", "gradient"] = "gaussian"
    share: float = 1.0
    scope: Scope | None = None

    def __post_init__(self) -> None:
        if not is_number(self.sigma) or not 0 <= self.sigma < math.inf:  # NaN fails both
            raise LotteryError(
                f"`sigma` is the length of a perturbation in lengths of the initialisation, >= 0, got {self.sigma!r}."
            )
        check_word("direction", self.direction, ("gaussian", "gradient"))
        check_fraction("share", self.share, "the fraction of the weights that is perturbed", zero=False, one=True)
        if self.scope is not None and not isinstance(self.scope, Scope):
            raise LotteryError(f"`scope` of a Perturbation is a Scope, got {self.scope!r}.")

    def __str__(self) -> str:
        """In words, as sentences and pictures say it."""
        kind = "a Gaussian perturbation" if self.direction == "gaussian" else "a perturbation along the gradient"
        weights = "" if self.share == 1 else f" {100 * self.share:g} % of the weights by"
        return f"{kind} of{weights} {self.sigma:g} times the initialisation's scale"


def gaussian_noise(scales: Mapping[str, float], like: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Independent Gaussian entries with each tensor's own standard deviation: a direction for ``weight_change``.

    Args:
        scales: Standard deviation of each tensor.
        like: Tensors whose shapes are drawn.
        seed: Of the draws.

    Returns:
        Name to float32 tensor on the CPU, the same on every device and rank.
    """
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(tensor.shape, generator=generator) * scales[name] for name, tensor in like.items()}


def weight_change(
    perturbation: Perturbation,
    direction: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    scales: Mapping[str, float],
    seed: int,
) -> dict[str, Tensor]:
    """What a perturbation adds to each weight.

    Args:
        perturbation: Its length, and the share of weights that it changes.
        direction: Name to tensor.
        masks: Name to what of it is kept, of its shape; removed weights are not changed. All are kept of what is not
            named.
        scales: Standard deviation of each tensor when it was initialised, >= 0.
        seed: Of the places of a share.

    Returns:
        Name to float32 tensor on the CPU.

    Raises:
        LotteryError: Nothing was initialised with a scale, nothing is kept, or the direction is zero or not finite.

    Example:
        >>> weight_change(Perturbation(0.5), {"w": torch.tensor([3.0, 4.0])}, {}, {"w": 1.0}, 0)["w"].norm()
        tensor(0.7071)

    Source: Altıntaş et al. 2025, equation 6; of a share the rest is zeroed after the length was set, as there.
    """
    kept = {
        name: masks[name].cpu() if name in masks else torch.ones(d.shape, dtype=torch.bool)
        for name, d in direction.items()
    }
    change = {name: torch.where(kept[name], d.detach().cpu().float(), 0.0) for name, d in direction.items()}
    length = math.sqrt(sum(scales[name] ** 2 * int(mask.sum()) for name, mask in kept.items()))
    norm = math.sqrt(sum(float(part.double().square().sum()) for part in change.values()))
    if not 0 < length < math.inf:
        raise LotteryError(
            "A perturbation is measured in the scale of the initialisation, and none of the weights in its scope that "
            "are kept was initialised at random: choose another `scope`."
        )
    if not 0 < norm < math.inf:
        raise LotteryError(
            f"There is no direction to perturb the weights in: the {perturbation.direction} is "
            f"{'zero' if norm == 0 else 'not finite'} on all of the scope."
        )
    change = {name: part * (perturbation.sigma * length / norm) for name, part in change.items()}
    return change if perturbation.share == 1 else _at_a_share(change, kept, perturbation.share, seed)


def _at_a_share(change: Mapping[str, Tensor], kept: Mapping[str, Tensor], share: float, seed: int) -> dict[str, Tensor]:
    """The change at a share of the kept entries of all tensors together, drawn without repetition; 0 at the rest."""
    total = sum(int(mask.sum()) for mask in kept.values())
    count = max(1, round(share_of(share, total)))
    chosen = torch.zeros(total, dtype=torch.bool)
    chosen[torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count]] = True
    parts = iter(torch.split(chosen, [int(mask.sum()) for mask in kept.values()]))
    at_share = {}
    for name, mask in kept.items():
        places = torch.zeros_like(mask)
        places[mask] = next(parts)
        at_share[name] = torch.where(places, change[name], 0.0)
    return at_share
