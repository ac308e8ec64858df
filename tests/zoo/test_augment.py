import pytest
import torch

from lightning_lottery.zoo import crop_flip_jitter


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ramp(batch: int, channels: int = 3, side: int = 32) -> torch.Tensor:
    """Images that rise from left to right and, less, from top to bottom."""
    x = torch.linspace(0.1, 0.7, side)
    return (x + x[:, None] / 4).expand(batch, channels, side, side).contiguous()


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 1, 8, 8), (2, 3, 32, 32), (2, 3, 6, 10), (2, 4, 5, 5)])
def test_shape_and_range_stay(shape):
    images = torch.rand(shape, generator=seeded())
    views = crop_flip_jitter(images, seeded(1))
    assert views.shape == images.shape
    assert ((views >= 0) & (views <= 1)).all()


def test_the_input_is_left_as_it_was():
    images = ramp(4)
    crop_flip_jitter(images, seeded())
    assert torch.equal(images, ramp(4))


def test_nothing_is_changed_when_everything_is_switched_off():
    images = torch.rand(2, 3, 9, 7, generator=seeded())
    views = crop_flip_jitter(images, seeded(), crop=1.0, flip=0.0, jitter=0.0)
    torch.testing.assert_close(views, images, atol=1e-5, rtol=0)


def test_a_certain_flip_mirrors_left_and_right():
    images = torch.rand(2, 3, 9, 7, generator=seeded())
    views = crop_flip_jitter(images, seeded(), crop=1.0, flip=1.0, jitter=0.0)
    torch.testing.assert_close(views, images.flip(3), atol=1e-5, rtol=0)


def test_a_crop_is_one_of_the_crops_at_whole_pixels_resized_back():
    images = ramp(20, channels=1, side=8)
    views = crop_flip_jitter(images, seeded(), crop=0.75, flip=0.0, jitter=0.0)
    resize = dict(size=(8, 8), mode="bilinear", align_corners=False)
    candidates = [
        torch.nn.functional.interpolate(images[:1, :, top : top + 6, left : left + 6], **resize)
        for top in range(3)
        for left in range(3)
    ]
    inner = (..., slice(1, -1), slice(1, -1))  # the border also sees the pixels beside the crop
    corners = set()
    for view in views:
        distances = [(view[inner] - candidate[0][inner]).abs().max().item() for candidate in candidates]
        assert min(distances) < 1e-5
        corners.add(distances.index(min(distances)))
    assert len(corners) > 4


def test_each_image_gets_draws_of_its_own():
    views = crop_flip_jitter(ramp(16), seeded())
    assert len({tuple(view.flatten()[:50].tolist()) for view in views}) == 16


def test_about_half_of_the_images_are_flipped():
    views = crop_flip_jitter(ramp(400), seeded(), jitter=0.0)
    flipped = (views[:, 0, 16, 0] > views[:, 0, 16, -1]).float().mean().item()
    assert 0.4 < flipped < 0.6


def test_the_jitter_scales_a_grey_image_by_at_most_its_width():
    grey = torch.full((200, 3, 4, 4), 0.5)
    factors = crop_flip_jitter(grey, seeded(), crop=1.0, jitter=0.2)[:, 0, 0, 0] / 0.5
    assert 0.8 - 1e-5 <= factors.min() < 0.85
    assert 1.15 < factors.max() <= 1.2 + 1e-5


def test_the_jitter_leaves_a_single_channel_without_colour():
    images = ramp(4, channels=1)
    assert crop_flip_jitter(images, seeded()).shape[1] == 1


def test_the_generator_is_the_only_source_of_randomness():
    before = torch.get_rng_state()
    first, again = crop_flip_jitter(ramp(4), seeded(3)), crop_flip_jitter(ramp(4), seeded(3))
    assert torch.equal(first, again)
    assert not torch.equal(first, crop_flip_jitter(ramp(4), seeded(4)))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("hue", [0.1, 0.5])
def test_hue_is_turned_as_torchvision_turns_it_by_a_draw_for_each_image(hue):
    from torchvision.transforms.functional import adjust_hue

    images = torch.rand(6, 3, 9, 7, generator=seeded())
    images[0] = images[0, :1]  # grey: no hue
    images[1, :, :3], images[1, :, 3] = 0, 1  # black and white, beside colours
    plain = crop_flip_jitter(images, generator := seeded(1))
    draws = hue * (2 * torch.rand(6, generator=generator) - 1)
    expected = torch.stack([adjust_hue(image, float(draw)) for image, draw in zip(plain, draws, strict=True)])
    views = crop_flip_jitter(images, seeded(1), hue=hue)
    torch.testing.assert_close(views, expected, atol=1e-5, rtol=0)
    assert (views - plain).abs().max() > 0.05
    assert draws.unique().numel() == 6


def test_images_of_one_channel_have_no_hue():
    images = torch.rand(2, 1, 8, 8, generator=seeded())
    assert torch.equal(crop_flip_jitter(images, seeded(1)), crop_flip_jitter(images, seeded(1), hue=0.5))
