import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_lottery.errors import LotteryError
from lightning_lottery.zoo import CIFAR10, MNIST, Digits, FashionMNIST

SPLITS = ("train", "val", "test")


def as_set(samples) -> set[bytes]:
    return {image.numpy().tobytes() for image in samples[0]}


@pytest.fixture
def cifar_root(tmp_path):
    """Twelve training and three test images of each class, all different."""
    value = 0
    for split, count in (("train", 12), ("test", 3)):
        for label in range(10):
            folder = tmp_path / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                value += 1
                Image.fromarray(np.full((32, 32, 3), value, dtype=np.uint8)).save(folder / f"{number}.png")
    return str(tmp_path)


@pytest.mark.parametrize("data", [Digits, CIFAR10, FashionMNIST, MNIST])
@pytest.mark.parametrize("argument", ["batch_size", "limit"])
def test_a_count_smaller_than_one_is_refused_when_built(data, argument):
    with pytest.raises(LotteryError, match=argument):
        data(**{argument: 0})


@pytest.mark.parametrize("val_fraction", [0.0, 1.0, -0.1, float("nan")])
def test_a_val_fraction_outside_0_and_1_is_refused_when_built(val_fraction):
    with pytest.raises(LotteryError, match="val_fraction"):
        CIFAR10(val_fraction=val_fraction)


def test_digits_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(LotteryError, match=r"pip install lightning_lottery\[demo\]"):
        Digits().prepare_data()


def test_the_digits_are_split_60_20_20_with_every_class_in_each():
    data = Digits()
    counts = {split: len(data.samples(split)[1]) for split in SPLITS}
    assert counts == {"train": 1079, "val": 359, "test": 359}
    assert all(data.samples(split)[1].unique().tolist() == list(range(data.num_classes)) for split in SPLITS)


def test_the_digits_are_scikit_learns_scaled_to_all_of_uint8():
    from sklearn.datasets import load_digits

    data = Digits()
    images = torch.cat([data.samples(split)[0] for split in SPLITS])
    labels = torch.cat([data.samples(split)[1] for split in SPLITS])
    pixels, targets = load_digits(return_X_y=True)
    theirs = sorted(zip(pixels.astype(int).tolist(), targets.tolist(), strict=True))
    ours = sorted(zip((images.flatten(1).float() * 16 / 255).round().int().tolist(), labels.tolist(), strict=True))
    assert ours == theirs
    assert images.shape[1:] == data.shape
    assert (images.min(), images.max()) == (0, 255)


def test_the_split_does_not_depend_on_the_seed(cifar_root, monkeypatch):
    for seed in ("1", "2"):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        torch.manual_seed(int(seed))
        for ours, again in ((Digits(seed=int(seed)), Digits()), (CIFAR10(cifar_root, seed=3), CIFAR10(cifar_root))):
            for split in SPLITS:
                assert all(map(torch.equal, ours.samples(split), again.samples(split)))


def test_the_order_of_training_follows_the_run_s_seed_unless_one_is_given(monkeypatch):
    def order(**arguments):
        return [labels.tolist() for _, labels in Digits(**arguments).train_dataloader()]

    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    assert order() == order(seed=0)
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert order() == order(seed=7) != order(seed=0)


def test_a_folder_is_split_into_disjoint_parts_that_lose_nothing(cifar_root):
    data = CIFAR10(cifar_root, val_fraction=0.25)
    parts = [as_set(data.samples(split)) for split in SPLITS]
    assert [len(part) for part in parts] == [90, 30, 30]
    assert len(set.union(*parts)) == 150


def test_labels_stay_with_their_images_in_the_fixed_order(cifar_root):
    data = CIFAR10(cifar_root)
    for split in ("train", "val"):
        images, labels = data.samples(split)
        assert ((images[:, 0, 0, 0].long() - 1) // 12).tolist() == labels.tolist()
    assert data.samples("test")[1].tolist() != sorted(data.samples("test")[1].tolist())


def test_a_val_fraction_that_leaves_a_split_empty_is_refused_with_the_counts(cifar_root):
    with pytest.raises(LotteryError, match="120 for training and 0 for validation"):
        CIFAR10(cifar_root, val_fraction=0.001).prepare_data()


def test_limit_shortens_the_training_images_only(cifar_root):
    whole, short = CIFAR10(cifar_root), CIFAR10(cifar_root, limit=7)
    assert torch.equal(short.samples("train")[0], whole.samples("train")[0][:7])
    assert torch.equal(short.samples("val")[0], whole.samples("val")[0])
    assert len(CIFAR10(cifar_root, limit=10**6).samples("train")[0]) == 108


def test_images_are_floats_in_the_unit_interval():
    data = Digits(batch_size=359)
    ((images, labels),) = data.test_dataloader()
    assert images.dtype == torch.float32
    assert torch.equal((images * 255).round().to(torch.uint8), data.samples("test")[0])
    assert torch.equal(labels, data.samples("test")[1])
    assert (images.min(), images.max()) == (0, 1)


def test_only_training_batches_are_shuffled_and_augmented():
    plain, augmented = Digits(batch_size=1079, seed=3), Digits(batch_size=1079, seed=3, augment=True)
    ((images, labels),), ((views, labels_again),) = plain.train_dataloader(), augmented.train_dataloader()
    assert torch.equal(labels, labels_again)
    assert not torch.equal(labels, plain.samples("train")[1])
    assert sum(torch.equal(image, view) for image, view in zip(images, views, strict=True)) < 10
    for name in ("val_dataloader", "test_dataloader", "predict_dataloader"):
        ((images, labels),), ((images_again, _),) = getattr(plain, name)(), getattr(augmented, name)()
        assert torch.equal(images, images_again)
        assert torch.equal(labels, plain.samples("val" if name.startswith("val") else "test")[1])


def test_augmentation_is_crop_flip_jitter_of_the_floats(monkeypatch):
    monkeypatch.setattr("lightning_lottery.zoo.data.crop_flip_jitter", lambda images, generator, hue: -images)
    ((views, _),) = Digits(batch_size=2000, augment=True).train_dataloader()
    assert (views.min(), views.max()) == (-1, 0)


def test_the_loaders_take_the_part_of_their_rank():
    data = Digits(batch_size=8)
    labels = []
    for rank in range(2):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)
        labels += [label for _, batch in data.test_dataloader() for label in batch.tolist()]
    assert sorted(labels) == sorted(data.samples("test")[1].tolist())


