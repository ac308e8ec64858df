"""Is a series stationary? Norms of masks, moving averages, and the tests of a slope, a trend, a unit root."""

import math
import warnings
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.masks import Masks

Series = NDArray[np.float64]

_RESAMPLES = 999


def layers_by_units(masks: Masks) -> Tensor:
    """Unit masks of several layers as the rows of one bool matrix; shorter layers are filled up with False.

    Args:
        masks: Name to bool tensor ``[..., units]``: one layer each, equal in all but the last dimension.

    Returns:
        Bool tensor ``[..., layers, units of the widest layer]``.

    Raises:
        LotteryError: No layer, or one that is not bool or has no dimension.

    Example:
        >>> layers_by_units({"a": torch.tensor([True, True]), "b": torch.tensor([True])})
        tensor([[ True,  True],
                [ True, False]])
    """
    if odd := [name for name, mask in masks.items() if mask.dtype != torch.bool or mask.ndim == 0]:
        raise LotteryError(f"Unit masks are bool tensors with one entry a unit; not so: {', '.join(odd)}.")
    if not masks:
        raise LotteryError("There is no layer to make a matrix of: `masks` is empty.")
    widest = max(mask.shape[-1] for mask in masks.values())
    filled = [torch.nn.functional.pad(mask, (0, widest - mask.shape[-1])) for mask in masks.values()]
    return torch.stack(filled, dim=-2)


def nuclear_norm(matrix: Tensor) -> Tensor:
    """Sum of the singular values of bool matrices: how many directions the layers' masks have, and how strong they are.

    Through the eigenvalues of the small Gram matrix, whose entries are counts and so exact; eigenvalues that are
    rounding noise (repeated rows) count as 0. Only the Gram matrices leave the device, all of a batch together.

    Args:
        matrix: Bool tensor ``[..., layers, units]``.

    Returns:
        float64 tensor ``[...]`` on the CPU, within about 1e-7 of its exact value, relatively.

    Raises:
        LotteryError: Not a bool matrix.

    Example:
        >>> nuclear_norm(torch.tensor([[True, False], [False, True]]))
        tensor(2., dtype=torch.float64)

    Source: the ViT case study of early-bird tickets.
    """
    if matrix.dtype != torch.bool or matrix.ndim < 2:
        raise LotteryError(f"The nuclear norm is of bool matrices, got {matrix.dtype} of {tuple(matrix.shape)}.")
    rows = matrix if matrix.shape[-2] <= matrix.shape[-1] else matrix.mT
    with torch.autocast(matrix.device.type, enabled=False):
        gram = (rows.float() @ rows.float().mT).cpu().double()
    # A Gram matrix squares what is small: an eigenvalue of 1e-16 would add 1e-8 to the norm. Hence the bound for noise.
    squares = torch.linalg.eigvalsh(gram)
    noise = squares.amax(-1, keepdim=True) * (squares.shape[-1] * torch.finfo(torch.float64).eps)
    return torch.where(squares > noise, squares, 0.0).sqrt().sum(-1)


def moving_average(series: Series, length: int) -> Series:
    """Mean of every ``length`` values in a row: ``len(series) - length + 1`` of them, float64.

    Each comes from the exact sum, so that averages of the same values are equal on every processor: trend tests count
    ties.

    Raises:
        LotteryError: ``length`` below 1 or above that of the series.

    Example:
        >>> moving_average(np.array([1.0, 3.0, 5.0]), 2)
        array([2., 4.])

    Source: the case study's notebook, but for the last bit: there the processor's rounding decides between averages
    that should be equal, and with it a little of Mann and Kendall's p-value.
    """
    if not 1 <= length <= len(series):
        raise LotteryError(f"Cannot average {length} values in a row of a series of {len(series)}.")
    values = np.asarray(series, dtype=np.float64).tolist()
    return np.array([math.fsum(values[i : i + length]) / length for i in range(len(values) - length + 1)])


def slope_hac(series: Series, lags: int) -> tuple[float, float]:
    """Least-squares slope per step and its two-sided p-value, robust to autocorrelation over ``lags``.

    Source: Newey & West 1987: Bartlett kernel, normal p-value, no small-sample correction.
    """
    from statsmodels.regression.linear_model import OLS

    regressors = np.column_stack([np.ones(len(series)), np.arange(len(series))])
    kernel = {"maxlags": lags, "use_correction": False}
    with np.errstate(divide="ignore", invalid="ignore"):
        fit = OLS(series, regressors).fit(cov_type="HAC", cov_kwds=kernel)
        return float(fit.params[1]), float(fit.pvalues[1])


def mann_kendall(series: Series, variant: Literal["original", "hamed_rao"]) -> tuple[float, float]:
    """Mann and Kendall's z and its two-sided p-value, with the variance of independent values or Hamed and Rao's."""
    import pymannkendall

    test = pymannkendall.hamed_rao_modification_test if variant == "hamed_rao" else pymannkendall.original_test
    with np.errstate(divide="ignore", invalid="ignore"):
        result = test(series)
    return float(result.z), float(result.p)


