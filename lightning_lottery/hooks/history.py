"""What a picture of a pruned fit is made of: the training loss and the masks over optimizer steps, bounded in size."""

from collections.abc import Mapping, Sequence
from operator import index
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lightning_lottery.checks import is_number
from lightning_lottery.errors import LotteryError
from lightning_lottery.figures.pruning import pruning_over_steps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ("step", "target", "sparsity", "change", "loss")
"""Of the table; a column ``removed of LAYER`` for each layer follows."""

_POINTS = 1000  # of a curve at most; a power of two times five, halved without a remainder
_ROWS = 500  # updates of masks that are kept at most
_WAITING = 100  # losses that wait on their device at most


class Curve:
    """A value over optimizer steps in at most 1,000 points, each the mean of equally many values in a row.

    Example:
        >>> curve = Curve()
        >>> for step in range(1, 1502):
        ...     curve.add(step, float(step))
        >>> curve.points[:2], len(curve.points), curve.per_point
        ([(2, 1.5), (4, 3.5)], 751, 2)
    """

    def __init__(self) -> None:
        self.per_point = 1
        """Values whose mean a point is."""
        self._points: list[tuple[int, float]] = []
        self._sum, self._count, self._last = 0.0, 0, 0  # of the values of the point to come

    @property
    def points(self) -> list[tuple[int, float]]:
        """The last step of each, and its mean; the last one may have fewer values."""
        return [*self._points, *([(self._last, self._sum / self._count)] if self._count else [])]

    def add(self, step: int, value: float) -> None:
        """A value, of a later step than the ones before."""
        self._sum, self._count, self._last = self._sum + value, self._count + 1, step
        if self._count < self.per_point:
            return
        self._points.append((step, self._sum / self._count))
        self._sum, self._count = 0.0, 0
        if len(self._points) == _POINTS:
            pairs = zip(self._points[::2], self._points[1::2], strict=True)
            self._points = [(step, (first + second) / 2) for (_, first), (step, second) in pairs]
            self.per_point *= 2

    def state_dict(self) -> dict[str, Any]:
        """Everything, as plain numbers and tensors."""
        return {
            "per_point": self.per_point,
            "steps": torch.tensor([step for step, _ in self._points], dtype=torch.int64),
            "means": torch.tensor([mean for _, mean in self._points], dtype=torch.float64),
            "rest": [self._sum, self._count, self._last],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where ``state_dict`` was taken.

        Raises:
            LotteryError: It is the state of no curve.
        """
        per_point, steps, means = index(state["per_point"]), _numbers(state["steps"]), _numbers(state["means"])
        total, count, last = float(state["rest"][0]), index(state["rest"][1]), index(state["rest"][2])
        is_power = per_point > 0 and per_point & (per_point - 1) == 0
        if not is_power or not 0 <= count < per_point or len(steps) != len(means) or len(steps) >= _POINTS:
            raise LotteryError(
                f"The checkpoint's curve is none: {len(steps)} steps, {len(means)} means of {per_point} values, "
                f"{count} more."
            )
        _check_steps([*steps, last] if count else steps)
        self.per_point, self._sum, self._count, self._last = per_point, total, count, last
        self._points = [(int(step), mean) for step, mean in zip(steps, means, strict=True)]


class Masking(NamedTuple):
    """The masks from one update to the next, as fractions removed: asked for, of the scope, and of each layer."""

    step: int
    target: float
    sparsity: float
    layers: Tensor
    """float32, on the CPU."""


class History:
    """The training loss and the masks of a fit over its optimizer steps.

    At most 1,000 points of the loss and of the mask's change, 500 updates of masks, and 100 losses that wait on their
    device until somebody needs the host anyway: the size does not grow with the fit. Of several ranks the first keeps
    it, and the loss is that of its batches: a mean over ranks would let each wait for the others.

    Args:
        is_kept: Whether anything is noted.
    """

    def __init__(self, *, is_kept: bool = True) -> None:
        self._is_kept = is_kept
        self.loss = Curve()
        self.change = Curve()
        self._waiting: list[tuple[int, Tensor]] = []
        self._updates: list[Masking] = []  # of every `_stride`-th, and the last one
        self._stride = 1
        self._number = 0  # of updates before the last one
        self.drawn_at = 0
        """The step of the last picture that loggers got."""

    @property
    def updates(self) -> list[Masking]:
        """What masks were, in order: every one, or every second, fourth ... where they were many, and the last."""
        return list(self._updates)

    def is_longer(self, step: int) -> bool:
        """Whether the fit is half as long again as in its last picture, each of which takes as long as many a step."""
        return step > self.drawn_at and 2 * step >= 3 * self.drawn_at

    def see(self, step: int, outputs: Any, interval: int, scale: float = 1.0) -> None:
        """Note what ``training_step`` gave for the last batch of an optimizer step.

        Args:
            step: Optimizer steps that happened.
            outputs: As Lightning hands them to ``on_train_batch_end``: a loss, a mapping with one, or neither.
            interval: Steps until the host is asked for.
            scale: What the loss was divided by.
        """
        if not self._is_kept:
            return
        loss: Any = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor) and loss.numel() == 1:
            # A copy: whoever steps by hand may give a tensor that the next batch is written into. It stays on its
            # device, since asking a GPU for a number in every step would stop it in every step.
            self._waiting.append((step, loss.detach().reshape(()).float() * scale))
        elif is_number(loss):
            self.fetch()
            self.loss.add(step, float(loss) * scale)
        if len(self._waiting) >= min(max(1, interval), _WAITING):
            self.fetch()

    def fetch(self) -> None:
        """Ask the device for the losses that wait, all at once."""
        if self._waiting:
            values = torch.stack([loss for _, loss in self._waiting]).tolist()
            for (step, _), value in zip(self._waiting, values, strict=True):
                self.loss.add(step, value)
            self._waiting = []

    def update(self, step: int, target: float, counts: Sequence[tuple[int, int]], change: float | None) -> None:
        """Note masks, also where they stay what they were.

        Args:
            step: Optimizer steps that happened; one that was noted is noted anew.
            target: The fraction that was to be removed.
            counts: Of each layer: how many entries are kept, and how many there are.
            change: Fraction of the entries that are not what they were before; None where nothing was before.
        """
        if not self._is_kept:
            return
        if self._updates and self._updates[-1].step == step:
            self._updates.pop()
        elif self._updates:
            if self._number % self._stride:  # it was there as the last one
                self._updates.pop()
            self._number += 1
        kept, total = (sum(numbers) for numbers in zip(*counts, strict=True)) if counts else (0, 0)
        layers = torch.tensor([1 - kept / total if total else 0.0 for kept, total in counts], dtype=torch.float32)
        self._updates.append(Masking(step, target, 1 - kept / total if total else 0.0, layers))
        if len(self._updates) > _ROWS:
            self._stride *= 2
            latest = [] if self._number % self._stride == 0 else self._updates[-1:]
            self._updates = self._updates[::2] if not latest else [*self._updates[:-1:2], *latest]
        if change is not None:
            self.change.add(step, change)

    def figure(self, layers: Sequence[str], end: int) -> "Figure":
        """The picture of the fit until step ``end``; layers by their names, in order."""
        self.fetch()
        return pruning_over_steps(
            [update.step for update in self._updates],
            {name: [float(update.layers[i]) for update in self._updates] for i, name in enumerate(layers)},
            [update.target for update in self._updates],
            [update.sparsity for update in self._updates],
            self.loss.points,
            self.change.points,
            end,
        )

    def rows(self, layers: Sequence[str]) -> list[dict[str, float]]:
        """The same as rows of a table, in the order of steps: what a row does not know it lacks."""
        self.fetch()
        by_step: dict[int, dict[str, float]] = {}
        for step, target, sparsity, removed in self._updates:
            by_layer = {f"removed of {name}": float(removed[i]) for i, name in enumerate(layers)}
            by_step.setdefault(step, {}).update(target=target, sparsity=sparsity, **by_layer)
        for word, curve in (("change", self.change), ("loss", self.loss)):
            for step, value in curve.points:
                by_step.setdefault(step, {})[word] = value
        return [{"step": step, **by_step[step]} for step in sorted(by_step)]

    def state_dict(self) -> dict[str, Any]:
        """Everything, as plain numbers and tensors on the CPU."""
        self.fetch()
        layers = [update.layers for update in self._updates]
        return {
            "loss": self.loss.state_dict(),
            "change": self.change.state_dict(),
            "steps": torch.tensor([update.step for update in self._updates], dtype=torch.int64),
            "removed": torch.tensor([update[1:3] for update in self._updates], dtype=torch.float64).reshape(-1, 2),
            "layers": torch.stack(layers) if layers else torch.zeros(0, 0),
            "stride": self._stride,
            "number": self._number,
            "drawn_at": self.drawn_at,
        }

    def load_state_dict(self, state: Mapping[str, Any], layers: int) -> None:
        """Go on from where ``state_dict`` was taken, in a fit of so many layers.

        Raises:
            LotteryError: It is no such state, or one of other layers.
        """
        if not self._is_kept:
            return
        self.loss.load_state_dict(state["loss"])
        self.change.load_state_dict(state["change"])
        steps, stride, number = _numbers(state["steps"]), index(state["stride"]), index(state["number"])
        rows, removed = len(steps), state["removed"]
        shapes = tuple(removed.shape), tuple(state["layers"].shape)
        if shapes != ((rows, 2), (rows, layers if rows else 0)) or rows > _ROWS or stride < 1 or number < 0:
            raise LotteryError(
                f"The checkpoint's history of masks is none of {layers} layers: {rows} steps, {shapes[0]}, {shapes[1]}."
            )
        _check_steps(steps)
        fractions = torch.cat([removed.double(), state["layers"].double()], 1)
        if not bool(((fractions >= 0) & (fractions <= 1)).all()):
            raise LotteryError("The checkpoint's history of masks has fractions that are not between 0 and 1.")
        self._stride, self._number, self._waiting = stride, number, []
        self.drawn_at = index(state.get("drawn_at", 0))  # earlier versions kept none
        pairs, by_layer = removed.double().tolist(), state["layers"].float().unbind()
        self._updates = [
            Masking(int(step), target, sparsity, row.clone())
            for step, (target, sparsity), row in zip(steps, pairs, by_layer, strict=True)
        ]


def _numbers(tensor: Tensor) -> list[float]:
    """A tensor in one dimension as a list."""
    if tensor.ndim != 1:
        raise LotteryError(f"The checkpoint's history has a tensor of shape {tuple(tensor.shape)} in place of a row.")
    values: list[float] = tensor.tolist()
    return values


def _check_steps(steps: Sequence[float]) -> None:
    if steps and (any(a >= b for a, b in zip(steps, steps[1:], strict=False)) or steps[0] < 0):
        raise LotteryError("The checkpoint's history has steps that do not rise.")
