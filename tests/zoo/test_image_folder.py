import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_lottery.errors import LotteryError
from lightning_lottery.zoo import image_folder
from lightning_lottery.zoo.image_folder import read_image_folder

SHAPE = (3, 4, 5)


def write_image(path: Path, value: int, size: tuple[int, int] = (5, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), value, dtype=np.uint8)).save(path)


@pytest.fixture
def root(tmp_path):
    """Two classes; each image's value tells split, class and number."""
    for split, first in (("train", 0), ("test", 100)):
        for label, name in enumerate(("ant", "bee")):
            for number in range(3 - label):
                write_image(tmp_path / split / name / f"{number}.png", first + 10 * label + number)
    return tmp_path


def read(root: Path) -> dict[str, torch.Tensor]:
    return read_image_folder(root, "Insects", SHAPE, num_classes=2)


@pytest.fixture
def decoded(monkeypatch):
    """The titles of what was decoded, in order."""
    titles: list[str] = []
    decode = image_folder._decode
    monkeypatch.setattr(image_folder, "_decode", lambda *a: titles.append(a[2]) or decode(*a))
    return titles


def test_images_come_out_with_the_label_of_their_folder(root):
    stored = read(root)
    assert stored["train_images"].dtype == torch.uint8
    assert stored["train_images"].shape == (5, *SHAPE)
    assert stored["train_images"][:, 0, 0, 0].tolist() == [0, 1, 2, 10, 11]
    assert stored["train_labels"].tolist() == [0, 0, 0, 1, 1]
    assert stored["test_images"][:, 0, 0, 0].tolist() == [100, 101, 102, 110, 111]
    assert stored["test_labels"].dtype == torch.int64


def test_one_channel_is_read_as_grey(root):
    stored = read_image_folder(root, "Insects", (1, 4, 5), num_classes=2)
    assert stored["train_images"].shape == (5, 1, 4, 5)


def test_the_second_reading_is_equal_and_decodes_nothing(root, decoded):
    first, second = read(root), read(root)
    assert decoded == ["Insects train", "Insects test"]
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert sorted(path.name for path in root.iterdir()) == ["Insects-uint8.safetensors", "test", "train"]


def test_a_file_that_came_went_or_changed_its_size_is_decoded_again(root, decoded):
    read(root)
    write_image(root / "train" / "ant" / "3.png", 77)
    assert 77 in read(root)["train_images"]
    (root / "train" / "ant" / "3.png").unlink()
    assert 77 not in read(root)["train_images"]
    (root / "test" / "bee" / "0.png").rename(root / "test" / "bee" / "9.png")
    read(root)
    assert len(decoded) == 8


def test_a_truncated_cache_is_decoded_again(root, decoded):
    first = read(root)
    cache = root / "Insects-uint8.safetensors"
    cache.write_bytes(cache.read_bytes()[:100])
    assert torch.equal(read(root)["train_images"], first["train_images"])
    assert len(decoded) == 4


def test_a_cache_that_cannot_be_written_is_done_without_and_leaves_nothing_behind(root, decoded, monkeypatch):
    def refuse(*_):
        raise OSError("read-only file system")

    monkeypatch.setattr(os, "replace", refuse)
    for _ in range(2):
        with pytest.warns(UserWarning, match="cannot be written"):
            assert len(read(root)["train_images"]) == 5
    assert len(decoded) == 4
    assert sorted(path.name for path in root.iterdir()) == ["test", "train"]


def test_the_cache_can_be_read_by_whoever_may_read_a_new_file(root):
    read(root)
    (root / "new").touch()
    assert (root / "Insects-uint8.safetensors").stat().st_mode == (root / "new").stat().st_mode


def test_other_files_are_not_images(root):
    (root / "train" / "ant" / "notes.txt").write_text("none")
    (root / "train" / "ant" / "._0.png").write_text("none")
    (root / "train" / "README").write_text("none")
    assert len(read(root)["train_images"]) == 5


def test_a_missing_half_is_named(root):
    (root / "test").rename(root / "tests")
    with pytest.raises(LotteryError, match="test is missing"):
        read(root)


def test_a_class_without_images_is_named(root):
    for file in (root / "test" / "bee").iterdir():
        file.unlink()
    with pytest.raises(LotteryError, match="bee holds no"):
        read(root)


def test_classes_that_are_too_many_or_differ_between_the_halves_are_shown(root):
    (root / "test" / "bee").rename(root / "test" / "cow")
    with pytest.raises(LotteryError, match="cow"):
        read(root)
    with pytest.raises(LotteryError, match="same 3 class folders"):
        read_image_folder(root, "Insects", SHAPE, num_classes=3)


def test_an_image_of_another_size_or_a_broken_one_is_named(root):
    write_image(root / "train" / "bee" / "1.png", 0, size=(6, 6))
    with pytest.raises(LotteryError, match=r"1\.png is \(6, 6\).*\(4, 5\)"):
        read(root)
    (root / "train" / "bee" / "1.png").write_bytes(b"no image")
    with pytest.raises(LotteryError, match=r"1\.png cannot be read"):
        read(root)
