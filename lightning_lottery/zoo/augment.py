"""Augmentation of a batch at once, with randomness from a generator only."""

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_lottery.functional.shares import share


def crop_flip_jitter(
    images: Tensor,
    generator: torch.Generator,
    *,
    crop: float = 24 / 32,
    flip: float = 0.5,
    jitter: float = 0.2,
    hue: float = 0.0,
) -> Tensor:
    """A random view of every image: crop and resize back, flip left to right, jitter the colours.

    Each image gets draws of its own: a crop of ``crop`` times the side at a whole pixel, resized back bilinearly; a
    flip; then brightness, contrast and saturation, each by a factor uniform in [1 − jitter, 1 + jitter], in this order
    and clamped after each; last the hue, turned by a share of the circle uniform in [−hue, hue].

    Args:
        images: (B, C, H, W), float in [0, 1].
        generator: The only source of randomness.
        crop: Side of the crop as a fraction of the side, (0, 1].
        flip: Probability of a flip, [0, 1].
        jitter: Half width of the interval of the colour factors, [0, 1]; 0 leaves them alone.
        hue: The most that the hue is turned by, in turns, [0, 0.5]; default 0, for it costs as much as all the rest.
            Only images of three channels have one.

    Returns:
        New images of the same shape, in [0, 1].

    Example:
        >>> crop_flip_jitter(torch.rand(2, 3, 32, 32), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3, 32, 32])

    Source: the augmentation of the ViT case study; differs from torchvision's transforms in the fixed order of the
    colour jitter, and in that the outermost eighth of a pixel of a crop also sees the pixel beside it.
    """
    views = _crop_and_flip(images, generator, crop, flip)
    if jitter:
        views = _jitter_colours(views, generator, jitter)
    return _turn_hue(views, generator, hue) if hue and images.shape[1] == 3 else views


def _crop_and_flip(images: Tensor, generator: torch.Generator, crop: float, flip: float) -> Tensor:
    """One affine map per image: x_in = scale·x_out + shift, in coordinates where the image is [−1, 1]²."""
    batch, _, height, width = images.shape
    theta = torch.zeros(batch, 2, 3, device=images.device, dtype=images.dtype)
    for axis, side in enumerate((width, height)):
        crop_side = max(1, round(share(crop, side)))
        offset = torch.randint(side - crop_side + 1, (batch,), generator=generator).to(theta)
        theta[:, axis, axis] = crop_side / side
        theta[:, axis, 2] = (2 * offset + crop_side) / side - 1
    flipped = (torch.rand(batch, generator=generator) < flip).to(images.device)
    theta[flipped, 0, 0] *= -1
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False).clamp_(0, 1)


def _jitter_colours(images: Tensor, generator: torch.Generator, jitter: float) -> Tensor:
    draws = 1 + jitter * (2 * torch.rand(3, len(images), 1, 1, 1, generator=generator) - 1)
    brightness, contrast, saturation = draws.to(images)
    images = (images * brightness).clamp_(0, 1)
    mean_grey = _grey(images).mean(dim=(2, 3), keepdim=True)
    images = torch.lerp(mean_grey, images, contrast).clamp_(0, 1)
    return torch.lerp(_grey(images), images, saturation).clamp_(0, 1) if images.shape[1] == 3 else images


def _turn_hue(images: Tensor, generator: torch.Generator, hue: float) -> Tensor:
    """Through HSV: value and saturation stay, each image's hue is turned by a draw of its own."""
    turns = hue * (2 * torch.rand(len(images), 1, 1, generator=generator) - 1).to(images)
    value, brightest = images.max(dim=1)
    chroma = value - images.amin(dim=1)
    # Of six parts of the circle: red, green and blue stand at 0, 2 and 4, between them the next two channels decide.
    rolled = [images.roll(-shift, dims=1).gather(1, brightest[:, None])[:, 0] for shift in (1, 2)]
    sector = 2 * brightest + (rolled[0] - rolled[1]) / chroma.clamp(min=torch.finfo(images.dtype).tiny)
    channels = torch.tensor([5.0, 3.0, 1.0]).to(images).view(1, 3, 1, 1)
    sixth = (channels + (sector + 6 * turns)[:, None]) % 6
    # Smith 1978: how far each channel lies below the brightest.
    return value[:, None] - chroma[:, None] * torch.minimum(sixth, 4 - sixth).clamp_(0, 1)


def _grey(images: Tensor) -> Tensor:
    """The luma of ITU-R 601 for three channels, else the mean of the channels, (B, 1, H, W)."""
    if images.shape[1] != 3:
        return images.mean(dim=1, keepdim=True)
    weights = images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (images * weights).sum(dim=1, keepdim=True)
