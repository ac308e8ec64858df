"""A project given as Python functions: called anew for every child, also in processes of their own."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.seed import seed_everything
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from torch import nn

from lightning_lottery.checks import check_seed_range
from lightning_lottery.children.environment import IMPORTING, environment
from lightning_lottery.errors import LotteryError
from lightning_lottery.hooks.mask_callback import MaskCallback


@dataclass
class BuiltByFactories:
    """What factories built."""

    model: LightningModule
    datamodule: LightningDataModule | None
    trainer: Trainer


@dataclass(frozen=True)
class FactoryProject:
    """A project as functions that build it; Trainers cannot be cloned.

    Args:
        make_module: Called with nothing for every child; gives the LightningModule.
        make_data: Called with nothing; gives the LightningDataModule, or None where the module has its own loaders.
        make_trainer: Called with ``default_root_dir=`` and ``logger=``, to be handed to the Trainer that it gives.
        make_pruner: Called with nothing; gives a callback that the Trainer gets in addition.
        seed: Under which everything is built.

    Raises:
        TypeError: A factory that cannot be called.
    """

    make_module: Callable[[], LightningModule]
    make_data: Callable[[], LightningDataModule | None]
    make_trainer: Callable[..., Trainer]
    make_pruner: Callable[[], MaskCallback] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, function in self._functions().items():
            # A module is callable, but one module would be trained by every child in turn.
            if not callable(function) or isinstance(function, nn.Module):
                raise TypeError(f"`{name}` is a function that is called for every child, got {function!r}.")

    @classmethod
    def load(cls, config: Mapping[str, Any]) -> "FactoryProject":
        """Import the factories that a child's configuration names.

        Raises:
            LotteryError: One is not there, or another than where the configuration was written.
        """
        described = {name: value for name, value in config.items() if name.startswith("make_")}
        functions = {name: imported(value["function"]) for name, value in described.items()}
        project = cls(**functions, seed=config["seed_everything"])
        for name, function in project._functions().items():
            now = _description_of(function)
            # Not the address: a script is `__main__` where it runs, and a module of another name in its children.
            if any(now[part] != described[name].get(part) for part in ("source", "values")):
                raise LotteryError(
                    f"`{name}` is another when a child imports '{now['function']}' than where the analysis began: what "
                    'it uses must not be set under `if __name__ == "__main__"` or by the command line.'
                )
        return project

    def config(self) -> dict[str, Any]:
        """Where the factories are found, and what they are made of, so that changes show; and the seed."""
        functions = {name: _description_of(function) for name, function in self._functions().items()}
        return {**functions, "seed_everything": self.seed}

    @property
    def is_importable(self) -> bool:
        """Whether another process finds all factories."""
        return all(address_of(function) for function in self._functions().values())

    def with_seed(self, seed: int) -> "FactoryProject":
        """The same, built under another seed.

        Raises:
            LotteryError: The seed is none.
        """
        check_seed_range("seeds", [seed])
        return replace(self, seed=seed)

    def with_pruner(self, make_pruner: Callable[[], MaskCallback]) -> "FactoryProject":
        """The same, whose Trainer has a callback more."""
        return replace(self, make_pruner=make_pruner)

    def build(
        self,
        folder: Path,
        subcommand: str,
        logger: Logger | bool,
        callbacks: Callable[[list[Callback]], list[Callback]],
    ) -> BuiltByFactories:
        """Build everything under the seed; ``subcommand`` makes no difference.

        Raises:
            LotteryError: ``make_data`` gives something else than a data module or None, ``make_trainer`` does not take
                what it is called with, or the Trainer would start this program anew for its further ranks, which only a
                child's own process can bear.
        """
        seed_everything(self.seed, workers=True, verbose=False)
        # In this order, module before data: each draws from the random numbers that the one before left.
        model, data = self.make_module(), self.make_data()
        if data is not None and not isinstance(data, LightningDataModule):
            raise LotteryError(
                f"`make_data` gives a LightningDataModule, or None where the module has its own loaders, "
                f"got {type(data).__name__}."
            )
        trainer = self._trainer(str(folder), logger)
        pruners = [] if self.make_pruner is None else [self.make_pruner()]
        trainer.callbacks = callbacks([*trainer.callbacks, *pruners])  # type: ignore[attr-defined]
        launcher = trainer.strategy.launcher
        # DDP's launcher starts `sys.argv` once more for each further rank: a notebook's kernel, or the whole analysis.
        if not self.is_importable and launcher is not None and not launcher.is_interactive_compatible:
            raise LotteryError(
                f"{type(trainer.strategy).__name__} starts this program anew for each rank: give factories that a "
                "process of its own can import, functions at the top of a file."
            )
        return BuiltByFactories(model, data, trainer)

    def _trainer(self, folder: str, logger: Any) -> Trainer:
        try:
            return self.make_trainer(default_root_dir=folder, logger=logger)
        except TypeError as error:
            if "default_root_dir" not in str(error) and "logger" not in str(error):
                raise
            raise LotteryError(
                "`make_trainer` is called with a child's own default_root_dir= and logger=, and hands both to its "
                f"Trainer: `def make_trainer(**arguments): return Trainer(..., **arguments)`. {error}"
            ) from error

    def _functions(self) -> dict[str, Callable[..., Any]]:
        functions = {name: getattr(self, name) for name in ("make_module", "make_data", "make_trainer")}
        return functions if self.make_pruner is None else {**functions, "make_pruner": self.make_pruner}


def address_of(function: Callable[..., Any]) -> str:
    """Where another process finds a function: ``package.module:name`` or ``/path/script.py:name``; "" if nowhere."""
    name, module = getattr(function, "__qualname__", ""), getattr(function, "__module__", "")
    is_bound = inspect.ismethod(function) and not inspect.isclass(function.__self__)
    if not name or "<" in name or not module or is_bound:
        return ""  # "<": a lambda, or a function within a function
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
        LotteryError: There is none, or its module or one that it needs is not there.
    """
    where, _, name = address.rpartition(":")
    try:
        function: Any = _script(where) if where.endswith(".py") else importlib.import_module(where)
    except ModuleNotFoundError as error:
        raise LotteryError(f"'{where}' cannot be imported for its function '{name}': {error}.") from error
    for part in name.split("."):
        function = getattr(function, part, None)
    if not callable(function):
        raise LotteryError(f"There is no function '{name}' in '{where}'.")
    return function  # type: ignore[no-any-return]


