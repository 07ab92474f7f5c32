"""The picture of a running chain on a terminal. Names come first, then figures, then notes; names are cut last."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TaskID, TaskProgressColumn
from rich.table import Table
from rich.text import Text

from towpath.adapters.wording import amount, duration
from towpath.model import StepStatus

from .run_figures import RunFigures, StepFigures
from .screen import SIGNS, WIDE, cut_in_the_middle, line, short_id, words

MAX_STEPS = 24  # a chain with more steps is shown level by level, with the steps that matter now
COUNTABLE = 99_999  # a larger total is shown in percent
_MARGIN = 4  # lines of a terminal for the heading and what stands below
_NOTE_LINES = 2  # lines of a note, and of an error

_URGENT = (StepStatus.FAILED, StepStatus.WAITING_APPROVAL, StepStatus.EXECUTING)
_WORDS = {
    StepStatus.EXECUTING: "running",
    StepStatus.FAILED: "failed",
    StepStatus.QUEUED: "queued",
    StepStatus.SKIPPED: "skipped",
    StepStatus.CANCELLED: "cancelled",
}


@dataclass(slots=True)
class _Row:
    """One line of the picture, and the notes that belong to it."""

    level: str
    sign: Text
    name: Text
    task: Task | None
    took: str
    notes: list[Text]

    short: bool = False  # its note has one line

    def lines(self) -> int:
        return 1 + len(self.notes) * (1 if self.short else _NOTE_LINES)


class RunFrame:
    """Draws the figures of a run. Rates and remaining times are those of `rich.progress`."""

    def __init__(self, console: Console, figures: RunFigures, at: str = "", *, on_ctrl_c: str) -> None:
        self._console = console
        self._on_ctrl_c = on_ctrl_c
        self._at = at  # ` --store …` for commands that the picture names
        self._figures = figures
        self._progress = Progress(auto_refresh=False, console=console)
        self._tasks: dict[str, TaskID] = {}
        self._levels = len({step.level for step in figures.steps.values()})

    def draw(self, run_id: str, message: str) -> RenderableType:
        """The picture now. `message` is what the command has to say; it stands below."""
        steps = list(self._figures.steps.values())
        room = max(6, self._console.height - _MARGIN)
        rows = [self._step_row(step) for step in steps] if len(steps) <= MAX_STEPS else []
        if not rows or sum(row.lines() for row in rows) > room:
            rows = list(self._level_rows(steps, room))
        label = ""
        for row in rows:  # the first row of a level has its name
            row.level, label = ("" if row.level == label else row.level), row.level
        parts = [_heading(self._figures, run_id, self._console), *self._laid_out(rows)]
        parts += [words(text, style) for text, style in self._below(message)]
        return Group(*parts)

    def _below(self, message: str) -> list[tuple[str, str]]:
        """The last line is short: a terminal shows `^C` behind it, and must not wrap there."""
        gates = self._figures.gates()
        hint = [(f"{_gates_text(gates)}; see: towpath approvals{self._at}", "yellow")] if gates else []
        if message:
            return [*hint, (message, "yellow"), (" ", "")]
        return hint if self._figures.ended is not None else [*hint, (self._on_ctrl_c, "dim")]

    # ---- rows

    def _step_row(self, step: StepFigures) -> _Row:
        status = step.shown_status
        sign, style = SIGNS[status] if status is not None else ("○", "dim")
        done, total = self._figures.progress_of(step)
        task = self._task(step.id, done, total, over=step.over)
        took = step.elapsed(time.monotonic())
        return _Row(
            level=f"level {step.level + 1}" if self._levels > 1 else "",
            sign=Text(sign, style),
            name=words(step.id, "" if status else "dim"),
            task=task,
            took=duration(took) if took is not None and status is not StepStatus.QUEUED else "",
            notes=list(_notes_of(step, task, done if total is None and not step.over else 0)),
        )

    def _level_rows(self, steps: Sequence[StepFigures], room: int) -> Iterator[_Row]:
        """A line for each level that is under way, one for all before and one for all behind; and what matters."""
        by_level = [(n, list(level)) for n, level in groupby(sorted(steps, key=_level), key=_level)]
        kinds = [(kind, list(some)) for kind, some in groupby(by_level, key=lambda pair: _phase(pair[1]))]
        lines = sum(len(some) if kind == "under way" else 1 for kind, some in kinds)
        urgent = sorted((s for s in steps if s.shown_status in _URGENT), key=_urgency)
        named = self._that_fit(urgent, room - lines - 1)
        for kind, some in kinds:
            for level in [some] if kind != "under way" else [[one] for one in some]:
                label = f"level {level[0][0] + 1}" + (f"–{level[-1][0] + 1}" if len(level) > 1 else "")
                members = [step for _, inside in level for step in inside]
                yield self._sum_row(label, members)
                yield from (self._short_row(step, label) for step in members if step in named)
        left = urgent[len(named) :]
        if left:
            about = f"… and {len(left)} more: {_counted(left)}"
            yield _Row(level=" ", sign=Text(), name=Text(), task=None, took="", notes=[words(about, "dim")])

    def _that_fit(self, urgent: Sequence[StepFigures], room: int) -> set[StepFigures]:
        """The first of them, as many as the lines have room for; two at least."""
        named: set[StepFigures] = set()
        for step in urgent:
            room -= self._short_row(step, "").lines()
            if room < 0 and len(named) >= 2:
                break
            named.add(step)
        return named

    def _short_row(self, step: StepFigures, label: str) -> _Row:
        row = self._step_row(step)
        row.level, row.short = label, True
        for note in row.notes:
            note.truncate(max(20, self._console.width - len(label) - 8), overflow="ellipsis")
        del row.notes[1:]
        return row

    def _sum_row(self, label: str, members: Sequence[StepFigures]) -> _Row:
        ended = sum(step.over for step in members)
        task = self._task(f"\0{label}", ended, len(members), over=ended == len(members))
        failed = any(step.status is StepStatus.FAILED for step in members)
        started = any(step.status is not None for step in members)
        over = ended == len(members)
        sign = SIGNS[StepStatus.FAILED if failed else StepStatus.COMPLETED if over else StepStatus.EXECUTING]
        note = words(_counted(members), "red" if failed else "dim")
        name = words("1 step" if len(members) == 1 else f"{len(members)} steps", "" if started else "dim")
        return _Row(label, Text(*sign) if started else Text("○", "dim"), name, task, "", [note] if note.plain else [])

    def _task(self, key: str, done: float, total: float | None, *, over: bool) -> Task | None:
        """The task of `rich.progress` for these figures; None without a total."""
        if total is None or not 0 < total < math.inf:
            return None
        if key not in self._tasks:
            self._tasks[key] = self._progress.add_task(key, total=total)
        done = min(max(done, 0), total) if math.isfinite(done) else 0
        self._progress.update(self._tasks[key], total=total, completed=done, visible=not over)
        return next(task for task in self._progress.tasks if task.id == self._tasks[key])

    # ---- layout

    def _laid_out(self, rows: Sequence[_Row]) -> Iterator[RenderableType]:
        """Rows in columns of the same width; a note that does not fit behind its row stands below it."""
        width = self._console.width
        level = max((cell_len(row.level) for row in rows), default=0)
        count = max((cell_len(_count(row.task).plain) for row in rows if row.task is not None), default=0)
        took = max((len(row.took) for row in rows), default=0)
        before = level + 1 if level else 0
        fixed = before + 3 + count + 1 + took + 1
        name = min(max((cell_len(row.name.plain) for row in rows), default=0), max(12, width - fixed - 1))
        bar = min(20 if width >= WIDE else 10, width - fixed - name - 2)
        bar = bar if bar >= 5 and count else 0
        used = fixed + name + (bar + 1 if bar else 0)
        widths = [level] * bool(level) + [2, name] + [bar] * bool(bar) + [count] * bool(count) + [took]
        grid = _grid(widths)
        for row in rows:
            beside = row.notes and cell_len(row.notes[0].plain) < width - used
            cells: list[RenderableType] = [Text(row.level, "dim")] if level else []
            cells += [row.sign, cut_in_the_middle(row.name, name)]
            if bar:
                cells.append(BarColumn(bar)(row.task) if row.task is not None and row.task.visible else Text())
            if count:
                cells.append(_count(row.task))
            grid.add_row(*cells, Text(row.took, "dim"), row.notes[0] if beside else Text())
            below = row.notes[1:] if beside else row.notes
            if below:
                yield grid
                yield from (_below_its_row(note, before + 3, width) for note in below)
                grid = _grid(widths)
        if grid.row_count:
            yield grid


def _grid(widths: Sequence[int]) -> Table:
    """Columns of these widths, and one for a note."""
    grid = Table.grid(padding=0)  # padding costs rich more than all else
    for width in widths:
        grid.add_column(width=width + 1, no_wrap=True, overflow="ellipsis")
    grid.add_column(no_wrap=True, overflow="ellipsis")
    return grid


def _below_its_row(note: Text, indent: int, width: int) -> Text:
    """A note of at most two lines, indented."""
    room = max(20, width - indent - 1)
    cut = note.copy()
    cut.truncate(room * _NOTE_LINES - 4, overflow="ellipsis")
    pieces = cut.wrap(Console(width=room), room)
    return Text("\n").join(Text(" " * indent) + piece for piece in pieces)


def _urgency(step: StepFigures) -> int:
    return _URGENT.index(step.shown_status) if step.shown_status in _URGENT else len(_URGENT)


def _level(step: StepFigures) -> int:
    return step.level


def _phase(steps: Iterable[StepFigures]) -> str:
    statuses = [step.status for step in steps]
    if all(status is None for status in statuses):
        return "to come"
    quiet = all(status is not None and status.final and status is not StepStatus.FAILED for status in statuses)
    return "done" if quiet else "under way"


def _count(task: Task | None) -> Text:
    if task is None or task.total is None:
        return Text()
    countable = task.total <= COUNTABLE and float(task.total).is_integer()
    column: Callable[[Task], RenderableType] = MofNCompleteColumn() if countable else TaskProgressColumn()
    shown = column(task)
    return Text(shown.plain.strip()) if isinstance(shown, Text) else Text()


def _notes_of(step: StepFigures, task: Task | None, so_far: float) -> Iterator[Text]:
    """Figures of a step that is under way, then its error or the reason of its state. `so_far` of an unknown total."""
    parts: list[str] = [f"{amount(so_far)} so far"] if so_far and math.isfinite(so_far) else []
    if step.items is not None and not step.over:
        some = (
            (len(step.running), "running"),
            (step.queued, "queued"),
            (len(step.waiting), "waiting"),
            (step.failed, "failed"),
        )
        parts += [", ".join(f"{n:,} {word}" for n, word in some if n)]
    elif step.items is not None and step.failed:
        parts += [f"{step.failed:,} failed"]
    if task is not None and task.visible:
        parts += pace(task)
    text = "  ".join(part for part in parts if part)
    if text:
        yield words(text, "red" if step.failed else "dim")
    if step.waiting and not step.over and step.items is None:
        yield words("waits for an approval", "yellow")
    if step.error or step.again:
        yield words(step.error or step.again, "red" if step.error else "yellow")
    elif step.reason:
        yield words(step.reason, "dim")


def pace(task: Task) -> list[str]:
    """`1.2/s` and `40 s left`, as `rich.progress` estimates them; nothing before it can."""
    speed, left = task.speed, task.time_remaining
    found = [] if not speed else [f"{speed:,.1f}/s" if speed < 100 else f"{speed:,.0f}/s"]
    return found if left is None or task.finished else [*found, f"{duration(left)} left"]


def _counted(steps: Iterable[StepFigures]) -> str:
    """`4 running, 2 failed, 1 waiting`."""
    counts: dict[str, int] = {}
    for step in steps:
        status = step.shown_status
        word = "waiting" if status is StepStatus.WAITING_APPROVAL else _WORDS.get(status, "") if status else ""
        if word:
            counts[word] = counts.get(word, 0) + 1
    return ", ".join(f"{n} {word}" for word, n in counts.items())


def _heading(figures: RunFigures, run_id: str, console: Console) -> Text:
    took = duration((figures.ended or time.monotonic()) - figures.began)
    done = sum(step.over for step in figures.steps.values())
    parts: list[tuple[str, str]] = [(figures.plan.name, "bold"), (short_id(run_id, console), "dim"), (took, "")]
    if figures.state:
        parts.append((figures.state, "bold"))
    counted = _counted(figures.steps.values())
    parts.append((f"{done} of {len(figures.steps)} steps" + (f", {counted}" if counted else ""), "dim"))
    return Text("  ").join(line(part) for part in parts if part[0])


def _gates_text(gates: int) -> str:
    return "1 waits for an approval" if gates == 1 else f"{gates} wait for an approval"
