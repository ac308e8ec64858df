"""Nine children of one checkpoint as one stacked model, beside one of them alone: what `torch.func` would save.

The package does not do this; the README beside says why.
"""

import copy
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from benchmarks.measure import ON_GPU, Row, interleaved, plain, ratio
from lightning_lottery import ExactResume
from lightning_lottery.zoo import Digits, ImageClassifier, lenet_300_100, resnet, vit

CHILDREN, EPOCHS = 9, 3
DEVICE = "cuda" if ON_GPU else "cpu"
Batch = tuple[Tensor, Tensor]


def digits_vit(attention: str = "sdpa") -> nn.Module:
    """That of the recipe ``when_stable_digits``."""
    network = vit(hidden_size=32, layers=2, mlp_size=64)
    network.set_attn_implementation(attention)  # type: ignore[operator]
    return network


def run(toy: bool = False) -> Iterator[Row]:
    """Steps of three networks on batches of 32 digits; of the transformer also whole epochs, and how exact it is."""
    rounds = 2 if toy else 200
    networks: dict[str, Callable[[], nn.Module]] = {
        "digits ViT": digits_vit,
        "digits ViT, attention written out": partial(digits_vit, "eager"),
        "LeNet-300-100": lambda: lenet_300_100(64),
        "ResNet-8, batch norm in training": lambda: resnet(8, channels=1),
    }
    for name, make in networks.items():
        yield _steps(name, make, rounds, "<= 3 x" if make is digits_vit else "")
    yield from _epochs(toy)
    yield from _exactness(3 if toy else 300)


class Stacked:
    """Children as one model: each of its parameters, buffers and batches has a first dimension for the child.

    The modules that it is made of share its parameters' memory, so each can be evaluated or saved alone.
    """

    def __init__(self, modules: list[ImageClassifier]) -> None:
        self.modules, first = modules, modules[0]
        named = [dict(module.named_parameters()) for module in modules]
        self.parameters = {name: torch.stack([each[name].detach() for each in named]) for name in named[0]}
        buffers = [{name: b for name, b in module.network.named_buffers(prefix="network")} for module in modules]
        self.buffers = {name: torch.stack([each[name] for each in buffers]) for name in buffers[0]}
        with torch.no_grad():
            for child, module in enumerate(modules):
                for name, stack in self.parameters.items():
                    module.get_parameter(name).set_(stack[child])
        for stack in self.parameters.values():
            stack.requires_grad_()
        self.optimizer = _adamw(list(self.parameters.values()))

        def loss(parameters: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
            return F.cross_entropy(functional_call(first, (parameters, buffers), (images,)), labels)

        self._losses = vmap(loss, randomness="different")

    def step(self, batches: list[Batch]) -> None:
        """One optimizer step of every child; the sum of their losses has each one's gradient, as they share nothing."""
        images, labels = (torch.stack(parts) for parts in zip(*batches, strict=True))
        self.optimizer.zero_grad()
        self._losses(self.parameters, self.buffers, images, labels).sum().backward()
        self.optimizer.step()


class Lone:
    """One child, without Lightning."""

    def __init__(self, module: ImageClassifier) -> None:
        self.module, self.optimizer = module, _adamw(list(module.parameters()))

    def step(self, batch: Batch) -> None:
        """One optimizer step."""
        self.optimizer.zero_grad()
        F.cross_entropy(self.module(batch[0]), batch[1]).backward()
        self.optimizer.step()


def _adamw(parameters: list[Tensor]) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01)


def _modules(make: Callable[[], nn.Module], number: int = CHILDREN) -> list[ImageClassifier]:
    """So many of one beginning."""
    torch.manual_seed(0)
    module = ImageClassifier(make(), lr=1e-3, weight_decay=0.01).to(DEVICE).train()
    return [copy.deepcopy(module) for _ in range(number)]