def test_reading_happens_once(monkeypatch):
    data = Digits()
    data.prepare_data()
    monkeypatch.setattr(Digits, "_read", None)
    data.setup("fit")
    data.setup("test")
    assert len(data.val_dataloader()) > 0


@pytest.mark.parametrize("data", [CIFAR10, FashionMNIST, MNIST])
def test_data_that_is_missing_and_may_not_be_downloaded_is_refused(data, tmp_path):
    with pytest.raises(LotteryError, match=f"{data.name} is not in .*download is False"):
        data(str(tmp_path / "none"), download=False).prepare_data()


@pytest.mark.parametrize("data", [CIFAR10, FashionMNIST, MNIST])
def test_a_download_that_fails_is_one_sentence_that_names_the_data_and_the_folder(data, tmp_path, monkeypatch):
    def no_network(*_, **__):
        raise OSError("unreachable")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    with pytest.raises(LotteryError, match=f"{data.name} is not in .*download failed") as refusal:
        data(str(tmp_path)).prepare_data()
    assert str(tmp_path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("hue", "augment"), [(0.6, True), (-0.1, True), (0.1, False)])
def test_a_hue_out_of_its_range_or_without_augmentation_is_refused(hue, augment):
    with pytest.raises(LotteryError, match="hue"):
        CIFAR10(hue=hue, augment=augment)


def test_hue_is_turned_in_training_alone():
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    for split, differs in (("train", True), ("test", False)):
        views = [
            CIFAR10(augment=True, hue=hue)._prepare(split)(images, torch.Generator().manual_seed(0))
            for hue in (0.0, 0.2)
        ]
        assert (not torch.equal(*views)) == differs


@pytest.mark.parametrize("data", [FashionMNIST, MNIST])
def test_torchvision_s_files_are_read_as_they_are(data, tmp_path):
    raw = tmp_path / data.name / "raw"
    raw.mkdir(parents=True)
    for split, count in (("train", 20), ("t10k", 5)):
        pixels = np.arange(count, dtype=np.uint8).repeat(28 * 28).tobytes()
        header = b"".join(number.to_bytes(4, "big") for number in (0x803, count, 28, 28))
        (raw / f"{split}-images-idx3-ubyte").write_bytes(header + pixels)
        labels = bytes(number % 10 for number in range(count))
        (raw / f"{split}-labels-idx1-ubyte").write_bytes((0x801).to_bytes(4, "big") + count.to_bytes(4, "big") + labels)
    data = data(str(tmp_path), download=False)
    for split, count in (("train", 18), ("val", 2), ("test", 5)):
        images, labels = data.samples(split)
        assert images.shape == (count, *data.shape)
        assert (images[:, 0, 5, 5].long() % 10).tolist() == labels.tolist()


def test_of_chosen_classes_every_split_has_all_images_with_their_labels_and_no_others(tmp_path, monkeypatch):
    images = torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1).expand(40, 3, 2, 2)
    labels = torch.arange(40) % 10
    stored = {
        f"{split}_{what}": each
        for split in ("train", "test")
        for what, each in (("images", images), ("labels", labels))
    }
    monkeypatch.setattr(CIFAR10, "_read_torchvision", lambda self, root: stored)
    whole, some = CIFAR10(tmp_path), CIFAR10(tmp_path, classes=[7, 2])
    for split in ("train", "val", "test"):
        images, labels = whole.samples(split)
        wanted = (labels == 2) | (labels == 7)
        assert torch.equal(some.samples(split)[0], images[wanted])
        assert torch.equal(some.samples(split)[1], labels[wanted])


@pytest.mark.parametrize("classes", [[], [10], [0, -1]])
def test_classes_that_are_none_are_refused(classes):
    with pytest.raises(LotteryError, match="0 to 9"):
        CIFAR10(classes=classes)
