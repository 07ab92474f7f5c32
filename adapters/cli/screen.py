"""Printing: lines, tables and JSON. Text is printed as it is, never as markup."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import msgspec
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from towpath.model import StepStatus

from .streams import HOSTILE, NOT_OF_LINES, shown, shown_lines, write

PIPE_WIDTH = 200
WIDE = 110  # columns from which whole ids leave room for the rest of a table
ID_END = 8  # characters of an id on a narrower terminal; every verb finds a run, a gate or a file by them
SIGNS = {
    StepStatus.QUEUED: ("·", "dim"),
    StepStatus.EXECUTING: ("●", "cyan"),
    StepStatus.WAITING_APPROVAL: ("✋", "yellow"),
    StepStatus.COMPLETED: ("✓", "green"),
    StepStatus.CACHED: ("↺", "green"),
    StepStatus.FAILED: ("✗", "red"),
    StepStatus.SKIPPED: ("–", "dim"),
    StepStatus.CANCELLED: ("■", "dim"),
}
_COPIED = re.compile(r"`[^`]*`|(?<!\w)(?:--\w+ )?'[^']*'")  # commands, and texts in quotes
_HOSTILE_IN_JSON = re.compile(f"(?!\n)[{HOSTILE}]")


def words(text: object, style: str = "") -> Text:
    """Text on one line, for a table or a console."""
    return Text(shown(text), style=style)


def short_id(name: str, console: Console) -> str:
    """An id: on a narrow terminal only its end, by which every verb finds it."""
    return name[-ID_END:] if is_narrow(console) else name


def is_narrow(console: Console) -> bool:
    """Is it a terminal of few columns? Then lists show less: ends of ids, short times."""
    return console.width < WIDE


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


def folded(text: str) -> list[str]:
    """The lines of an error. On a terminal they end between words; what is to be copied is not cut."""
    console, lines = terminal(stderr=True), text.split("\n")
    if not console.is_terminal:
        return lines
    return [part.replace("\0", " ") for line in lines for part in _folded(line, max(20, console.width))]


def _folded(line: str, width: int) -> list[str]:
    pieces = _COPIED.sub(lambda found: found[0].replace(" ", "\0"), line)
    return textwrap.wrap(
        pieces, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False,
        replace_whitespace=False, expand_tabs=False,
    ) or [line]  # fmt: skip


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


# ---- lists

Row = tuple[Sequence[Text], Text]  # the cells, and a note
_GAP = 2
_LEAST = 12  # characters that a cell keeps when it is cut
_NOTE_ROOM = 60  # columns that are enough for a note beside its row, if it is cut


def print_list(
    console: Console,
    columns: Sequence[str],
    rows: Sequence[Row],
    *,
    right: Collection[str] = (),
    cut: Sequence[str | int] = (),
    note_lines: int = 1,
) -> None:
    """Print rows under a heading. Names come first, then figures, then notes.

    Cells are cut only if a row is wider than the terminal, those of the `cut` columns, in their middle. A note stands
    behind its row, or below if there is no room. Without `columns` there is no heading, and `cut` has positions.
    It has at most `note_lines` lines. Output into a file or a pipe has one line for each row, uncut.
    """
    heading = [Text(name, "dim") for name in columns]
    every = [*([heading] if columns else []), *(cells for cells, _ in rows)]
    widths = [
        max(map(cell_len, texts)) for texts in zip(*([cell.plain for cell in cells] for cells in every), strict=True)
    ]
    if console.is_terminal:
        _narrow(widths, [n if isinstance(n, int) else columns.index(n) for n in cut], console.width)
    used = sum(widths) + _GAP * len(widths)
    longest = max((cell_len(note.plain) for _, note in rows), default=0)
    beside = not console.is_terminal or console.width - used >= (
        longest if note_lines > 1 else min(longest, _NOTE_ROOM)
    )
    aligned_right = {n for n, name in enumerate(columns) if name in right}
    for cells, note in [*([(heading, Text())] if columns else []), *rows]:
        text = Text()
        for n, (cell, width) in enumerate(zip(cells, widths, strict=True)):
            text += _aligned(cut_in_the_middle(cell, width), width, right=n in aligned_right) + Text(" " * _GAP)
        for part in _with_note(text, note, console, lines=0 if beside else note_lines):
            part.rstrip()
            console.print(part, soft_wrap=True)


def _with_note(text: Text, note: Text, console: Console, *, lines: int) -> list[Text]:
    """A row and its note: behind it, or in so many lines below."""
    if not note.plain:
        return [text]
    note = words(note.plain, str(note.style))
    if not console.is_terminal:
        return [text + note]
    room = max(_LEAST, console.width - (_GAP if lines else cell_len(text.plain)) - 1)
    note.truncate(room * max(1, lines) - (lines > 1) * _LEAST, overflow="ellipsis")  # words do not fill a line
    if not lines:
        return [text + note]
    return [text, *(Text(" " * _GAP) + piece for piece in note.wrap(console, room))]


def _narrow(widths: list[int], cut: Sequence[int], room: int) -> None:
    """Make the widest of the columns narrower until a row fits, or none can be cut any more."""
    too_wide = sum(widths) + _GAP * (len(widths) - 1) - room
    while too_wide > 0 and any(widths[n] > _LEAST for n in cut):
        widest = max(cut, key=lambda n: widths[n])
        widths[widest] -= 1
        too_wide -= 1


def cut_in_the_middle(cell: Text, width: int) -> Text:
    """The beginning and the end of a text that is too long: ends tell names of files and items apart."""
    if cell_len(cell.plain) <= width:
        return cell
    end = width // 3
    beginning, ending = _that_fit(cell.plain, width - end - 1), _that_fit(cell.plain[::-1], end)[::-1]
    return Text(f"{beginning}…{ending}", cell.style)


def _that_fit(text: str, columns: int) -> str:
    """The first characters that fit. Many have two columns, some have none."""
    for n, character in enumerate(text):
        columns -= cell_len(character)
        if columns < 0:
            return text[:n]
    return text


def _aligned(cell: Text, width: int, *, right: bool) -> Text:
    padding = Text(" " * max(0, width - cell_len(cell.plain)))
    return padding + cell if right else cell + padding
