"""A project given as Python functions: called anew for every child, also in processes of their own."""

import importlib
import importlib.util
import inspect
import os
import sys
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.seed import seed_everything
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from torch import nn

from lightning_lottery.errors import LotteryError
from lightning_lottery.hooks.mask_callback import MaskCallback

IMPORTING = "LOTTERY_IMPORTING"
"""Set while a child imports the script of its factories, which must not run the analysis again."""


@dataclass(frozen=True)
class Factories:
    """What builds a project; Trainers cannot be cloned.

    Args:
        make_module: Called with nothing; a LightningModule.
        make_data: Called with nothing; a LightningDataModule, or None where the module has its own loaders.
        make_trainer: Called with ``default_root_dir=`` and ``logger=``; a Trainer.
        make_pruner: Called with nothing; a callback that the Trainer gets in addition.
    """

    make_module: Callable[[], LightningModule]
    make_data: Callable[[], LightningDataModule | None]
    make_trainer: Callable[..., Trainer]
    make_pruner: Callable[[], MaskCallback] | None = None

    def __post_init__(self) -> None:
        for name, function in self._functions().items():
            if not callable(function) or isinstance(function, nn.Module):
                raise TypeError(f"`{name}` is a function that is called for every child, got {function!r}.")

    @staticmethod
    def are_in(config: Mapping[str, Any]) -> bool:
        """Whether a child's configuration names factories, rather than being fit's YAML."""
        return "make_module" in config

    @classmethod
    def load(cls, config: Mapping[str, Any]) -> "Factories":
        """Import the factories that a child's configuration names."""
        named = {name: found for name, found in config.items() if name.startswith("make_")}
        found = cls(**{name: imported(of["function"]) for name, of in named.items()})
        for name, own in found.config().items():
            if own["source"] != named[name]["source"]:
                raise LotteryError(
                    f"`{name}` is another when a child imports '{own['function']}' than where the analysis began: what "
                    'it uses must not be set under `if __name__ == "__main__"` or by the command line.'
                )
        return found

    def config(self) -> dict[str, Any]:
        """What a child's configuration says of them: where they are found, and their source, so that changes show."""
        return {
            name: {"function": address_of(function), "source": _source(function)}
            for name, function in self._functions().items()
        }

    @property
    def are_importable(self) -> bool:
        """Whether another process finds all of them."""
        return all(address_of(function) for function in self._functions().values())

    def project(
        self, seed: int, folder: str, logger: Logger | bool, callbacks: Callable[[list[Callback]], list[Callback]]
    ) -> "FactoryProject":
        """Everything built under a seed, with callbacks of ours added to the Trainer's.

        Raises:
            LotteryError: ``make_data`` gives something else than a data module or None, or the Trainer would start this
                program anew for its further ranks, which only a child's own process can bear.
        """
        seed_everything(seed, workers=True, verbose=False)
        model, data = self.make_module(), self.make_data()
        if data is not None and not isinstance(data, LightningDataModule):
            raise LotteryError(
                f"`make_data` gives a LightningDataModule, or None where the module has its own loaders, "
                f"got {type(data).__name__}."
            )
        trainer = self.make_trainer(default_root_dir=folder, logger=logger)
        own = [] if self.make_pruner is None else [self.make_pruner()]
        trainer.callbacks = callbacks([*trainer.callbacks, *own])  # type: ignore[attr-defined]
        launcher = trainer.strategy.launcher
        if not self.are_importable and launcher is not None and not launcher.is_interactive_compatible:
            raise LotteryError(
                f"{type(trainer.strategy).__name__} starts this program anew for each rank: give factories that a "
                "process of its own can import, functions at the top of a file."
            )
        return FactoryProject(model, data, trainer)

    def _functions(self) -> dict[str, Callable[..., Any]]:
        named = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: function for name, function in named.items() if name != "make_pruner" or function is not None}


@dataclass
class FactoryProject:
    """What factories built."""

    model: LightningModule
    datamodule: LightningDataModule | None
    trainer: Trainer


def address_of(function: Callable[..., Any]) -> str:
    """Where another process finds a function: ``package.module:name`` or ``/path/script.py:name``; "" if nowhere."""
    name, module = getattr(function, "__qualname__", ""), getattr(function, "__module__", "")
    is_bound = inspect.ismethod(function) and not inspect.isclass(function.__self__)
    if not name or "<" in name or not module or is_bound:
        return ""
    if module != "__main__":
        return f"{module}:{name}"
    main = sys.modules["__main__"]
    if spec := getattr(main, "__spec__", None):
        return f"{spec.name}:{name}"  # `python -m package.module`
    file = getattr(main, "__file__", None)
    return f"{Path(file).resolve()}:{name}" if file and Path(file).is_file() else ""


def imported(address: str) -> Callable[..., Any]:
    """The function at an address.

    Raises:
        LotteryError: There is none.
    """
    where, _, name = address.rpartition(":")
    found: Any = _script(where) if where.endswith(".py") else importlib.import_module(where)
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise LotteryError(f"There is no function '{name}' in '{where}'.")
    return found  # type: ignore[no-any-return]


def _script(path: str) -> Any:
    """A script as a module; what it does under ``if __name__ == "__main__"`` is not done."""
    name = f"lottery_script_{Path(path).stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        sys.path.insert(0, str(Path(path).parent))
        os.environ[IMPORTING] = path
        try:
            spec.loader.exec_module(module)
        finally:
            del os.environ[IMPORTING]
    return sys.modules[name]


def _source(function: Any) -> str:
    """A function's or class's source, with the project's own functions, classes and plain values that it uses."""
    parts: dict[str, str] = {}
    _describe(function, parts)
    return "".join(parts.values())


def _describe(found: Any, parts: dict[str, str]) -> None:
    """Add what a function or class is to the parts, and what of the same project it uses."""
    if isinstance(found, partial):
        _describe(found.func, parts)
        parts[f"partial {len(parts)}"] = f"# {found.args!r} {found.keywords!r}\n" if _is_plain_call(found) else ""
        return
    name = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', type(found).__qualname__)}"
    if name in parts:
        return
    try:
        parts[name] = inspect.getsource(found)
    except (OSError, TypeError):
        parts[name] = f"# {name}\n"
        return
    inner = [found] if not inspect.isclass(found) else [f for f in vars(found).values() if inspect.isfunction(f)]
    for function in filter(inspect.isfunction, inner):
        used = inspect.getclosurevars(function)
        for key, value in sorted({**used.globals, **used.nonlocals}.items()):
            if _is_plain(value):
                parts[f"{name} {key}"] = f"# {key} = {value!r}\n"
            elif (inspect.isfunction(value) or inspect.isclass(value)) and _is_own(value):
                _describe(value, parts)


def _is_own(found: Any) -> bool:
    """Whether it is the project's: neither Python's, nor installed, nor ours."""
    file = inspect.getsourcefile(found) if getattr(found, "__module__", "builtins") != "builtins" else None
    paths = sysconfig.get_paths()
    installed = [paths[kind] for kind in ("stdlib", "platstdlib", "purelib", "platlib")] + [
        str(Path(__file__).parents[1])
    ]
    return file is not None and not any(Path(file).is_relative_to(folder) for folder in installed)


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(key) and _is_plain(inner) for key, inner in value.items())
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _is_plain_call(found: "partial[Any]") -> bool:
    return _is_plain(found.args) and _is_plain(found.keywords)
