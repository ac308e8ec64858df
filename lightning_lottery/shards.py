"""What a rank holds of a tensor: all of it, or where FSDP2 shards it (a DTensor) some of its rows."""

import sys
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_lottery.errors import LotteryError
from lightning_lottery.files import hash_of_tensors


def is_sharded(tensor: object) -> bool:
    """Whether a tensor is a DTensor."""
    # Its module takes a second to import, and whoever has one has imported it.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """What this rank holds, in the same memory, with what it holds of the gradient; a plain tensor is itself."""
    if not is_sharded(tensor):
        return tensor
    with torch.no_grad():
        part: Tensor = tensor.to_local().detach()  # type: ignore[attr-defined]
    if tensor.is_leaf and tensor.grad is not None:
        part.grad = local(tensor.grad)
    return part


def part_like(tensor: Tensor, whole: Tensor) -> Tensor:
    """This rank's part of a whole tensor, as it holds one of ``tensor``, in its memory; all of it for a plain one.

    Raises:
        LotteryError: ``tensor`` is sharded in another way than in rows.
    """
    return Shards({"a tensor": tensor}).part("a tensor", whole)


def gathered(tensor: Tensor) -> Tensor:
    """A copy on the CPU, whole on every rank. Collective where it is sharded."""
    whole: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return whole.detach().cpu().clone()


def reshard(module: nn.Module) -> None:
    """Let modules under FSDP2 hold the shards of their parameters. Sends nothing.

    After a forward pass without a backward one, as in validation, some hold copies of whole parameters: a change of the
    shards would not reach these.
    """
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")
    for child in module.modules() if fsdp is not None else ():
        if isinstance(child, fsdp.FSDPModule):
            child.reshard()


def refuse_shards(module: nn.Module, who: str) -> None:
    """Refuse a module whose parameters are sharded.

    Raises:
        LotteryError: One is.
    """
    if any(map(is_sharded, module.parameters())):
        raise LotteryError(
            f"{who} needs whole weights, and this {type(module).__name__} holds shards of them: load its checkpoint "
            "into a module in one process."
        )


class _Layout(NamedTuple):
    mesh: Any
    placements: Any
    shape: torch.Size
    stride: tuple[int, ...]


class Shards:
    """How parameters lie over ranks: rows of each in the order of ranks, or each whole on every rank.

    Args:
        params: By name; where one is sharded, all are.

    Raises:
        LotteryError: One is sharded in another way, or whole beside sharded ones.

    Attributes:
        rank: Of this process, among those that hold parts.
        ranks: How many hold parts; 1 where every rank holds all.
    """

    def __init__(self, params: Mapping[str, Tensor] | None = None) -> None:
        params = params or {}
        self._layouts = {
            name: _Layout(p.device_mesh, p.placements, p.shape, p.stride())  # type: ignore[attr-defined]
            for name, p in params.items()
            if is_sharded(p)
        }
        self.rank, self.ranks = 0, 1
        if not self._layouts:
            return
        first = next(iter(self._layouts.values()))
        for name in params:
            layout = self._layouts.get(name)
            if (
                layout is None
                or layout.mesh != first.mesh
                or layout.mesh.ndim > 1
                or not layout.placements[0].is_shard(0)
            ):
                how = "is whole on every rank" if layout is None else f"lies as {layout.placements} over {layout.mesh}"
                raise LotteryError(
                    f"'{name}' {how}, and masks of shards need each parameter in rows over one dimension of the mesh: "
                    "call fully_shard(network, mesh=self.device_mesh['data_parallel']) in `configure_model`, without "
                    "tensor parallelism or replication."
                )
        self.rank, self.ranks = first.mesh.get_local_rank(), first.mesh.size()
        self._group = first.mesh.get_group()
        parts = {name: local(param) for name, param in params.items()}
        self._device = next(iter(parts.values())).device
        if odd := [
            name for name, part in parts.items() if len(part) != len(range(len(params[name]))[self._rows(name)])
        ]:
            raise LotteryError(
                f"'{odd[0]}' is sharded, but not in equally many rows: masks of shards know no other way."
            )

    def __bool__(self) -> bool:
        """Whether ranks hold parts."""
        return bool(self._layouts)

    def part(self, name: str, whole: Tensor) -> Tensor:
        """This rank's part of a tensor that lies as the parameter does, in its memory."""
        return whole[self._rows(name)] if self else whole

    def first_row(self, name: str) -> int:
        """The number that the first row of this rank's part has in the whole."""
        return self._rows(name).start if self else 0

    def sum(self, counts: Tensor) -> Tensor:
        """Integers of each rank, added up on all of them. Collective."""
        if not self:
            return counts
        total = counts.to(self._device, copy=True).contiguous()
        torch.distributed.all_reduce(total, group=self._group)
        return total.to(counts.device)

    def whole(self, name: str, part: Tensor) -> Tensor:
        """The tensor, on the CPU, of which each rank has a part that lies as the parameter's does. Collective."""
        if not self:
            return part.detach().cpu()
        # As bytes: not every backend sends truth values.
        bits = part.view(torch.uint8) if part.dtype == torch.bool else part
        tensor: Tensor = self.sharded(name, bits.to(self._device)).full_tensor().cpu()
        return tensor.view(part.dtype)

    def sharded(self, name: str, part: Tensor) -> Any:
        """A DTensor of the parts that ranks have, each lying as the parameter's does."""
        from torch.distributed.tensor import DTensor

        mesh, placements, shape, stride = self._layouts[name]
        whole: Any = DTensor
        return whole.from_local(
            part.detach().contiguous(), mesh, placements, run_check=False, shape=shape, stride=stride
        )

    def on_first(self, parts: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Whole tensors on the first rank, one after the other; nothing on the others. Collective: use it up."""
        for name, part in parts.items():
            whole = self.whole(name, part)
            if self.rank == 0:
                yield name, whole

    def hash(self, tensors: Mapping[str, Tensor]) -> str:
        """A hash of tensors by name, of the hashes that ranks make of their parts: one message a rank. Collective."""
        mine = hash_of_tensors({name: local(tensor) for name, tensor in tensors.items()})
        if not self:
            return mine
        everyone = [""] * self.ranks
        torch.distributed.all_gather_object(everyone, mine, group=self._group)
        return blake2b("".join(everyone).encode(), digest_size=16).hexdigest()

    def _rows(self, name: str) -> slice:
        # Equally many on each rank, the last ones fewer or none.
        size = -(-self._layouts[name].shape[0] // self.ranks)
        return slice(self.rank * size, (self.rank + 1) * size)
