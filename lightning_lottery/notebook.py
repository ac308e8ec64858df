"""What a notebook shows of an object: its call as it would be written, and its table in HTML."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def call_of(kind: type, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """The call that made an object, with the arguments that are not as by default.

    Args:
        kind: The object's class.
        args: That it was called with.
        kwargs: That it was called with.

    Example:
        >>> call_of(slice, (), {})
        'slice(...)'
    """
    try:
        signature = inspect.signature(kind)
        arguments = signature.bind(*args, **kwargs).arguments
    except (TypeError, ValueError):  # a class that says nothing of its arguments, or an object that was made otherwise
        return f"{kind.__name__}(...)"
    return _written(kind, {name: (value, signature.parameters[name].default) for name, value in arguments.items()})


def call_of_fields(instance: Any) -> str:
    """The call that makes a dataclass's instance, with the fields that are not as by default.

    Example:
        >>> from dataclasses import dataclass, field
        >>> Point = dataclass(type("Point", (), {"__annotations__": {"x": int, "y": int}, "y": 0}))
        >>> call_of_fields(Point(3)), call_of_fields(Point(3, 4))
        ('Point(x=3)', 'Point(x=3, y=4)')
    """
    defaults = {
        each.name: each.default if each.default_factory is MISSING else each.default_factory()
        for each in fields(instance)
        if each.repr
    }
    return _written(type(instance), {name: (getattr(instance, name), value) for name, value in defaults.items()})


def html_of_table(table: "Table", sentences: Sequence[str] = ()) -> str:
    """A table of rich's in HTML, and sentences below it.

    Args:
        table: Its cells are text, with rich's markup or without.
        sentences: What follows from it.
    """
    from rich.text import Text

    def plain(cell: Any) -> str:
        return cell.plain if isinstance(cell, Text) else Text.from_markup(str(cell)).plain

    columns = [[plain(cell) for cell in column.cells] for column in table.columns]
    headers = [plain(column.header) for column in table.columns]
    notes = [plain(note) for note in (table.caption,) if note]
    return html_of(plain(table.title or ""), headers, list(zip(*columns, strict=True)), [*notes, *sentences])


def html_of(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> str:
    """A table in HTML that takes its colours from the page, dark or light; numbers stand to the right.

    Example:
        >>> html_of("", ["step"], [["3"]]).count("<td")
        1
    """
    heads = "".join(f'<th style="text-align:left">{escape(header)}</th>' for header in headers)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    caption = f"<b>{escape(title)}</b>" if title else ""
    below = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return f"<div>{caption}<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>{below}</div>"


def _cell(text: str) -> str:
    side = "right" if text[:1].isdigit() or text[:2].strip("+-").isdigit() else "left"
    return f'<td style="text-align:{side}">{escape(text)}</td>'


def _written(kind: type, values: Mapping[str, tuple[Any, Any]]) -> str:
    """A call with the values that are not their defaults, by name."""
    changed = {name: value for name, (value, default) in values.items() if not _are_same(value, default)}
    return f"{kind.__name__}({', '.join(f'{name}={value!r}' for name, value in changed.items())})"


def _are_same(value: Any, default: Any) -> bool:
    if value is default:
        return True
    same = type(value) is type(default) and value == default
    return same if isinstance(same, bool) else False
