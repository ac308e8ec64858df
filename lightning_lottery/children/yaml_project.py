"""A project given as YAML, as Lightning's command line reads it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.loggers import Logger

from lightning_lottery.checks import check_seed_range
from lightning_lottery.children.progress import FitProgress
from lightning_lottery.errors import LotteryError
from lightning_lottery.hooks.mask_callback import MaskCallback

if TYPE_CHECKING:
    from lightning_lottery.children.cli import ResolvedCLI


@dataclass(frozen=True)
class ConfiguredCallback:
    """A callback by its class and arguments, as YAML names it: a factory that is plain values.

    Args:
        class_path: ``package.module.Class``.
        init_args: Of the class, plain values; classes among them as ``class_path`` and ``init_args``.
    """

    class_path: str
    init_args: Mapping[str, Any]

    def __call__(self) -> MaskCallback:
        """The callback, built anew."""
        from jsonargparse import ArgumentParser

        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--callback", type=MaskCallback)
        built = parser.instantiate(parser.parse_object({"callback": self.config()}))
        return built.callback  # type: ignore[no-any-return]

    def config(self) -> dict[str, Any]:
        """As YAML names it."""
        return {"class_path": self.class_path, "init_args": dict(self.init_args)}


@dataclass(frozen=True)
class YamlProject:
    """A project given as the resolved YAML of ``fit``.

    Args:
        values: What ``resolve`` gave.
    """

    values: Mapping[str, Any]

    @property
    def seed(self) -> int:
        """``seed_everything``; 0 where it is left open (true, false or null)."""
        seed = self.values.get("seed_everything")
        return seed if isinstance(seed, int) and not isinstance(seed, bool) else 0

    @property
    def is_importable(self) -> bool:
        """Another process can always build it."""
        return True

    def config(self) -> dict[str, Any]:
        """The YAML's own values."""
        return dict(self.values)

    def with_seed(self, seed: int) -> "YamlProject":
        """The same, built under another seed.

        Raises:
            LotteryError: The seed is none.
        """
        check_seed_range("seeds", [seed])
        return YamlProject({**self.values, "seed_everything": seed})

    def with_pruner(self, make_pruner: Callable[[], MaskCallback]) -> "YamlProject":
        """The same, whose Trainer has a callback more.

        Raises:
            LotteryError: It is not given by its class and arguments.
        """
        if not isinstance(make_pruner, ConfiguredCallback):
            raise LotteryError(
                "A project given as YAML takes a pruner that YAML can name: `class_path` and `init_args`, "
                f"got {make_pruner!r}."
            )
        callbacks = self.values["trainer"]["callbacks"] or []
        callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
        trainer = {**self.values["trainer"], "callbacks": [*callbacks, make_pruner.config()]}
        return YamlProject({**self.values, "trainer": trainer})

    def build(
        self,
        folder: Path,
        subcommand: str,
        logger: Logger | bool,
        callbacks: Callable[[list[Callback]], list[Callback]],
    ) -> "ResolvedCLI":
        """Build everything from the folder's ``config.yaml``, which a DDP launcher's further ranks read as well."""
        from lightning_lottery.children.cli import ResolvedCLI  # the parser takes long to import

        def trainer_arguments(config: dict[str, Any]) -> dict[str, Any]:
            kept = callbacks(config["callbacks"])
            # Lightning adds a ModelCheckpoint of its own where checkpointing is on and nobody brings one.
            has_checkpoint = any(isinstance(callback, Checkpoint) for callback in kept)
            # A fit that says itself how far it is needs Lightning's default bar no more.
            is_silent = any(isinstance(callback, FitProgress) for callback in kept)
            is_silent = is_silent and not any(isinstance(callback, ProgressBar) for callback in kept)
            return {
                "default_root_dir": str(folder),
                "logger": logger,
                "callbacks": kept,
                "enable_checkpointing": config["enable_checkpointing"] if has_checkpoint else False,
                "enable_progress_bar": False if is_silent else config["enable_progress_bar"],
            }

        return ResolvedCLI([subcommand, "--config", str(folder / "config.yaml")], trainer=trainer_arguments)
