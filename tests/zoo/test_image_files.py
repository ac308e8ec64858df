from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.image_folders import write_images
from lightning_lottery.errors import LotteryError
from lightning_lottery.zoo import ImageFolder


def batches(data: ImageFolder, split: str) -> list:
    return list(getattr(data, f"{split}_dataloader")())


@pytest.fixture
def root(tmp_path):
    return write_images(tmp_path, ("train", "val"))


def test_images_are_served_in_one_size_with_the_label_of_their_folder(root):
    data = ImageFolder(root, 3, image_size=16, num_workers=0, val_fraction=0.25)
    sizes = {}
    for split in ("train", "val", "test"):
        served = batches(data, split)
        images, labels = (torch.cat(parts) for parts in zip(*served, strict=True))
        assert images.shape[1:] == (3, 16, 16) and images.dtype == torch.float32
        assert images.min() >= 0 and images.max() <= 1
        assert torch.equal(images[:, 0].mean((1, 2)) > images[:, 2].mean((1, 2)), labels == 1)
        sizes[split] = len(labels)
    assert sizes == {"train": 6, "val": 2, "test": 8} and data.num_classes == 2


def test_val_is_for_validation_where_there_is_a_test_folder(tmp_path):
    data = ImageFolder(write_images(tmp_path, ("train", "val", "test")), 8, image_size=8, num_workers=0)
    assert [len(data.samples(split)[1]) for split in ("train", "val", "test")] == [8, 8, 8]
    numbers = torch.cat([data.samples(split)[0] for split in ("train", "val", "test")])
    assert [data._paths[number].parts[-3] for number in numbers] == ["train"] * 8 + ["val"] * 8 + ["test"] * 8


def test_the_middle_is_served_to_evaluate_and_random_crops_to_train_also_by_workers(root):
    def first(split: str, **arguments) -> torch.Tensor:
        data = ImageFolder(root, 4, image_size=16, val_fraction=0.25, **({"num_workers": 0, "seed": 1} | arguments))
        return torch.cat([images for images, _ in batches(data, split)])

    assert torch.equal(first("train"), first("train", num_workers=2))
    assert not torch.equal(first("train"), first("train", seed=2))
    assert torch.equal(first("test"), first("test", seed=2))
    assert not torch.equal(first("train"), first("train", jitter=0.4, hue=0.1))
    assert torch.equal(first("test"), first("test", jitter=0.4, hue=0.1))
    with Image.open(Path(root) / "val" / "ant" / "0.png") as file:  # 20 high, 24 wide: 18 is eight sevenths of 16
        whole = np.asarray(file.resize((21, 18), Image.Resampling.BILINEAR)) / 255
    middle = torch.from_numpy(whole[1:17, 2:18]).permute(2, 0, 1).float()
    assert min((image - middle).abs().max() for image in first("test")) < 0.02


def test_global_random_numbers_are_left_alone(root):
    before = torch.get_rng_state()
    batches(ImageFolder(root, 4, image_size=8, num_workers=0, val_fraction=0.25), "train")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"image_size": 0}, "image_size"),
        ({"num_workers": -1}, "num_workers"),
        ({"jitter": 1.1}, "jitter"),
        ({"hue": 0.6}, "hue"),
        ({"val_fraction": 0.0}, "val_fraction"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_arguments_out_of_range_are_refused_when_built(arguments, reason):
    with pytest.raises(LotteryError, match=reason):
        ImageFolder(**arguments)


def test_folders_that_are_missing_or_differ_and_broken_images_are_refused_by_name(root):
    path = Path(root)
    with pytest.raises(LotteryError, match=r"ImageFolder is at .*none as folders, but .*train is missing"):
        ImageFolder(str(path / "none")).samples("train")
    (path / "val" / "bee").rename(path / "val" / "wasp")
    with pytest.raises(LotteryError, match="the same class folders in .*train and .*val, .*bee and ant, wasp"):
        ImageFolder(root).samples("train")
    (path / "val" / "wasp").rename(path / "val" / "bee")
    (path / "val" / "bee" / "0.png").write_bytes(b"no image")
    for workers in (0, 1):
        with pytest.raises(LotteryError, match="^[^\n]*0.png cannot be read as an image: remove or replace it.$"):
            batches(ImageFolder(root, num_workers=workers, val_fraction=0.25), "test")