def _script(path: str) -> Any:
    """A script as a module; what it does under ``if __name__ == "__main__"`` is not done."""
    name = f"lottery_script_{Path(path).stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        sys.path.insert(0, str(Path(path).parent))
        with environment(**{IMPORTING: path}):
            spec.loader.exec_module(module)
    return sys.modules[name]


def _description_of(function: Callable[..., Any]) -> dict[str, Any]:
    """What a child was made from: the function's address, the hash of its file, and plain values that it uses.

    The file alone would not do for a closure, ``lambda: Net(lr=lr)``, which is another for each ``lr``. What lies in
    other files (or cells of a notebook) is not seen.
    """
    called: Any = function
    values: dict[str, Any] = {}
    while isinstance(called, partial):
        values |= {f"argument {number}": value for number, value in enumerate(called.args)} | called.keywords
        called = called.func
    if inspect.isfunction(called):
        used = inspect.getclosurevars(called)
        values |= {**used.globals, **used.nonlocals}
    # As written, and only plain ones: the representation of an object may hold an address of memory.
    plain = {name: repr(value) for name, value in sorted(values.items()) if _is_plain(value)}
    return {"function": address_of(function), "source": _hash_of_source(called), "values": plain}


def _hash_of_source(function: Any) -> str:
    """Of the whole file that defines a function or class; of its cell in a notebook; "" where there is no source."""
    try:
        lines, _ = inspect.findsource(function)
    except (OSError, TypeError):
        return ""
    return blake2b("".join(lines).encode(), digest_size=16).hexdigest()


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(key) and _is_plain(inner) for key, inner in value.items())
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))
