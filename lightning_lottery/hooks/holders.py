"""Who holds the parameters of a fit besides its module: optimizers, which can follow, and others, which cannot."""

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from lightning_lottery.errors import LotteryError
from lightning_lottery.frozen import refuse_without_hooks
from lightning_lottery.hooks.left_out import held_by
from lightning_lottery.hooks.private import has_gradient_hooks
from lightning_lottery.units.cuts import Cut

_REGISTERS = vars(nn.Module()).keys()
_OURS = __name__.partition(".")[0]


def follow_(optimizer: Optimizer, cuts: Iterable[Cut]) -> None:
    """Let an optimizer go on with smaller parameters: the same groups in the same order, and the entries of its state.

    Schedulers, scalers and Lightning's wrapper hold the optimizer and its groups: all of these stay the same objects.
    """
    by_tensor = {cut.before: cut for cut in cuts}
    for group in optimizer.param_groups:
        group["params"][:] = [by_tensor[p].after if p in by_tensor else p for p in group["params"]]
    state = list(optimizer.state.items())
    optimizer.state.clear()
    for param, kept in state:
        if (cut := by_tensor.get(param)) is None:
            optimizer.state[param] = kept
        else:
            optimizer.state[cut.after] = {
                key: cut.entries_of(value) if _is_by_entry(key, value, param) else value for key, value in kept.items()
            }


def refuse_optimizers(
    optimizers: Sequence[Optimizer], tensors: Mapping[str, Tensor], who: str, *, is_tried: bool = True
) -> None:
    """Refuse optimizers that could not go on with smaller tensors.

    Args:
        optimizers: All that Lightning knows.
        tensors: What is to lose entries, by name.
        who: The beginning of what is said.
        is_tried: Whether to find out what an optimizer keeps by a step of a copy of it, with a tensor of its own:
            before the first step nothing is there to look at.

    Raises:
        LotteryError: None that holds any of them; or one that keeps tensors elsewhere than with its parameters, or in
            another shape than theirs.
    """
    refuse_without_hooks(optimizers, who)
    names = {id(tensor): name for name, tensor in tensors.items()}
    if not any(id(param) in names for param in held_by(optimizers)):
        raise LotteryError(
            f"{who} no optimizer that Lightning knows trains '{next(iter(tensors))}': one of the module's own would go "
            "on with what is no more. Return it from `configure_optimizers`."
        )
    for optimizer in optimizers:
        cut = [param for param in held_by([optimizer]) if id(param) in names]
        kind = type(optimizer).__name__
        for attribute, value in vars(optimizer).items() if cut else ():
            if attribute not in ("state", "param_groups", "defaults") and any(True for _ in _tensors_in(value)):
                raise LotteryError(f"{who} {kind} keeps tensors of the old shapes in '{attribute}': {_USE}")
        state = dict(optimizer.state)
        for like in {param.ndim: param for param in cut if is_tried}.values():
            state |= _state_of_a_step(optimizer, like, who)
        for param, kept in state.items():
            for key, value in kept.items() if id(param) in names or param not in optimizer.state else ():
                if isinstance(value, Tensor) and value.numel() > 1 and not _is_by_entry(key, value, param):
                    raise LotteryError(f"{who} {kind} keeps '{key}' in another shape than the parameter's: {_USE}")


def refuse_holders(module: nn.Module, callbacks: Iterable[Callback], tensors: Mapping[str, Tensor], who: str) -> None:
    """Refuse whoever keeps one of these tensors where nobody would find it.

    Raises:
        LotteryError: A list or an optimizer in an attribute of a module or a callback of the project, a hook on the
            tensor, an average of a part of the module, or a tensor that is no plain one.
    """
    names = {id(tensor): name for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        if type(tensor.data) is not Tensor or type(tensor) not in (Tensor, nn.Parameter):
            raise LotteryError(f"{who} '{name}' is stored as {type(tensor).__name__}, which cannot be cut by entry.")
        if has_gradient_hooks(tensor):
            raise LotteryError(f"{who} '{name}' has a hook on its gradient, which the smaller one would not have.")
    for child in module.modules():
        attributes = {name: value for name, value in vars(child).items() if name not in _REGISTERS}
        _refuse_attributes(child, attributes, names, who)
        if isinstance(child, AveragedModel):
            raise LotteryError(f"{who} the module averages a part of itself: {_AVERAGE}")
    for callback in callbacks:
        # Of Lightning's callbacks and of ours it is known what they hold.
        if type(callback).__module__.partition(".")[0] not in ("lightning", _OURS):
            _refuse_attributes(callback, vars(callback), names, who)
            for value in vars(callback).values():
                if isinstance(value, AveragedModel) and type(value.module) is not type(module):
                    raise LotteryError(f"{who} {type(callback).__name__} averages a part of the module: {_AVERAGE}")


def _refuse_attributes(holder: object, attributes: Mapping[str, Any], names: Mapping[int, str], who: str) -> None:
    for attribute, value in attributes.items():
        if held := [names[id(tensor)] for tensor in _tensors_in(value) if id(tensor) in names]:
            raise LotteryError(
                f"{who} '{attribute}' of {type(holder).__name__} keeps '{held[0]}' by itself, which would be trained "
                "no more: look parameters up where they are needed."
            )


_AVERAGE = "let a callback average the whole, as Lightning's WeightAveraging."
_USE = "use an optimizer whose state has a tensor of the parameter's shape for each, such as SGD or AdamW."


def _is_by_entry(key: str, value: Any, param: Tensor) -> bool:
    """Whether an optimizer keeps a number for each entry of a parameter."""
    return key != "step" and type(value) in (Tensor, nn.Parameter) and value.shape == param.shape


def _state_of_a_step(optimizer: Optimizer, like: Tensor, who: str) -> dict[Tensor, dict[str, Any]]:
    """What an optimizer keeps of a small parameter after one step, found out on a copy that shares no state."""
    tiny = nn.Parameter(like.detach().new_zeros([2 + dim for dim in range(like.ndim)]))  # no two dimensions are alike
    tiny.grad = torch.zeros_like(tiny)
    twin: Any = object.__new__(type(optimizer))
    # Hooks, which see only the steps of a fit, lie in dictionaries of this kind (torch 2.14).
    hooks = [name for name, value in vars(optimizer).items() if isinstance(value, OrderedDict)]
    (group,) = [g for g in optimizer.param_groups if any(p is like for p in g["params"])][:1]
    vars(twin).update(vars(optimizer), state=defaultdict(dict), param_groups=[{**group, "params": [tiny]}])
    vars(twin).update({name: OrderedDict() for name in hooks})
    try:
        type(optimizer).step(twin)  # of the class: schedulers stand in for the instance's own
    except Exception as error:  # whatever somebody's optimizer raises where it is stepped alone
        raise LotteryError(
            f"{who} {type(optimizer).__name__} does not step by itself ({type(error).__name__}: {error}), so that "
            f"nobody knows what it keeps: {_USE}"
        ) from error
    return dict(twin.state)


def _tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in nested containers, and those of optimizers."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Optimizer):
        yield from held_by([value])
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors_in(item)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from _tensors_in(item)