def _steps(name: str, make: Callable[[], nn.Module], rounds: int, goal: str) -> Row:
    """A step of nine stacked children by one of a child alone."""
    stacked, lone = Stacked(_modules(make)), Lone(*_modules(make, 1))
    batches = [next(_batches(seed)) for seed in range(CHILDREN)]
    variants = {"stacked": lambda: stacked.step(batches), "lone": lambda: lone.step(batches[0])}
    took = interleaved(variants, rounds, warmup=3)
    return ratio(f"stacked, {name}: a step of nine / a step of one", took["stacked"], took["lone"], goal=goal)


def _batches(seed: int, epoch: int = 0, limit: int | None = None) -> Iterator[Batch]:
    """Of an epoch of the digits, in a child's own order."""
    loader = Digits(seed=seed, limit=limit).train_dataloader()
    loader.set_epoch(epoch)
    return ((images.to(DEVICE), labels.to(DEVICE)) for images, labels in loader)


def _epochs(toy: bool) -> list[Row]:
    """Three epochs with validation: stacked children without Lightning, one as in an experiment."""
    limit, threads = (64 if toy else None), torch.get_num_threads()

    def five() -> None:
        torch.set_num_threads(1)
        _stacked_epochs(5, limit)
        torch.set_num_threads(threads)

    variants = {"nine": partial(_stacked_epochs, CHILDREN, limit), "five": five, "one": partial(_lone_epochs, limit)}
    took = interleaved(variants, 1 if toy else 3)
    name, by = "stacked, digits ViT: epochs of", "without Lightning / of one by its Trainer"
    return [
        ratio(f"{name} nine, {by}", took["nine"], took["one"], goal="<= 3 x"),
        ratio(f"{name} five by one thread (nine: two such processes), {by}", took["five"], took["one"], goal="<= 3 x"),
    ]


def _stacked_epochs(number: int, limit: int | None) -> None:
    """Training stacked, validation one child after another: metrics of torchmetrics do not map."""
    stacked = Stacked(_modules(digits_vit, number))
    validation = [(images.to(DEVICE), labels.to(DEVICE)) for images, labels in Digits().val_dataloader()]
    for module in stacked.modules:
        module.log = lambda *_, **__: None  # type: ignore[method-assign]
    for epoch in range(EPOCHS):
        for batches in zip(*(_batches(seed, epoch, limit) for seed in range(number)), strict=True):
            stacked.step(list(batches))
        for module in stacked.modules:
            module.eval()
            with torch.no_grad():
                for index, batch in enumerate(validation):
                    module.validation_step(batch, index)
            module.train()


def _lone_epochs(limit: int | None) -> None:
    (module,) = _modules(digits_vit, 1)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_epochs=EPOCHS,
            accelerator="gpu" if ON_GPU else "cpu",
            devices=1,
            default_root_dir=folder,
            logger=TensorBoardLogger(folder, name="", version=""),
            log_every_n_steps=10,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[ExactResume()],
        )
        trainer.fit(module, datamodule=Digits(limit=limit))


def _exactness(steps: int) -> list[Row]:
    """How far three stacked children are from the same ones trained alone; and two equal ones from each other."""
    modules, seeds = _modules(digits_vit, 4), (1, 2, 3, 1)
    lone = [Lone(copy.deepcopy(module)) for module in modules[:3]]
    stacked = Stacked(modules)
    epochs = (zip(*(_batches(seed, epoch) for seed in seeds), strict=True) for epoch in range(steps))
    for batches in islice((batches for epoch in epochs for batches in epoch), steps):
        stacked.step(list(batches))
        for child, batch in zip(lone, batches, strict=False):
            child.step(batch)
    first, second, _, again = map(_flat, modules)
    between = float((first - second).norm())
    apart = [float((_flat(child.module) - _flat(module)).norm()) for child, module in zip(lone, modules, strict=False)]
    what = f"stacked, digits ViT: from the lone child, after {steps} steps / from another seed's"
    return [
        ratio(what, [max(apart)], [between], unit="%"),
        plain("stacked, digits ViT: from an equal child", [float((first - again).norm())], "", goal="0"),
    ]


def _flat(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
