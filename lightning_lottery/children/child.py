"""A child: a folder and the command that fills it; done once, refused when changed."""

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lightning_lottery.children.environment import RESUME_FROM
from lightning_lottery.children.fingerprint import differences, leaves, shown, what_is_trained
from lightning_lottery.children.folders import hash_of_folder, is_folder, remove_checkpoint
from lightning_lottery.children.options import Options, plain, read_options
from lightning_lottery.children.reading import (
    TRIAL,
    again,
    is_bounded,
    is_mapping,
    is_word,
    read_json,
    read_mapping,
)
from lightning_lottery.children.records import Row, labels_of, read_rows, stamped, write_records
from lightning_lottery.errors import LotteryError
from lightning_lottery.files import alone_in, hash_of_file, read_text, remove_file, remove_tree, write_whole

if TYPE_CHECKING:
    from lightning_lottery.children.project import Project

ERROR = "error"
"""File in a child's folder: the sentence that it failed with."""


@dataclass(frozen=True)
class Child:
    """A folder and what is to be done in it.

    Files: ``child.json`` (command, options and labels), ``config.yaml`` (the resolved configuration), ``resume.ckpt``
    while it trains, then ``last.ckpt``, ``results.jsonl``, and ``done``, written last, with the fingerprint.

    Args:
        folder: Where everything of it goes.
        command: Lightning's subcommand (fit, validate, test, predict), or one of this package's.
        config: The resolved configuration of the project, as of ``fit``.
        labels: What every row of its records says of it: columns such as ``stage``, ``seed``, ``parent``.
        options: What the command needs beside the project.
        project: What ``config`` was made of, for a process that builds it without importing it anew.
    """

    folder: Path
    command: str
    config: Mapping[str, Any]
    labels: Mapping[str, Any] = field(default_factory=dict)
    options: Options | None = None
    project: "Project | None" = field(default=None, compare=False, repr=False)

    @classmethod
    def load(cls, folder: Path) -> "Child":
        """Read back what ``prepare`` wrote.

        Raises:
            LotteryError: The folder holds no child, a damaged one, or one of another version of this package.
        """
        for name in ("child.json", "config.yaml"):
            if not (folder / name).exists():
                raise LotteryError(f"'{folder}' is not a child's folder: there is no {name}.")
        spec = read_specification(folder)
        config = _read_config(folder)
        if any(differences({"config": spec["fingerprint"]["config"]}, {"config": config})):
            raise LotteryError(
                f"The configuration '{folder / 'config.yaml'}' is not the one that child.json beside it was made for: "
                f"the command that made the folder writes it anew, where child.json is right. {again(folder)}"
            )
        try:
            options = read_options(spec.get("options", {}))
        except LotteryError:
            raise
        except (TypeError, AttributeError, ValueError) as error:
            raise LotteryError(
                f"The specification '{folder / 'child.json'}' is damaged: its options ({error}). {again(folder)}"
            ) from error
        return cls(folder, spec["command"], config, labels_of(spec["labels"]), options)

    def prepare(self) -> None:
        """Write the folder's specification; refuse a folder in which another was trained.

        Raises:
            LotteryError: The folder belongs to a different configuration, or to other input files: the difference;
                or another process is training in it.
        """
        remove_file(self.folder / ERROR)
        if not self.is_done and not self.is_started:
            self.discard()  # nothing was trained: whatever was asked for before no longer matters
        elif difference := self._differences(with_inputs=True):
            raise LotteryError(
                f"'{self.folder}' was made from something else: {shown(difference)}. {again(self.folder)}"
            )
        elif self.is_stale:
            # Only an experiment's own section changed: it goes over its children, each of which is refused or not.
            (self.folder / "done").unlink()
        elif self.is_done:
            remove_checkpoint(self.folder / "resume.ckpt")  # of one that was killed when it had just marked itself
        self.specify()

    def specify(self) -> None:
        """Write what it is, with the hashes of the files that it names as they are now."""
        if self.is_done:  # then child.json says what was done, as `done` does
            config = read_specification(self.folder)["fingerprint"]["config"]
        else:
            config = dict(self.config)
            spec = {"command": self.command, "labels": dict(self.labels), "options": plain(self.options)}
            text = json.dumps({**spec, "fingerprint": self.fingerprint()})
            write_whole(self.folder / "child.json", text.encode(), "specification")
        text = yaml.safe_dump(config, sort_keys=False)
        write_whole(self.folder / "config.yaml", text.encode(), "configuration")

    def changes(self) -> str:
        """How it differs from what was trained in the folder, input files and an experiment's own section aside."""
        if not self.is_done and not self.is_started:
            return ""
        return shown(self._differences(with_inputs=False))

    def _differences(self, *, with_inputs: bool) -> list[str]:
        """How it differs from what was trained in the folder, in more than the section that its command reads."""
        before, now = (
            {
                **fingerprint,
                "config": {name: value for name, value in fingerprint["config"].items() if name != self.command},
                "inputs": fingerprint["inputs"] if with_inputs else {},
            }
            for fingerprint in self._compared()
        )
        return list(differences(before, now))

    def _compared(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Fingerprints of what was trained in the folder and of this, without what changes nothing of it."""
        before, now = self._prepared_fingerprint(), self.fingerprint()
        return tuple({**each, "config": what_is_trained(each["config"])} for each in (before, now))  # type: ignore[return-value]

    @property
    def is_done(self) -> bool:
        """Whether it finished as its specification says; ``prepare`` has said whether with this configuration.

        Raises:
            LotteryError: ``done``, or the specification, is damaged.
        """
        path = self.folder / "done"
        if not path.exists():
            return False
        if difference := list(differences(self._prepared_fingerprint(), self._mark()[0])):
            raise LotteryError(
                f"The mark '{path}' is of something else than child.json beside it: {shown(difference)}. "
                f"{again(self.folder)}"
            )
        return True

    @property
    def is_started(self) -> bool:
        """Whether there is something to go on from: a checkpoint, or children of its own that train."""
        inner = (path.parent.name for path in self.folder.glob("*/**/child.json"))
        return (self.folder / "resume.ckpt").exists() or any(name != TRIAL for name in inner)

    @property
    def is_stale(self) -> bool:
        """Whether it finished, but with another configuration or other input files than it would have now."""
        return self.is_done and any(differences(*self._compared()))

    def fingerprint(self) -> dict[str, Any]:
        """Command, configuration, options, and the hash of every file that they name."""
        names = self.inputs()
        inputs = {name: hash_of_file(Path(name)) for name in names if os.path.isfile(name)}
        inputs |= {name: hash_of_folder(Path(name)) for name in names if is_folder(name)}
        return {
            "command": self.command,
            "config": dict(self.config),
            "options": plain(self.options),
            "inputs": inputs,
        }

    def inputs(self) -> list[str]:
        """Every string of the configuration: each could be the path of a file."""
        values = (*leaves(self.config), *leaves(plain(self.options)))
        return sorted({value for _, value in values if isinstance(value, str)})

    def discard(self) -> None:
        """Remove the folder and everything in it; where it is a link, what is in the folder that it leads to.

        Raises:
            LotteryError: Another process is training in it, or something in it cannot be removed.
        """
        if self.folder.is_dir():
            with entered(self.folder):
                remove_tree(self.folder)

    def records(self) -> list[Row]:
        """The rows it left.

        Raises:
            LotteryError: They are damaged, or not those that it finished with.
        """
        path = self.folder / "results.jsonl"
        rows, expected = read_rows(path), self._mark()[1]
        if expected is not None and hash_of_file(path) != expected:
            raise LotteryError(f"The records '{path}' were changed since they were written. {again(self.folder)}")
        return rows

    def finish(self, rows: Sequence[Row], commit: str | None = None) -> None:
        """Write the records, then ``done``; the checkpoint to resume from is no longer needed.

        Args:
            rows: What was measured.
            commit: Of the user's project when the work began.
        """
        write_records(self.folder, stamped(rows, commit))
        mark = self._prepared_fingerprint() | {"records": hash_of_file(self.folder / "results.jsonl")}
        write_whole(self.folder / "done", json.dumps(mark).encode(), "mark")
        remove_checkpoint(self.folder / "resume.ckpt")

    def _mark(self) -> tuple[Any, Any]:
        """What ``done`` says was done, and the hash of its records, which earlier versions did not write."""
        mark = read_json(self.folder / "done", "mark")
        return (mark, mark.pop("records", None)) if isinstance(mark, dict) else (mark, None)

    def _prepared_fingerprint(self) -> dict[str, Any]:
        return dict(read_specification(self.folder)["fingerprint"])


def read_specification(folder: Path) -> dict[str, Any]:
    """What ``child.json`` holds.

    Raises:
        LotteryError: It is not there, or damaged.
    """
    fits = {"command": is_word, "labels": is_mapping, "fingerprint": is_mapping}
    spec = read_mapping(folder / "child.json", "specification", fits)
    fingerprint = spec["fingerprint"]
    if not is_mapping(fingerprint.get("config")) or not is_mapping(fingerprint.get("inputs")):
        raise LotteryError(f"The specification '{folder / 'child.json'}' is damaged: its fingerprint. {again(folder)}")
    return spec


def _read_config(folder: Path) -> Any:
    path = folder / "config.yaml"
    try:
        config = yaml.safe_load(read_text(path, "configuration"))
    except LotteryError as error:
        raise LotteryError(f"{error} {again(folder)}") from error
    except (yaml.YAMLError, RecursionError) as error:
        first, *_ = str(error).splitlines()
        raise LotteryError(f"The configuration '{path}' is damaged: {first}. {again(folder)}") from error
    if not is_bounded(config):
        raise LotteryError(f"The configuration '{path}' is damaged: it is nested too deep. {again(folder)}")
    return config


def discard_with_dependents(children: Sequence[Child], names: Collection[str], *, root: Path | None = None) -> None:
    """Remove the children of these names, and every later one that uses a file of one removed.

    Args:
        children: In the order in which they depend on each other.
        names: Of folders below the root: ``seed-1``, ``parent-0/synflow-step-10``.
        root: Default: the folder that all children's share.

    Raises:
        LotteryError: There is no such child, or another process is in it.
    """
    if not names:
        return
    above = str(root or os.path.commonpath([child.folder.parent for child in children]))
    paths = {f"{child.folder.as_posix().removeprefix(above)}/": child for child in children}
    by_name = {name: [child for path, child in paths.items() if f"/{name}/" in path] for name in names}
    if unknown := [name for name, matches in by_name.items() if not matches]:
        listed = ", ".join(path.strip("/") for path in paths)
        raise LotteryError(f"There is no {', '.join(unknown)} to do again: there are {listed}.")
    removed: list[Path] = []
    for child in children:  # in the order of dependence, so that those who use a file of a dependent go too
        uses = any(Path(path).is_relative_to(folder) for path in child.inputs() for folder in removed)
        if uses or any(child in matches for matches in by_name.values()):
            child.discard()
            removed.append(child.folder)


@contextmanager
def entered(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the folder; further ranks enter with the first, which holds it for all."""
    with nullcontext() if RESUME_FROM in os.environ else alone_in(folder, wait=wait):
        yield
