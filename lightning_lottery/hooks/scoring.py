"""What scoring asks of a module and its Trainer, and leaves as it was: calls with other weights, training batches."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import copy
from itertools import islice
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parameter import UninitializedParameter
from torch.utils import checkpoint as checkpointing

from lightning_lottery.diagnosis import run
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.random_numbers import random_numbers_kept
from lightning_lottery.functional.scores import Loss
from lightning_lottery.hooks.copies import Copies
from lightning_lottery.hooks.private import pretend_dtype_, training_arguments, training_loader, without_iterator
from lightning_lottery.hooks.quiet import without_logging
from lightning_lottery.scope import named_parameters, plain_name

_REGISTERS = vars(nn.Module()).keys()


@contextmanager
def untouched(trainer: Trainer, dtype: torch.dtype | None) -> Iterator[LightningModule]:
    """Lend the fit's module for scoring in ``dtype``: whatever the block does to it is undone, also if it raises.

    The block works on copies of every attribute that could change in place, as ``Copies`` makes them. It must call the
    module through ``with_state``, which stands in for parameters and buffers. Random numbers go on afterwards as if
    nothing had been drawn, nothing is logged; inside, code runs uncompiled and without autocast, with kernels that can
    be differentiated twice, and activation checkpoints keep their activations. A ``dtype`` of None: the module's own.
    """
    module, device = trainer.lightning_module, trainer.strategy.root_device
    # Shallow on purpose: restored, they bring back the very objects, which optimizers and hooks know by identity.
    attributes = [(child, dict(vars(child))) for child in module.modules()]
    loggers = trainer.loggers
    with ExitStack() as stack:
        # First in, last out: whatever is undone below is undone on the copies, then the attributes come back.
        stack.callback(_restore, attributes)
        stack.callback(setattr, trainer, "loggers", loggers)
        stack.enter_context(random_numbers_kept(device))
        # Autocast would round matrix products to half precision, whatever ``dtype`` is.
        stack.enter_context(torch.autocast(device.type, enabled=False))
        stack.enter_context(torch.enable_grad())
        # GraSP differentiates twice: fused attention and compiled graphs have no second derivative (torch 2.14).
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(_activations_kept())
        if any(isinstance(child, nn.RNNBase) for child in module.modules()):
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))  # its RNNs have no backward in eval mode
        copies = Copies(shared=(*module.modules(), *module.parameters(), *module.buffers()))
        for child, values in attributes:
            vars(child).update(
                # A module's registers are flat: what they hold is lent, or visited by itself.
                {name: copy(v) if name in _REGISTERS else copies.of_attribute(v) for name, v in values.items()}
            )
            if isinstance(child, LightningModule):
                stack.enter_context(without_logging(child))
                if dtype is not None:
                    pretend_dtype_(child, dtype)
        # A module may also write to `self.logger.experiment` itself, which muting `log` does not reach.
        trainer.loggers = [DummyLogger() for _ in loggers]
        copies.warn()
        yield module


def state_of(module: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Copies of a module's parameters and buffers by name; what is floating-point in ``dtype``.

    Raises:
        LotteryError: A parameter has no shape yet.
    """
    state: dict[str, Tensor] = {}
    for name, parameter in named_parameters(module).items():
        if isinstance(parameter, UninitializedParameter):
            raise LotteryError(f"'{name}' has no shape yet: run one batch through the lazy module before fitting.")
        differentiable = parameter.is_floating_point() or parameter.is_complex()
        state[name] = nn.Parameter(_copied(parameter, dtype), differentiable)
    return {**state, **{plain_name(name): _copied(buffer, dtype) for name, buffer in module.named_buffers()}}


