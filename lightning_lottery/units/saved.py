"""What a shrunk model is worth, and how it is kept: sizes and speed, save and load."""

import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from lightning_lottery.checks import check_count
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.multiply_adds import multiply_adds
from lightning_lottery.functional.train_mode import modes_kept
from lightning_lottery.scope import plain_name
from lightning_lottery.units.coefficients import folded
from lightning_lottery.units.groups import survey
from lightning_lottery.units.parts import Group, Module, copy_of, is_pretrained
from lightning_lottery.units.removal import KEPT, cut_out_, cut_to_, first_of


class Size(NamedTuple):
    """Parameters, floating-point operations of one forward pass, and its median time in seconds."""

    parameters: int
    flops: int
    seconds: float


def measure(model: nn.Module, inputs: Any, repeats: int = 20) -> Size:
    """How large and how fast a model is on given inputs, in evaluation mode, on the device where it is.

    Args:
        model: The module; its mode is restored.
        inputs: A tensor, a tuple of positional or a mapping of named arguments, on the model's device.
        repeats: Timed forward passes after three that are not, >= 1.

    Raises:
        LotteryError: ``repeats`` below 1.
    """
    check_count("repeats", repeats, "a number of forward passes")

    def forward() -> None:
        if isinstance(inputs, Mapping):
            model(**inputs)
        else:
            model(*(inputs if isinstance(inputs, tuple) else (inputs,)))

    device = next(model.parameters()).device
    flops = 2 * multiply_adds(model, {}, forward).total
    with modes_kept(model), torch.no_grad():
        model.eval()
        times = [_seconds(forward, device) for _ in range(3 + repeats)]
    parameters = sum(p.numel() for p in model.parameters())
    return Size(parameters, flops, statistics.median(times[3:]))


def comparison(before: Size, after: Size) -> str:
    """Two sizes as a table of text, with what is left of each.

    Example:
        >>> print(comparison(Size(2000, 4_000_000, 0.004), Size(1000, 2_000_000, 0.003)))
                         before        after    left
        parameters        2,000        1,000   50.0%
        MFLOPs             4.00         2.00   50.0%
        latency [ms]       4.00         3.00   75.0%
    """
    rows = [f"{'':12}{'before':>11}{'after':>13}{'left':>8}"]
    for name, scale, form, large, small in (
        ("parameters", 1, ",.0f", before.parameters, after.parameters),
        ("MFLOPs", 1e6, ",.2f", before.flops, after.flops),
        ("latency [ms]", 1e-3, ",.2f", before.seconds, after.seconds),
    ):
        left = small / large if large else 1
        rows.append(f"{name:12}{large / scale:>11{form}}{small / scale:>13{form}}{left:>8.1%}")
    return "\n".join(rows)


def save_shrunk(model: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Write a shrunk model into a folder, from which ``load_shrunk`` reads it.

    Args:
        model: A model of Hugging Face's transformers is written by its ``save_pretrained``; of any other, the weights
            are written as ``model.safetensors``.
        folder: Where; it is made.

    Example:
        >>> import tempfile
        >>> from lightning_lottery.ticket import Ticket
        >>> from lightning_lottery.units.removal import shrink
        >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=16, batch_first=True)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_shrunk(shrink(layer, Ticket({}, units={"linear1": torch.arange(16) < 4})), folder)
        ...     load_shrunk(folder, layer).linear1
        Linear(in_features=8, out_features=4, bias=True)
    """
    from safetensors.torch import save_model

    pretrained: Any = model
    if is_pretrained(model):
        pretrained.save_pretrained(folder)
    else:
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_model(model, str(Path(folder) / "model.safetensors"))


def load_shrunk(folder: str | os.PathLike[str], model: Module | None = None) -> Module:
    """A shrunk model from the folder that ``save_shrunk`` or ``save_pretrained`` wrote.

    Without ``model`` it is one of Hugging Face, whose class and shapes stand in its ``config.json``; where the
    configuration has keys of its own for the shapes, ``from_pretrained`` does the same. It is in evaluation mode, as
    there.

    Args:
        folder: Where it was written; or the checkpoint of a fit that ``EarlyBird`` made smaller, for its whole module.
        model: For any other model: the module before it was shrunk, with any weights. It is not changed; the shapes
            are read from the file.

    Raises:
        LotteryError: No such folder, no class of that name in transformers, or tensors that do not fit the model.
    """
    if model is not None and Path(folder).is_file():
        return _load_checkpoint(Path(folder), model)
    if model is None:
        return _load_pretrained(Path(folder))  # type: ignore[no-any-return]
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_model

    path = Path(folder) / "model.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise LotteryError(f"There is no model at '{path}': {error}.") from error
    small = copy_of(model)
    cut_to_(small, {name: size_in(shapes, group) for name, group in survey(model).groups.items()})
    try:
        load_model(small, path)
    except RuntimeError as error:
        raise LotteryError(f"'{path}' does not hold a shrunk {type(model).__name__}: {error}") from error
    return small


def _load_checkpoint(path: Path, model: Module) -> Module:
    try:
        state = folded(torch.load(path, map_location="cpu", weights_only=True)["state_dict"])
    except Exception as error:  # whatever the reading of a torn or foreign file raises
        raise LotteryError(f"'{path}' is no checkpoint of Lightning with plain values ({error}).") from error
    small = copy_of(model)
    groups = survey(model).groups
    shapes = {plain_name(name): tuple(value.shape) for name, value in state.items()}
    sizes = {name: min(size_in(shapes, group), group.size) for name, group in groups.items()}
    cut_out_(small, groups, {name: first_of(sizes[name], group.size) for name, group in groups.items()})
    try:
        small.load_state_dict(state)
    except RuntimeError as error:
        raise LotteryError(f"'{path}' does not hold a shrunk {type(model).__name__}: {error}") from error
    return small


def _load_pretrained(folder: Path) -> Any:
    import transformers

    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LotteryError(f"'{folder}' has no config.json to read the model's class from: {error}.") from error
    architecture = (content.get("architectures") or ["none"])[0]
    cls = getattr(transformers, architecture, None)
    if cls is None:
        raise LotteryError(f"'{folder}' holds a model of class {architecture}, which transformers does not have.")

    # `from_pretrained` builds the model and loads into it at once: only from inside the constructor can the layers get
    # their new shapes between the two.
    class Shrunk(cls):  # type: ignore[misc, valid-type]
        def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(config, *args, **kwargs)
            cut_to_(self, getattr(config, KEPT, None) or {})

    Shrunk.__name__ = cls.__name__
    model = Shrunk.from_pretrained(folder)
    model.__class__ = cls
    return model


def size_in(shapes: Mapping[str, tuple[int, ...]], group: Group) -> int:
    """How many units a group has in a file: all of them where the file says nothing."""
    part = group.consumers[0]
    shape = shapes.get(part.parameter, ())
    return max(1, shape[part.dim] // part.block) if len(shape) > part.dim else group.size


def _seconds(forward: Callable[[], None], device: torch.device) -> float:
    """How long a forward pass takes; a GPU is waited for, as its kernels run on after the call has returned."""
    _wait_for(device)
    start = time.perf_counter()
    forward()
    _wait_for(device)
    return time.perf_counter() - start


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