def adf(series: Series) -> tuple[float, float, int]:
    """Dickey and Fuller's augmented statistic with a constant, its p-value, and the lags of the best AIC."""
    from statsmodels.tsa.stattools import adfuller

    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of windows without noise, and that releases after 0.15 return no tuple
        result = adfuller(series, regression="c", autolag="AIC")
    as_tuple = result[:3] if isinstance(result, tuple) else (result.statistic, result.pvalue, result.lags)
    statistic, p_value, lags = as_tuple
    return float(statistic), float(p_value), int(lags)


def slope_equivalence(series: Series, margin: float, block: int, seed: int) -> tuple[float, float]:
    """Least-squares slope, and the larger p-value of ``slope >= margin`` and ``slope <= -margin``.

    Their distribution is that of the studentised slope in series resampled from the residuals in circular blocks.

    Args:
        series: A whole number of blocks.
        margin: Largest slope that counts as flat.
        block: Values in a block.
        seed: Seed of the resampling.
    """
    slope, error, ratios = _studentised(series, block, seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Negated, so that what is no number speaks against the claim.
        steeper_down = ~(ratios > (slope - margin) / error)
        steeper_up = ~(ratios < (slope + margin) / error)
    return float(slope), float((1 + max(steeper_down.sum(), steeper_up.sum())) / (1 + _RESAMPLES))


def least_margin(series: Series, p: float, block: int, seed: int) -> float:
    """The margin above which ``slope_equivalence`` has a p-value below ``p``, and at which it has not.

    That is the end of the slope's confidence interval of level ``1 - 2p`` that lies further from 0: ``|slope| + t se``
    where the resampled distribution is symmetric.

    Args:
        series: A whole number of blocks.
        p: Level of each of the two tests, in (0, 0.5).
        block: Values in a block.
        seed: Seed of the resampling.

    Returns:
        A slope per step, >= 0; infinite where no margin has such a p-value.

    Example:
        >>> series = 23 + 0.001 * np.arange(400) + np.random.default_rng(0).normal(size=400)
        >>> least = least_margin(series, 0.05, block=100, seed=0)
        >>> [slope_equivalence(series, margin, 100, 0)[1] < 0.05 for margin in (0.999 * least, 1.001 * least)]
        [False, True]
    """
    slope, error, ratios = _studentised(series, block, seed)
    # The most ratios that may speak against the claim while the p-value stays below p.
    against = np.count_nonzero((1 + np.arange(_RESAMPLES)) / (1 + _RESAMPLES) < p) - 1
    if against < 0:
        return math.inf
    # What is no number speaks against it at either end, as above.
    lowest = np.sort(np.where(np.isnan(ratios), -np.inf, ratios))[against]
    highest = np.sort(np.where(np.isnan(ratios), np.inf, ratios))[-1 - against]
    with np.errstate(invalid="ignore"):
        least = np.maximum(slope - error * lowest, error * highest - slope)
    return math.inf if np.isnan(least) else float(least)


def _studentised(series: Series, block: int, seed: int) -> tuple[np.float64, np.float64, Series]:
    """Least-squares slope, its standard error by blocks, and their ratio in series that are flat but for chance."""
    time = np.arange(len(series), dtype=np.float64).reshape(-1, block)  # blocks x block
    time -= time.mean()
    slope = series @ time.ravel() / np.square(time).sum()
    residuals = series - series.mean() - slope * time.ravel()
    error = np.sqrt(np.square((residuals.reshape(time.shape) * time).sum(1)).sum()) / np.square(time).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        return slope, error, _resampled_ratios(residuals, time, seed)


def _resampled_ratios(residuals: Series, time: Series, seed: int) -> Series:
    """Slope over its error, as above, of series of blocks that begin anywhere and run on around the end."""
    n, block, squares = len(residuals), time.shape[1], np.square(time).sum(1)
    # Row s is the block that begins at s; the last ones run on at the beginning. For n = 4 and blocks of 2:
    #   0 1 | 1 2 | 2 3 | 3 0
    pieces = residuals[(np.arange(n)[:, None] + np.arange(block)) % n]
    starts = np.random.default_rng(seed).integers(n, size=(_RESAMPLES, len(time)))
    moments = (pieces @ time.T)[starts, np.arange(len(time))]  # resamples x blocks
    means = pieces.sum(1)[starts].sum(1, keepdims=True) / n
    slopes = moments.sum(1, keepdims=True) / squares.sum()
    # The new series' own mean and slope are taken out again, block by block, as they are from the series itself.
    sums = moments - means * time.sum(1) - slopes * squares
    return np.asarray(slopes[:, 0] * squares.sum() / np.sqrt(np.square(sums).sum(1)))