def with_state(module: nn.Module, method: str, dtype: torch.dtype | None) -> Callable[..., Any]:
    """A method of the module as a function of its state: ``f(state, *args, **kwargs)``; names as ``state_of`` gives.

    Tensors that the method makes without naming a dtype, such as ``torch.zeros(3)``, get ``dtype``. Where it is None,
    every tensor of the state is lent in the dtype that the module's has, and gradients come back in the state's. To be
    made and called inside one block of ``untouched``.
    """
    # `torch.func.functional_call` does the same, but looks up every name anew at each call: a tenth of a ResNet-20's
    # forward and backward pass, of which SynFlow makes a hundred.
    owners = _owners_of_tensors(module)

    def call(state: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        # A tied weight stands in several modules: all of them must be lent the same tensor, or its gradient is a part.
        swaps = [(tensors, leaf, tensors[leaf], lent) for name, lent in state.items() for tensors, leaf in owners[name]]
        default = torch.get_default_dtype()
        try:
            torch.set_default_dtype(dtype or default)
            for tensors, leaf, tensor, lent in swaps:
                # Into the dictionary itself: `setattr` refuses a plain tensor where a Parameter is registered.
                tensors[leaf] = lent if dtype else lent.to(tensor.dtype)
            return getattr(module, method)(*args, **kwargs)
        finally:
            for tensors, leaf, tensor, _ in swaps:
                tensors[leaf] = tensor
            torch.set_default_dtype(default)

    return call


@contextmanager
def outputs_divided(module: nn.Module, temperature: float) -> Iterator[None]:
    """What the module's own call returns, its logits, is divided inside; 1 changes nothing.

    Raises:
        LotteryError: The block does not call the module, or the call returns something else than one tensor.
    """
    returned: list[str] = []

    def divide(_: nn.Module, __: Any, output: Any) -> Any:
        returned.append(type(output).__name__)
        return output / temperature if isinstance(output, Tensor) else output

    handle = module.register_forward_hook(divide) if temperature != 1 else None
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()
    if handle is not None and {*returned} != {"Tensor"}:
        what = f"the call of {type(module).__name__} returns {returned[0]}" if returned else "it is not called"
        raise LotteryError(
            f"`temperature` divides the logits that `self(...)` returns in `training_step` as one tensor, but {what}: "
            "leave it at 1, or divide them in the module."
        )


@contextmanager
def optimizers_untouched(trainer: Trainer) -> Iterator[None]:
    """For a ``training_step`` that may ask optimizers itself: one that is to step raises, gradients come back."""
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    params = [param for group in groups for param in group["params"]]
    before = [(param, param.grad, param.requires_grad) for param in params]
    hooks = [optimizer.register_step_pre_hook(_refuse_step) for optimizer in trainer.optimizers]
    try:
        for param in params:
            param.grad = None  # so that a `zero_grad` in place finds none
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for param, gradient, wants_one in before:
            param.requires_grad_(wants_one)
            param.grad = gradient


def _refuse_step(*_: Any) -> None:
    raise RuntimeError("an optimizer steps while the network is scored")


def _owners_of_tensors(module: nn.Module) -> dict[str, list[tuple[dict[str, Any], str]]]:
    """Where modules keep each parameter and buffer: in several dictionaries where it is tied."""
    owners: dict[str, list[tuple[dict[str, Any], str]]] = {}
    # By the first name of a tied tensor, as `named_parameters` gives it.
    first_names: dict[Tensor, str] = {}
    for path, child in module.named_modules():
        for tensors in (child._parameters, child._buffers):
            for leaf, tensor in tensors.items():
                if tensor is not None:
                    name = first_names.setdefault(tensor, plain_name(f"{path}.{leaf}" if path else leaf))
                    owners.setdefault(name, []).append((tensors, leaf))
    return owners


def cast(value: Any, dtype: torch.dtype | None, scale: float = 1.0) -> Any:
    """The same with every floating-point tensor inside in ``dtype`` (None: its own), times ``scale``."""
    return apply_to_collection(value, Tensor, lambda t: t.to(dtype or t.dtype) * scale if t.is_floating_point() else t)


def training_batches(
    trainer: Trainer, n: int, change: Callable[[Any], Any] | None = None
) -> list[OrderedDict[str, Any]]:
    """What ``training_step`` gets for the first ``n`` batches of an epoch (or all it has); no loader moves on.

    Copies of the loaders are asked, or what ``change`` makes of each copy. Generators of theirs are set back; what a
    data set keeps to itself is not known.

    Raises:
        LotteryError: There is no batch, or a loader cannot be copied.
    """
    combined = training_loader(trainer)
    # Copies: the fit's loaders stay where they are in their epoch.
    twin = without_iterator(combined)
    copies = map(_unstarted, combined.flattened)
    twin.flattened = list(copies if change is None else map(change, copies))
    # The copies are shallow, so a generator is the loader's own: one shuffle more would change all later epochs.
    generators = [(g, g.get_state()) for loader in combined.flattened for g in generators_of(loader)]
    try:
        # Infinite where nobody knows the length: `int` comes after the minimum.
        drawn = [batch for batch, _, _ in islice(iter(twin), int(min(n, trainer.num_training_batches)))]
    finally:
        twin.reset()  # ends the workers of the copies
        for generator, state in generators:
            generator.set_state(state)
    if not drawn:
        raise LotteryError(
            "The training loader gave no batch to score with: it is empty, or `drop_last` or a limit leaves it none."
        )
    return [training_arguments(trainer, batch, index) for index, batch in enumerate(drawn)]


def outputs_of(module: nn.Module, batch: Any, *more: Any) -> Any:
    """What a module makes of a batch by its ``forward`` or, where it has none, by its ``training_step``.

    Rather not by ``training_step``, whose loss may hold every weight by itself, as a penalty does.

    Args:
        module: A LightningModule.
        batch: As ``training_step`` gets it.
        more: What else ``training_step`` takes.
    """
    assert isinstance(module, LightningModule)
    if type(module).forward is not LightningModule.forward:
        return run(module, batch)
    with without_logging(module):
        return module.training_step(batch, *more)


def loss_of(module: LightningModule, state: Mapping[str, Tensor], dtype: torch.dtype | None, who: str) -> Loss:
    """The loss of ``training_step`` as a function of some weights and of what it gets; ``state`` has the others."""
    step = with_state(module, "training_step", dtype)
    return lambda weights, arguments: loss_in(step({**state, **weights}, *arguments.values()), who)


def loss_in(output: Any, who: str) -> Tensor:
    """The loss in what ``training_step`` returned.

    Raises:
        LotteryError: There is none.
    """
    value = output.get("loss") if isinstance(output, Mapping) else output
    if not isinstance(value, Tensor):
        raise LotteryError(f"{who} needs the loss, and `training_step` returned {value!r} for a batch.")
    return value


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in nested mappings, tuples and lists, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)


