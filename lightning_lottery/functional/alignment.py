"""Align two networks: the order of one's units in which its weights lie nearest to the other's (git re-basin).

The order of hidden units means nothing: a network and its permutation are the same function, with a barrier between
them. Pure weights: no data, no forward pass. A state is on the CPU; sums are in float64.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.connectivity import State

Part = tuple[str, int, int, int]
"""A tensor's name, and dimension, entries per unit and start of the units in it."""


class Coupling(NamedTuple):
    """Units that change places together, and every tensor in which they lie.

    Args:
        size: Number of units.
        parts: For each tensor its name, the dimension, entries per unit, and where they start: unit ``u`` owns
            ``block`` entries of ``dim`` from ``start + u * block`` on. Weights that make the units and weights that
            read them, biases, norms, and running statistics, which move along without a say.
    """

    size: int
    parts: Sequence[Part]


Couplings = Mapping[str, Coupling]
"""Couplings by name."""

Orders = Mapping[str, Tensor]
"""Name of a coupling to its units' numbers, int64, in the order in which they come to stand."""


def match_weights(a: State, b: State, couplings: Couplings, *, seed: int = 0, passes: int = 100) -> dict[str, Tensor]:
    """The order of ``b``'s units in which the inner product of its weights with ``a``'s is highest, as far as found.

    Coordinate descent: for one coupling after another, in random order, the best permutation with all others held (a
    linear assignment), until a pass moves nothing. It is done from two starts, and the better end is kept. One start is
    the order that there is. The other matches units by their sorted weights, which are the same however the units of
    other couplings stand: from there a network finds its own permutation exactly.

    Args:
        a: Trained weights; names that it lacks (buffers) have no say.
        b: As ``a``; what is to be permuted.
        couplings: What may be permuted.
        seed: Of the random order.
        passes: At most, over all couplings.

    Returns:
        Coupling to order, for ``permute(b, couplings, ...)``.

    Example:
        >>> a = {"0.weight": torch.tensor([[1.0], [2.0]]), "2.weight": torch.tensor([[3.0, 4.0]])}
        >>> b = {"0.weight": torch.tensor([[2.0], [1.0]]), "2.weight": torch.tensor([[4.0, 3.0]])}
        >>> match_weights(a, b, {"0": Coupling(2, [("0.weight", 0, 1, 0), ("2.weight", 1, 1, 0)])})
        {'0': tensor([1, 0])}

    Source: Ainsworth et al. 2023, algorithm 1, which has the first start only. Where both dimensions of a tensor move
    together the assignment is its linearisation: there a step counts only if the inner product rises, as everywhere.
    """
    touched = {name for coupling in couplings.values() for name, *_ in coupling.parts} & a.keys()
    a, b = ({name: state[name].double() for name in touched} for state in (a, b))
    as_is = {name: torch.arange(coupling.size) for name, coupling in couplings.items()}
    starts = (as_is, _by_sorted_weights(a, b, couplings))
    ends = [_descend(a, b, couplings, start, seed, passes) for start in starts]
    return max(ends, key=lambda orders: _inner(a, permute(b, couplings, orders)))


def permute(state: State, couplings: Couplings, orders: Orders) -> dict[str, Tensor]:
    """A state with its units in another order: the same function, where the couplings name all that moves with them.

    Args:
        state: Not changed; parts in tensors that it lacks are passed over.
        couplings: Where the units lie.
        orders: For some of the couplings, the units' numbers in their new order.

    Example:
        >>> permute({"w": torch.tensor([1, 2, 3])}, {"0": Coupling(2, [("w", 0, 1, 1)])}, {"0": torch.tensor([1, 0])})
        {'w': tensor([1, 3, 2])}
    """
    permuted = dict(state)
    for name, order in orders.items():
        for tensor, dim, block, start in couplings[name].parts:
            if tensor in permuted:
                # Entries of other units keep their index; for units of two entries from 1 on, in the order 2 0 1:
                #   before  0 | 1 2 | 3 4 | 5 6 | 7        index  0 | 5 6 | 1 2 | 3 4 | 7
                index = torch.arange(permuted[tensor].shape[dim])
                entries = start + order[:, None] * block + torch.arange(block)
                index[start : start + len(order) * block] = entries.flatten()
                permuted[tensor] = permuted[tensor].index_select(dim, index)
    return permuted


