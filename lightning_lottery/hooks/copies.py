"""Copies of what a module remembers, for code that is run and then must not have been."""

import sys
from collections import deque
from collections.abc import Iterable
from copy import copy
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

LARGEST = 2**28
"""Bytes of tensors and arrays inside of containers and objects that are copied; what is beyond is shared."""

_NOT_OF_PROJECTS = sys.stdlib_module_names | {
    "lightning",
    "lightning_fabric",
    "lightning_lottery",
    "torch",
    "torchmetrics",
}


class Copies:
    """Copies of values in which changes in place do not reach the originals.

    Containers are copied with all that is in them, and objects of a project's own classes and modules that hide in them
    with all of their attributes, each once. Functions and objects of libraries are shared: optimizers and loggers know
    them by identity. What cannot be copied is shared as well, and a warning says so.

    Args:
        shared: What is handed on wherever it is met.
    """

    def __init__(self, shared: Iterable[Any] = ()) -> None:
        # By identity, as in `copy.deepcopy`: tensors compare entry by entry, and most containers have no hash.
        self._copies: dict[int, Any] = {id(value): value for value in shared}
        self._left = LARGEST
        self._shared: set[str] = set()

    def of_attribute(self, value: Any) -> Any:
        """A copy of one attribute of a module; a tensor whatever its size."""
        if isinstance(value, Tensor) and id(value) not in self._copies:
            return value.detach().clone()
        try:
            return self._copied(value)
        except RecursionError:
            self._shared.add("containers of a thousand levels")
            return value

    def warn(self) -> None:
        """Say what is shared though it may change, if there is anything."""
        if self._shared:
            rank_zero_warn(
                f"Scoring calls the module, and cannot copy what it keeps in {', '.join(sorted(self._shared))}: if "
                "`training_step` changes that, the scored batches leave a trace."
            )

    def _copied(self, value: Any) -> Any:
        if id(value) in self._copies:
            return self._copies[id(value)]
        if isinstance(value, (Tensor, np.ndarray)):
            return self._keep(value, self._of_array(value))
        if isinstance(value, tuple):
            items = list(map(self._copied, value))
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        if isinstance(value, (list, set, deque)):
            twin = self._keep(value, copy(value))
            items = [self._copied(item) for item in value]
            twin.clear()
            twin.update(items) if isinstance(twin, set) else twin.extend(items)
            return twin
        if isinstance(value, dict):
            twin = self._keep(value, copy(value))
            for key, item in value.items():
                twin[key] = self._copied(item)
            return twin
        return self._of_object(value) if _is_of_project(value) else value

    def _of_array(self, value: Any) -> Any:
        self._left -= value.nbytes
        if self._left < 0:
            self._shared.add("large tensors or arrays")
            return value
        return value.detach().clone() if isinstance(value, Tensor) else value.copy()

    def _of_object(self, value: Any) -> Any:
        try:
            twin = self._keep(value, copy(value))
            for name in (*getattr(value, "__dict__", ()), *_slots(value)):
                object.__setattr__(twin, name, self._copied(getattr(value, name)))
        except Exception:  # a project's own `__copy__` or `__reduce__` may raise anything
            self._shared.add(f"a {type(value).__name__}")
            return self._keep(value, value)
        return twin

    def _keep(self, value: Any, twin: Any) -> Any:
        self._copies[id(value)] = twin
        return twin


def _is_of_project(value: Any) -> bool:
    if isinstance(value, nn.Module):
        return True  # not one of `shared`: it hides in a list or an object, as teachers and averages do
    is_library = type(value).__module__.partition(".")[0] in _NOT_OF_PROJECTS
    return not isinstance(value, type) and not is_library and (hasattr(value, "__dict__") or bool(_slots(value)))


def _slots(value: Any) -> list[str]:
    names = [name for cls in type(value).__mro__ for name in _names(cls.__dict__.get("__slots__", ()))]
    return [name for name in names if name not in ("__dict__", "__weakref__") and hasattr(value, name)]


def _names(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)