def _restore(attributes: list[tuple[nn.Module, dict[str, Any]]]) -> None:
    for child, values in attributes:
        vars(child).clear()
        vars(child).update(values)


def _copied(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to(dtype if tensor.is_floating_point() else tensor.dtype, copy=True)


@contextmanager
def _activations_kept() -> Iterator[None]:
    """``torch.utils.checkpoint`` computes nothing again: by then other weights would be in place than those scored."""
    # `checkpoint` looks these up in its module when it is called, so that standing in for them there reaches every
    # caller, under whatever name it imported `checkpoint`. By their beginning, for torch 2.14 has two.
    names = [name for name in vars(checkpointing) if name.startswith("_checkpoint_without_reentrant_generator")]
    instead = {"CheckpointFunction": _Direct, **dict.fromkeys(names, _nothing_around)}
    before = {name: getattr(checkpointing, name) for name in instead}
    vars(checkpointing).update(instead)
    try:
        yield
    finally:
        vars(checkpointing).update(before)


class _Direct:
    """Stands in for the function of reentrant checkpoints."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        return function(*args)


def _nothing_around(*_: Any, **__: Any) -> Iterator[None]:
    """Stands in for what torch does around the function: it is advanced once before it and once after."""
    yield


def _unstarted(loader: Any) -> Any:
    """A copy with a position and workers of its own, so that the loader's stays where it is."""
    try:
        return without_iterator(loader)
    except TypeError as error:
        raise LotteryError(
            f"The training loader, of type {type(loader).__name__}, cannot be copied, so reading it would move it on: "
            "give a DataLoader or another object whose iteration can begin anew."
        ) from error


def generators_of(loader: Any) -> list[torch.Generator]:
    """What a loader and its samplers draw from, where it is theirs."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    holders = (loader, getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None))
    generators = [getattr(holder, "generator", None) for holder in holders]
    return [generator for generator in generators if isinstance(generator, torch.Generator)]
