"""What one data-centre GPU shows in twelve minutes: `make bench-gpu`.

The table is written anew after each row, so that a run may be cut off at any time. On a CPU, or with ``--toy``, sizes
are so small that the numbers mean nothing: a trial of the script.
"""

import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks import bench_stacked
from benchmarks.measure import ON_GPU, Row, interleaved, plain, ratio
from benchmarks.stopwatch import Stopwatch, fit
from lightning_lottery import PLATON, Cubic, MaskFreezing, Scope, SynFlow, Ticket, path
from lightning_lottery.functional import keep_top
from lightning_lottery.hooks.mask_callback import MaskCallback
from lightning_lottery.zoo import ImageClassifier, resnet, vit

BUDGET = 12 * 60.0
"""Seconds after which no further part begins."""

DEVICE = torch.device("cuda" if ON_GPU else "cpu")


def vit_b_16(toy: bool) -> nn.Module:
    """86 million parameters."""
    if toy:
        return vit(hidden_size=16, layers=1, heads=2, mlp_size=32, channels=3, image_size=32, patch_size=8)
    return vit(hidden_size=768, layers=12, heads=12, mlp_size=3072, channels=3, image_size=224, patch_size=16)


def of_vit(toy: bool) -> Iterator[Row]:
    """A fit in bfloat16, batches of 128 that lie on the device."""
    yield from _callbacks("ViT-B/16", vit_b_16, _batch(2 if toy else 128, 32 if toy else 224), toy)


def of_resnet(toy: bool) -> Iterator[Row]:
    """The same of a network whose steps are short; SynFlow's hundred iterations."""
    batch = _batch(2 if toy else 128, 32)
    yield from _callbacks("ResNet-20", _resnet_20, batch, toy)
    seconds = []
    for _ in range(2 if toy else 3):
        start = time.perf_counter()
        fit(_resnet_20(toy), 1, SynFlow(0.9, iterations=2 if toy else 100), loader=_loader([batch]))
        seconds.append(time.perf_counter() - start)
    yield plain("SynFlow, ResNet-20, 100 iterations, the fit of one step around them included", seconds, "s")


def _resnet_20(toy: bool) -> nn.Module:
    return resnet(8 if toy else 20)


def _callbacks(name: str, make: Callable[[bool], nn.Module], batch: tuple[Tensor, Tensor], toy: bool) -> Iterator[Row]:
    network = make(toy)
    scope = {f"network.{n}": torch.rand_like(param) < 0.5 for n, param in Scope().select(network).items()}
    steps = {10: 30, 1: 12} if toy else {10: 40, 1: 20}
    for interval, number in steps.items():
        platon = PLATON(Cubic(0.8, begin=0, end=number), interval=interval)
        yield _share(f"PLATON, interval {interval}, {name}", network, platon, batch, number, interval)
    freezing = MaskFreezing(Ticket(scope))
    yield _share(f"freezing, {name}", network, freezing, batch, steps[1], 1)


def _share(
    what: str, network: nn.Module, callback: MaskCallback, batch: tuple[Tensor, Tensor], steps: int, interval: int
) -> Row:
    watch = Stopwatch(callback)
    precision = "bf16-mixed" if ON_GPU else "32-true"
    fit(network, steps, callback, *watch.around, loader=_loader([batch] * steps), precision=precision)
    extra, _, dense = watch.by(interval, skip=max(4, interval))
    return ratio(f"{what}: extra / dense step", extra, dense, unit="%")


def of_selection(toy: bool) -> Iterator[Row]:
    """The exact ranking of a thousand million scores."""
    size = 10_000 if toy else 10**8
    generator = torch.Generator(DEVICE).manual_seed(0)
    scores = {str(i): torch.rand(size, generator=generator, device=DEVICE) for i in range(10)}
    variants = {
        "ours": lambda: keep_top(scores, 0.8),
        "copy": lambda: [score.clone() for score in scores.values()],
    }
    times = interleaved(variants, 2 if toy else 3)
    yield ratio("selection, 10^9 scores: ours / copying the scores", times["ours"], times["copy"])
    yield plain("selection, 10^9 scores", times["ours"], "s")


def of_line(toy: bool) -> Iterator[Row]:
    """A line of 21 places over 10,000 images that lie on the device, beside as many passes of a loop of one's own."""
    places, batches = (3, 2) if toy else (21, 20)
    loader = _loader([_batch(2 if toy else 500, 32) for _ in range(batches)])
    module = ImageClassifier(_resnet_20(toy))
    with tempfile.TemporaryDirectory() as name:
        ends = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            ends.append(Path(name) / f"{seed}.pt")
            torch.save(ImageClassifier(_resnet_20(toy)).state_dict(), ends[-1])

        def ours() -> None:
            alphas = [k / (places - 1) for k in range(places)]
            path(module, loader, ends, trainer=_trainer(Path(name)), alphas=alphas)

        @torch.no_grad()
        def bare() -> None:
            network = module.to(DEVICE).eval()
            for _ in range(places):
                for images, labels in loader:
                    nn.functional.cross_entropy(network(images), labels)

        times = interleaved({"ours": ours, "bare": bare}, 2 if toy else 5)
    yield ratio(
        "path, ResNet-20, 21 places, data on the device: ours / bare forward passes", times["ours"], times["bare"]
    )


def _trainer(folder: Path) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    accelerator = "gpu" if ON_GPU else "cpu"
    return Trainer(accelerator=accelerator, devices=1, default_root_dir=folder, enable_model_summary=False, **quiet)


def _batch(size: int, side: int) -> tuple[Tensor, Tensor]:
    """Random images and labels, on the device."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(size, 3, side, side, generator=generator)
    return images.to(DEVICE), torch.randint(10, (size,), generator=generator).to(DEVICE)


def _loader(batches: list[tuple[Tensor, Tensor]]) -> DataLoader:
    """Hands them out as they are: nothing is decoded, collated or sent."""
    return DataLoader(batches, batch_size=None)


def of_stacked(toy: bool) -> Iterator[Row]:
    """Nine small children as one model, which the package does not do: on a GPU it may pay."""
    yield from bench_stacked.run(toy)


PARTS = (of_vit, of_resnet, of_selection, of_line, of_stacked)
"""What matters most comes first: the time may be over before the last."""


def run(toy: bool, budget: float = BUDGET) -> Iterator[Row]:
    """The rows of all parts that begin in time."""
    start = time.monotonic()
    for part in PARTS:
        if time.monotonic() - start > budget:
            print(f"{part.__name__}: left out, the time is over.", file=sys.stderr)
            continue
        try:
            yield from part(toy)
        except torch.OutOfMemoryError as error:  # a smaller GPU: the other parts may fit
            print(f"{part.__name__}: left out, {error}", file=sys.stderr)


def main(toy: bool, out: Path) -> None:
    """Write the table, anew after each row."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    device = torch.cuda.get_device_name() if ON_GPU else "CPU"
    sizes = "toy sizes, which mean nothing" if toy else "bf16-mixed"
    head = f"{device}, {sizes}; torch {version('torch')}, lightning {version('lightning')}; {date.today()}."
    lines = [head, "", "| what | measured | lowest to highest round | goal |", "|---|---|---|---|"]
    out.parent.mkdir(parents=True, exist_ok=True)
    print(*lines, sep="\n", flush=True)
    for row in run(toy):
        lines.append(str(row))
        print(row, flush=True)
        out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main("--toy" in sys.argv or not ON_GPU, Path("build/bench-gpu.md"))
