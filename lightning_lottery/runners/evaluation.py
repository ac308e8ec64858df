"""Evaluate one module with many sets of weights: batches are loaded once, every metric is averaged over samples."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from statistics import mode
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning_utilities.core.apply_func import apply_to_collection
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten
from torchmetrics import Metric

from lightning_lottery.errors import LotteryError

Split = Literal["train", "val", "test"]


class Batches:
    """This rank's share of a loader's batches, kept in memory where they fit, else loaded anew each time.

    Every batch is divided over the ranks, so all ranks have equally many, no sample twice and none left out; a last one
    with fewer samples than ranks is joined to the one before it.

    Args:
        loader: Gives whole batches, the same in each iteration.
        rank: Of this process among ``world_size``.
        world_size: Number of processes.
        memory: Bytes up to which batches are kept.
        at_most: Samples of a batch: larger ones come in parts; None for as they are.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        *,
        rank: int = 0,
        world_size: int = 1,
        memory: int = 2**31,
        at_most: int | None = None,
    ) -> None:
        self.loader, self.rank, self.world_size, self.at_most = loader, rank, world_size, at_most
        self.kept: list[Any] | None = []
        self.sizes: list[int] = []
        used = 0
        for batch in self._load():
            self.sizes.append(size_of(batch))
            used += bytes_of(batch)
            if used > memory:
                self.kept = None
            if self.kept is not None:
                self.kept.append(batch)
        if not self.sizes:
            raise LotteryError("There is no batch to evaluate on: the loader is empty.")

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.kept) if self.kept is not None else self._load()

    @property
    def samples(self) -> int:
        """How many samples this rank has."""
        return sum(self.sizes)

    def _load(self) -> Iterator[Any]:
        for batch in self._whole():
            share = -(-size_of(batch) // self.world_size)  # the largest: all ranks cut theirs alike
            parts = -(-share // self.at_most) if self.at_most else 1
            if self.world_size * parts == 1:
                yield batch
                continue
            first = self.rank * parts
            yield from (share_of(batch, first + part, self.world_size * parts) for part in range(parts))

    def _whole(self) -> Iterator[Any]:
        """The loader's batches, one too small for all ranks joined to the one before it."""
        if self.world_size == 1:
            yield from self.loader
            return
        waiting: list[Any] = []
        for batch in self.loader:
            if waiting and size_of(batch) < self.world_size:
                waiting[-1] = _joined(waiting[-1], batch)
                continue
            yield from waiting
            waiting = [batch]
        yield from waiting


def size_of(batch: Any) -> int:
    """How many samples a batch has: the first dimension that most of its tensors agree on.

    Raises:
        LotteryError: It holds no tensor with a dimension.
    """
    sizes: list[int] = []
    apply_to_collection(batch, Tensor, lambda tensor: sizes.append(tensor.shape[0]) if tensor.ndim else None)
    if not sizes:
        raise LotteryError("A batch without tensors has no size: evaluation averages over samples.")
    return mode(sizes)


def _joined(one: Any, other: Any) -> Any:
    """Two batches as one."""
    left, structure = tree_flatten(one)
    right = tree_flatten(other)[0]
    sizes = size_of(one), size_of(other)

    def join(a: Any, b: Any) -> Any:
        is_of_samples = isinstance(a, Tensor) and a.ndim and (a.shape[0], b.shape[0]) == sizes
        return torch.cat([a, b]) if is_of_samples else a

    return tree_unflatten([join(a, b) for a, b in zip(left, right, strict=True)], structure)


def bytes_of(batch: Any) -> int:
    """Memory of a batch's tensors."""
    used: list[int] = []
    apply_to_collection(batch, Tensor, lambda tensor: used.append(tensor.numel() * tensor.element_size()))
    return sum(used)


def share_of(batch: Any, part: int, parts: int) -> Any:
    """One of several parts of a batch, a rank's for instance; they differ by at most one sample.

    Tensors and lists of plain values are cut where they have an entry for each sample.

    Raises:
        LotteryError: The batch has fewer samples than parts, or tensors that disagree on how many it has.
    """
    size = size_of(batch)
    sizes: set[int] = set()
    apply_to_collection(batch, Tensor, lambda tensor: sizes.add(tensor.shape[0]) if tensor.ndim else None)
    if len(sizes) > 1:
        raise LotteryError(
            f"The tensors of a batch begin with {sorted(sizes)} entries, so it is not known how to share its samples "
            f"in {parts} parts: evaluate on one device and not `fast`, or give batches whose tensors begin with the "
            "samples."
        )
    if size < parts:
        raise LotteryError(f"A batch of {size} samples cannot be shared by {parts} ranks: use larger batches.")
    mine = slice(size * part // parts, size * (part + 1) // parts)

    def cut(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[mine] if value.ndim and len(value) == size else value
        if len(value) == size and not any(isinstance(item, (Tensor, Mapping, list, tuple)) for item in value):
            return value[mine]  # a name of each sample, for instance
        items = [apply_to_collection(item, (Tensor, list, tuple), cut) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)

    return apply_to_collection(batch, (Tensor, list, tuple), cut)


def loader_of(module: LightningModule, data: Any, split: Split, trainer: Trainer) -> Iterable[Any]:
    """The one loader of a split, before Lightning has changed anything about it; with all samples for every rank.

    Raises:
        LotteryError: There is none, or several.
    """
    if isinstance(data, (LightningDataModule, LightningModule)) or data is None:
        source = data if data is not None else module
        if not is_overridden(f"{split}_dataloader", source):
            raise LotteryError(f"{type(source).__name__} has no `{split}_dataloader` to take batches from.")
        alone: Any = trainer if trainer.world_size == 1 else _AsIfAlone(trainer)
        source.trainer = alone
        source.prepare_data()
        source.setup({"train": "fit", "val": "validate", "test": "test"}[split])
        loader = getattr(source, f"{split}_dataloader")()
    else:
        loader = data
    if isinstance(loader, (list, tuple, dict)) and len(loader) == 1:
        loader = next(iter(loader.values() if isinstance(loader, dict) else loader))
    if isinstance(loader, (list, tuple, dict)) or not isinstance(loader, Iterable):
        found = f"{len(loader)} loaders" if isinstance(loader, Sized) else "no loader"
        raise LotteryError(f"Evaluation needs one {split} loader, found {found}.")
    return loader


class _AsIfAlone:
    """A Trainer as a data module sees it that would share its data out: here each rank loads all of it."""

    world_size, global_rank, local_rank = 1, 0, 0

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trainer, name)


def stage_of(module: LightningModule, data: Any) -> Split:
    """``"test"`` where module and data know how, else ``"val"``.

    Raises:
        LotteryError: The module has neither ``test_step`` nor ``validation_step``.
    """
    given = not isinstance(data, LightningDataModule) and data is not None
    source = data if isinstance(data, LightningDataModule) else module
    if is_overridden("test_step", module) and (given or is_overridden("test_dataloader", source)):
        return "test"
    if is_overridden("validation_step", module) and (given or is_overridden("val_dataloader", source)):
        return "val"
    raise LotteryError(f"{type(module).__name__} has no `test_step` or `validation_step` to evaluate with.")


class Evaluator:
    """Runs a module's own test or validation step over the same batches for any weights.

    Args:
        module: The module; its weights are set from outside before each evaluation.
        trainer: Runs the loop; its own callbacks run as well, so give it none that mind.
        batches: What to evaluate on.
        split: Which of the module's steps.
        data: The project's data module, whose hooks around the transfer of a batch are used.
        evaluations: How many there will be, for a progress bar in place of the Trainer's own, where it has one.
    """

    def __init__(
        self,
        module: LightningModule,
        trainer: Trainer,
        batches: Batches,
        split: Split,
        *,
        data: Any = None,
        evaluations: int = 0,
    ) -> None:
        self.module, self.trainer, self.batches, self.split = module, trainer, batches, split
        self.serving = _serving(batches, split, data)
        self.samples = 0  # that the last evaluation used, over all ranks
        shown = evaluations and trainer.progress_bar_callback is not None and trainer.is_global_zero
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, disable=not shown)
        self.places = self.bar.add_task("evaluations", total=evaluations)
        limit = trainer.limit_test_batches if split == "test" else trainer.limit_val_batches
        ran = limit if isinstance(limit, int) else int(limit * len(batches))
        self.within = self.bar.add_task("batches", total=min(ran, len(batches)))
        self.bar.start()

    def close(self) -> None:
        """Leave the progress bar."""
        self.bar.stop()

    def __call__(
        self, prepare: Callable[[LightningModule], None], on_batch: Callable[[LightningModule, Any], None] | None = None
    ) -> dict[str, float]:
        """Every logged metric, averaged over the samples of all ranks in float64.

        Args:
            prepare: Called with the module once it is on its device, before the first batch: sets the weights.
            on_batch: Called with the module and every batch on its device.

        Returns:
            Metric name to value.

        Raises:
            LotteryError: The module logs nothing.
        """
        self.bar.reset(self.within)

        def after(module: LightningModule, batch: Any) -> None:
            self.bar.advance(self.within)
            if on_batch is not None:
                on_batch(module, batch)

        recorder = _Recorder(prepare, self.batches, after)
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        others = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
        self.trainer.callbacks = [*others, recorder]  # type: ignore[attr-defined]
        try:
            with _logging_to(self.module, recorder):
                run = self.trainer.test if self.split == "test" else self.trainer.validate
                run(self.module, datamodule=self.serving, verbose=False)
        finally:
            self.trainer.callbacks = callbacks  # type: ignore[attr-defined]
        if not recorder.values:
            step = "test_step" if self.split == "test" else "validation_step"
            raise LotteryError(
                f"{type(self.module).__name__} logs nothing in `{step}`: log there what is to be compared, "
                "`self.log('test_acc', accuracy)` for instance."
            )
        self.bar.advance(self.places)
        self.samples = int(sum_over_ranks(recorder.samples, self.trainer))
        return recorder.values


class _Recorder(Callback):
    """Stands in for ``LightningModule.log`` during one evaluation; knows each batch's size instead of guessing it."""

    def __init__(
        self,
        prepare: Callable[[LightningModule], None],
        batches: Batches,
        on_batch: Callable[[LightningModule, Any], None],
    ) -> None:
        self.prepare, self.batches, self.on_batch = prepare, batches, on_batch
        self.samples = 0  # of the batches that ran: a Trainer may limit them
        self.weight = 1.0  # of what is logged outside a batch: all samples so far
        self.totals: dict[str, tuple[float, float]] = {}
        self.metrics: dict[str, Metric] = {}
        self.values: dict[str, float] = {}

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.prepare(pl_module)  # may run batches of its own, which metrics must forget
        for child in pl_module.modules():
            if isinstance(child, Metric):
                child.reset()

    def _begin_batch(self, *given: Any) -> None:
        self.weight = float(self.batches.sizes[given[3]])

    def _end_batch(self, *given: Any) -> None:
        self.on_batch(given[1], given[3])
        self.samples += int(self.weight)
        self.weight = float(self.samples)

    on_test_start = on_validation_start = _begin
    on_test_batch_start = on_validation_batch_start = _begin_batch  # type: ignore[assignment]
    on_test_batch_end = on_validation_batch_end = _end_batch  # type: ignore[assignment]

    def _end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.values = self._means(trainer)  # while the module is still on its device

    on_test_end = on_validation_end = _end

    def log(self, name: str, value: Any, *_: Any, batch_size: int | None = None, **given: Any) -> None:
        """Take a value as ``LightningModule.log`` would, weighted by its batch."""
        if isinstance(value, Metric):
            self.metrics[name] = value
            return
        if given.get("reduce_fx", "mean") not in ("mean", torch.mean):
            return  # only means over samples can be compared
        weight = float(batch_size or self.weight)
        total, count = self.totals.get(name, (0.0, 0.0))
        self.totals[name] = (total + float(value) * weight, count + weight)

    def _means(self, trainer: Trainer) -> dict[str, float]:
        """What was logged, over all ranks."""
        values = {
            name: sum_over_ranks(total, trainer) / sum_over_ranks(count, trainer)
            for name, (total, count) in sorted(self.totals.items())
        }
        for name, metric in self.metrics.items():  # these gather over ranks by themselves
            values[name] = float(metric.compute())
            metric.reset()
        return values


def sum_over_ranks(value: float, trainer: Trainer) -> float:
    """A number of each rank, added up in float64 on all of them."""
    if trainer.world_size < 2:
        return value
    everyone: list[float] = [0.0] * trainer.world_size
    torch.distributed.all_gather_object(everyone, value)
    return sum(everyone)


def _serving(batches: Batches, split: Split, data: Any) -> LightningDataModule:
    """A data module that serves batches as they are, with another one's hooks around their transfer."""
    hooks = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
    own = [hook for hook in hooks if isinstance(data, LightningDataModule) and is_overridden(hook, data)]
    methods: dict[str, Any] = {f"{split}_dataloader": lambda self: batches}
    for hook in own:
        methods[hook] = lambda self, *given, _hook=hook, **named: getattr(data, _hook)(*given, **named)
    serving: LightningDataModule = type("Serving", (LightningDataModule,), methods)()
    return serving


@contextmanager
def _logging_to(module: LightningModule, recorder: _Recorder) -> Iterator[None]:
    """Send what the module logs to the recorder."""
    module.__dict__["log"] = recorder.log
    try:
        yield
    finally:
        del module.__dict__["log"]
