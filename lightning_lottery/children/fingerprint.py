"""What a finished child was made from: configurations and input files, and how two of them differ."""

from collections.abc import Iterator, Mapping
from typing import Any


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every plain value of a nested configuration under its dotted key."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from leaves(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from leaves(inner, f"{key}[{index}]")
    else:
        yield key, value


def shown(difference: list[str]) -> str:
    """The first few of many differences, in one line."""
    return "; ".join(difference[:5]) + ("; ..." if len(difference) > 5 else "")


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What changed between two fingerprints, a sentence's part each."""
    old, new = dict(leaves(before)), dict(leaves(now))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            if key.startswith("inputs."):
                yield f"the file {key.removeprefix('inputs.')} has changed"
            else:
                yield f"{key.removeprefix('config.')} was {_short(old.get(key))}, is {_short(new.get(key))}"


def _short(value: Any) -> str:
    """A value as a sentence can hold it: a whole file's text, say, would bury what else has changed."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:80]}...{text[-1]}"
