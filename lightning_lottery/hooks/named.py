"""A callback's ``name``: several of one kind in a Trainer are told apart wherever they leave something."""

from copy import copy
from typing import TYPE_CHECKING, Any, ClassVar

from lightning.pytorch import Callback

from lightning_lottery.checks import check_name
from lightning_lottery.hooks.boards import Charts
from lightning_lottery.notebook import call_of

if TYPE_CHECKING:
    from typing_extensions import Self


class NamedCallback(Callback):
    """Has a name in checkpoints, messages, logs and file names, or none.

    Args:
        name: Tells several callbacks of one Trainer apart.

    Raises:
        LotteryError: A name that is no file name.
    """

    role: ClassVar[str | None] = None
    """What a checkpoint files the state under: methods may share a role, so that one does not resume another unnoticed.
    Without one it is the name of the class, as Lightning has it."""

    lottery_charts: ClassVar[Charts] = {}
    """Which of its curves TensorBoard shows in one chart."""

    _arguments: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> "Self":
        """Keep what it is called with, which is shown; a copy takes it over with everything else."""
        callback = super().__new__(cls)
        # As they are now: whoever calls may change a list later.
        callback._arguments = tuple(map(_as_now, args)), {name: _as_now(value) for name, value in kwargs.items()}
        return callback

    def __init__(self, name: str | None) -> None:
        check_name(name)
        self.name = name

    def __repr__(self) -> str:
        return call_of(type(self), *self._arguments)

    @property
    def method_name(self) -> str:
        """What records, tickets and checkpoints call the method."""
        return type(self).__name__

    @property
    def label(self) -> str:
        """What messages call it."""
        return self.method_name + (f" '{self.name}'" if self.name else "")

    @property
    def state_key(self) -> str:
        # Without a name as it was before there were names: checkpoints of then resume.
        return self.named(f"lightning_lottery.{self.role}" if self.role else super().state_key, ".")

    def named(self, stem: str, joint: str = "-") -> str:
        """A file's, a folder's or a state's name with this callback's own at its end."""
        return f"{stem}{joint}{self.name}" if self.name else stem

    def _key(self, key: str) -> str:
        """What loggers call a value."""
        return f"{self.name}/{key}" if self.name else key


def _as_now(value: Any) -> Any:
    return copy(value) if isinstance(value, (list, dict)) else value
