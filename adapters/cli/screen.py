"""Printing: lines, tables and JSON. Text is printed as it is, never as markup."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterable
from typing import Any

import msgspec
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from .streams import HOSTILE, NOT_OF_LINES, shown, shown_lines, write

PIPE_WIDTH = 200
WIDE = 110  # columns from which whole ids leave room for the rest of a table
ID_END = 8  # characters of an id on a narrower terminal; every verb finds a run, a gate or a file by them
_HOSTILE_IN_JSON = re.compile(f"(?!\n)[{HOSTILE}]")


def words(text: object, style: str = "") -> Text:
    """Text on one line, for a table or a console."""
    return Text(shown(text), style=style)


def short_id(name: str, console: Console) -> str:
    """An id: on a narrow terminal only its end, by which every verb finds it."""
    return name if console.width >= WIDE else name[-ID_END:]


def id_words(name: str, console: Console, style: str = "") -> Text:
    """An id for a table."""
    return words(short_id(name, console), style)


def block(text: object, style: str = "") -> Text:
    """Text of several lines: an error, a traceback, a log."""
    return Text(shown_lines(text), style=style)


def line(*parts: str | tuple[object, str] | Text) -> Text:
    """Join parts into one line; each part is a text or (text, style)."""
    return Text.assemble(*map(_part, parts))


def _part(part: str | tuple[object, str] | Text) -> Text:
    if isinstance(part, Text):
        return part
    return words(part) if isinstance(part, str) else words(part[0], part[1])


def table(*columns: str, right: Collection[str] = (), fixed: Collection[str] = (), fold: bool = False) -> Table:
    """An empty table with a heading. Columns in `right` are aligned right, those in `fixed` stay on one line.

    Text that is too long for its column is cut; with `fold` it continues on the next line.
    """
    new = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        new.add_column(
            column,
            justify="right" if column in right else "left",
            no_wrap=column in fixed,
            overflow="fold" if fold else "ellipsis",
        )
    return new


class Screen(Console):
    """A console that prints text without markup and passes only its own control characters."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)
        if not self.is_terminal:  # output into a file or a pipe is not wrapped
            self.width = PIPE_WIDTH

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As in `Console`; escapes text that was not passed through `shown` before."""
        for segment in super().render(renderable, options):
            if segment.control or not NOT_OF_LINES.search(segment.text):
                yield segment
            else:
                yield Segment(shown_lines(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """The reader closed the pipe: the command continues."""


def terminal(*, stderr: bool = False) -> Screen:
    """A console on standard output, or standard error."""
    return Screen(stderr=stderr)


def say(*parts: str | tuple[object, str] | Text, err: bool = False) -> None:
    """Print a line. Each part is a text or (text, style)."""
    text = line(*parts)
    if text.spans or text.style:
        terminal(stderr=err).print(text, soft_wrap=True)
    else:
        write(f"{text.plain}\n", err=err)


def print_json(data: Any) -> None:
    """Print data as indented JSON. Control characters, and what the encoding lacks, are written as `\\u…` escapes."""
    text = msgspec.json.format(msgspec.json.encode(data, enc_hook=str), indent=2).decode()
    text = _HOSTILE_IN_JSON.sub(_json_escape, text)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        text = re.sub("[^\x00-\x7f]", _json_escape, text)
    write(text + "\n")


def _json_escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