def check_orders(couplings: Couplings, orders: Orders, shapes: Mapping[str, Sequence[int]]) -> None:
    """Refuse orders and couplings by which tensors of these shapes cannot be permuted, or none of them would be.

    Args:
        couplings: As for ``permute``.
        orders: As for ``permute``.
        shapes: Name to the shape of a tensor.

    Raises:
        LotteryError: An order of no coupling, or that does not hold each of its units once; a tensor with fewer
            entries than units; no tensor that any coupling names.
    """
    for name, order in orders.items():
        if name not in couplings:
            raise LotteryError(
                f"There is an order of '{name}', and no such coupling: {', '.join(couplings) or 'none'}."
            )
        size = couplings[name].size
        if order.shape != (size,) or not torch.equal(order.sort().values, torch.arange(size)):
            raise LotteryError(f"The order of '{name}' must hold each of its {size} units, 0 to {size - 1}, once.")
        for tensor, dim, block, start in couplings[name].parts:
            shape = shapes.get(tensor, None)
            if shape is not None and (dim >= len(shape) or shape[dim] < start + size * block):
                raise LotteryError(
                    f"'{tensor}' of shape {tuple(shape)} has no {size} units of '{name}' in dimension {dim}: "
                    "the couplings are of another network."
                )
    touched = {part[0] for name in orders for part in couplings[name].parts}
    if orders and not touched & shapes.keys():
        raise LotteryError(
            f"The couplings move none of {', '.join(list(shapes)[:3]) or 'the tensors'}: they name {min(touched)!r}."
        )


def average(states: Sequence[State]) -> dict[str, Tensor]:
    """The mean of several states, computed in float64; what is neither floating-point nor complex comes from the first.

    Example:
        >>> average([{"w": torch.tensor([1.0])}, {"w": torch.tensor([2.0])}])
        {'w': tensor([1.5000])}

    Source: Wortsman et al. 2022 (model soups), the uniform soup.
    """
    return {
        name: torch.stack([state[name].to(torch.promote_types(tensor.dtype, torch.float64)) for state in states])
        .mean(0)
        .to(tensor.dtype)
        if tensor.is_floating_point() or tensor.is_complex()
        else tensor.clone()
        for name, tensor in states[0].items()
    }


def _descend(a: State, b: State, couplings: Couplings, start: Orders, seed: int, passes: int) -> dict[str, Tensor]:
    orders, permuted = dict(start), permute(b, couplings, start)
    random = np.random.default_rng(seed)
    for _ in range(passes):
        moved = False
        for name in random.permutation(list(couplings)):
            coupling = couplings[name]
            parts = [part for part in coupling.parts if part[0] in a]
            # similarity[u, v]: what it adds to the inner product if v of the second network stands where u is.
            similarity = sum(
                _units(a[part[0]], coupling.size, part) @ _units(permuted[part[0]], coupling.size, part).T
                for part in parts
            )
            best = _assigned(similarity)
            touched = {tensor: permuted[tensor] for tensor, *_ in parts}
            candidate = permute(touched, {name: coupling}, {name: best})
            before, after = _inner(a, touched), _inner(a, candidate)
            # Only a real rise counts: rounding could swap equal orders forever, and where both dimensions of a tensor
            # move together the assignment is best for a linearisation only.
            if after - before > 1e-10 * abs(before):
                permuted |= candidate
                orders[name] = orders[name][best]
                moved = True
        if not moved:
            break
    return orders


def _by_sorted_weights(a: State, b: State, couplings: Couplings) -> dict[str, Tensor]:
    """For each coupling the assignment that matches units by weights that no order of another coupling changes.

    Sorted along every other dimension in which units move, a unit's weights do not depend on the order of those units.
    """
    moving = {(tensor, dim) for coupling in couplings.values() for tensor, dim, *_ in coupling.parts}
    orders = {}
    for name, coupling in couplings.items():
        similarity: Tensor | int = 0
        for part in coupling.parts:
            tensor, dim, *_ = part
            if tensor in a:
                sides = []
                for state in (a, b):
                    weights = state[tensor]
                    for moved in range(weights.ndim):
                        if moved != dim and (tensor, moved) in moving:
                            weights = weights.sort(moved).values
                    sides.append(_units(weights, coupling.size, part))
                similarity = similarity + sides[0] @ sides[1].T
        orders[name] = _assigned(similarity)
    return orders


def _units(tensor: Tensor, size: int, part: Part) -> Tensor:
    """A row for each unit: its entries of a tensor."""
    _, dim, block, start = part
    return tensor.narrow(dim, start, size * block).movedim(dim, 0).reshape(size, -1)


def _assigned(similarity: Tensor | int) -> Tensor:
    """Which unit of the second network stands where each of the first does, for the highest sum."""
    from scipy.optimize import linear_sum_assignment

    assert isinstance(similarity, Tensor)
    return torch.from_numpy(linear_sum_assignment(similarity.numpy(), maximize=True)[1])


def _inner(a: State, b: State) -> float:
    return sum(float((a[name] * b[name]).sum()) for name in b)
