"""What a notebook shows of a run, a plan and a file: self-contained HTML and SVG, without scripts or a network.

Every text comes from outside and is escaped. The bytes of files are read in another thread, for a second at most: a
notebook asks for the HTML in the thread of its event loop.
"""

from __future__ import annotations

import base64
import html
import io
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from .artifact import Artifact
from .model import Plan, StepStatus
from .run import Run, StepRun
from .svg_layout import NODE_HEIGHT, NODE_WIDTH, Box, SvgLayout, layout

T = TypeVar("T")

PATIENCE = 1.0  # seconds in which the bytes of files must be there
PICTURE = 4 * 1024 * 1024  # bytes of a picture that is shown alone
SMALL_PICTURE = 512 * 1024  # bytes of a picture in a table
PICTURES = 24  # pictures in a table
TABLE = 4 * 1024 * 1024  # bytes of a CSV or parquet file that is shown as a table
TEXT = 64 * 1024  # bytes of a text file of which the beginning is shown
CHARACTERS = 4_000  # of a text
STEPS = 100  # steps in a table
MESSAGE = 500  # characters of an error
_PICTURES = frozenset(f"image/{kind}" for kind in ("png", "jpeg", "gif", "webp", "svg+xml", "avif", "bmp"))
_COLOURS = {
    "completed": "#2e8b57",
    "cached": "#2e8b57",
    "failed": "#d9534f",
    "partial": "#d08700",
    "waiting_approval": "#d08700",
    "paused": "#d08700",
    "executing": "#3b82c4",
    "running": "#3b82c4",
}
_OTHER = "#888888"
_URGENT = (StepStatus.FAILED, StepStatus.WAITING_APPROVAL, StepStatus.EXECUTING)


# ---- a run


def run_html(run: Run) -> str:
    """A run as a table: its steps with status, tries, files and errors; small pictures are shown."""
    steps = run.steps
    some = _that_matter(steps)
    read = _Reading(_pictures(some))
    rows = "".join(_row(step, read.found) for step in some)
    more = f"<p>… and {len(steps) - STEPS} more steps</p>" if len(steps) > STEPS else ""
    why = run.error.message if run.error is not None else run.reason
    about = f"<div>{_text(_cut(why, MESSAGE))}</div>" if why else ""
    return (
        f'<div style="font-size:13px"><div><b>{_text(run.plan.name)}</b> {_status(run.status)} '
        f'<code>{_text(run.id)}</code></div>{about}<table style="text-align:left">'
        "<thead><tr><th>step</th><th>status</th><th>tries</th><th>files</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>{more}</div>"
    )


def _that_matter(steps: Sequence[StepRun]) -> list[StepRun]:
    """Of many steps those that failed, wait or run before others, in their order."""
    if len(steps) <= STEPS:
        return list(steps)
    chosen = sorted(range(len(steps)), key=lambda place: steps[place].status not in _URGENT)[:STEPS]
    return [steps[place] for place in sorted(chosen)]


def _row(step: StepRun, pictures: Mapping[str, bytes]) -> str:
    files = step.artifacts
    shown = "".join(_small(file, pictures.get(file.id)) for file in files[:PICTURES])
    more = f" … {len(files)} files" if len(files) > PICTURES else ""
    error = (
        f'<div style="color:{_COLOURS["failed"]}">{_text(_cut(step.error.message, MESSAGE))}</div>'
        if step.error
        else ""
    )
    cells = (
        f"<b>{_text(step.id)}</b>",
        f"{_status(step.status)}{_items(step)}",
        step.attempt or "",
        shown + more + error,
    )
    return "<tr>" + "".join(f'<td style="text-align:left;vertical-align:top">{cell}</td>' for cell in cells) + "</tr>"


def _items(step: StepRun) -> str:
    counts = Counter(str(item.status or "queued") for item in step.items)
    return "<br>" + ", ".join(f"{count} {_text(word)}" for word, count in counts.items()) if counts else ""


def _status(word: object) -> str:
    shown = str(word or "not reached")
    return f'<span style="color:{_COLOURS.get(shown, _OTHER)}">●&nbsp;{_text(shown.replace("_", " "))}</span>'


def _pictures(steps: Iterable[StepRun]) -> list[Artifact]:
    """The pictures of a table that are small enough."""
    small = [
        file
        for step in steps
        for file in step.artifacts[:PICTURES]
        if file.media_type in _PICTURES and file.size <= SMALL_PICTURE
    ]
    return small[:PICTURES]


def _small(file: Artifact, data: bytes | None) -> str:
    name = f"{_text(file.filename)} v{file.version}"
    if data is None:
        return f"<div>{name} <small>{_size(file.size)}</small></div>"
    return (
        '<figure style="display:inline-block;margin:2px 6px 2px 0">'
        f'<img src="{_data(file, data)}" alt="{name}" style="max-width:160px;max-height:120px">'
        f"<figcaption><small>{name}</small></figcaption></figure>"
    )


# ---- a file


def artifact_html(file: Artifact) -> str:
    """A file: a picture, the beginning of a table or of a text; else its name and size."""
    shown = _Reading([file], _preview).found.get(file.id, "") if _previewed(file) else ""
    return (
        f'<div style="font-size:13px"><b>{_text(file.filename)}</b> version {file.version} · '
        f"{_text(file.media_type)} · {_size(file.size)}<div>{shown}</div></div>"
    )


def _previewed(file: Artifact) -> bool:
    limit = PICTURE if file.media_type in _PICTURES else TABLE if _is_table(file) else TEXT
    return file.size <= limit and (file.media_type in _PICTURES or _is_table(file) or file.kind == "text")


def _is_table(file: Artifact) -> bool:
    """Can pandas show it? It is asked only if the program has imported it."""
    return "pandas" in sys.modules and file.filename.lower().endswith((".csv", ".tsv", ".parquet"))


def _preview(file: Artifact, data: bytes) -> str:
    if file.media_type in _PICTURES:
        name = _text(file.filename)
        return f'<img src="{_data(file, data)}" alt="{name}" style="max-width:480px;max-height:480px">'
    if _is_table(file):
        return _table(file, data)
    text = data[: 4 * CHARACTERS].decode(errors="replace")
    return f"<pre>{_text(text[:CHARACTERS])}{'…' if len(text) > CHARACTERS or len(data) > 4 * CHARACTERS else ''}</pre>"


def _table(file: Artifact, data: bytes) -> str:
    pandas = sys.modules["pandas"]
    name = file.filename.lower()
    if name.endswith(".parquet"):
        frame = pandas.read_parquet(io.BytesIO(data))
    else:
        frame = pandas.read_csv(io.BytesIO(data), sep="\t" if name.endswith(".tsv") else ",", nrows=1_000)
    shown: str = frame.to_html(max_rows=12, max_cols=16, escape=True, border=0)
    return f"{_spelled_out(shown)}<small>{len(frame)} rows × {len(frame.columns)} columns</small>"


class _Reading:
    """`make(file, bytes)` for each file whose bytes come within `PATIENCE`, by the file's id.

    What cannot be read, or not be shown, is left out.
    """

    def __init__(self, files: Sequence[Artifact], make: Callable[[Artifact, bytes], Any] | None = None) -> None:
        self.found: dict[str, Any] = {}
        self._make = make or (lambda file, data: data)
        self._until = time.monotonic() + PATIENCE
        if files:
            thread = threading.Thread(target=self._read, args=(files,), name="towpath preview", daemon=True)
            thread.start()
            thread.join(PATIENCE)
            self.found = dict(self.found)  # a thread that is late adds nothing to what is being shown

    def _read(self, files: Sequence[Artifact]) -> None:
        found = self.found
        for file in files:
            try:
                found[file.id] = self._make(file, file.bytes())
            except Exception:  # noqa: S112 - the bytes are gone, or not what their name says: the table shows the name
                continue
            if time.monotonic() > self._until:
                return


def _data(file: Artifact, data: bytes) -> str:
    return f"data:{file.media_type};base64,{base64.b64encode(data).decode()}"


# ---- a plan


def plan_svg(plan: Plan, statuses: Mapping[str, str | None] | None = None) -> str:
    """The steps of a plan by levels, from left to right. Of a very large plan a part, its large levels folded."""
    drawn = layout(plan.steps, statuses or {})
    words = {step.id: step for step in plan.steps}
    boxes = "".join(_box(box, words, statuses or {}) for box in drawn.boxes)
    lines = "".join(f'<path d="{path}"/>' for path in drawn.paths)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {drawn.width:g} {drawn.height:g}" '
        f'width="{drawn.width:g}" height="{drawn.height:g}" role="img" aria-label="{_text(plan.name)}" '
        'style="max-width:100%;height:auto;color:inherit" font-family="system-ui,sans-serif" font-size="13">'
        f'<g fill="none" stroke="currentColor" stroke-opacity="0.45">{lines}</g>{boxes}</svg>'
    )


def plan_html(plan: Plan, statuses: Mapping[str, str | None] | None = None) -> str:
    """The name of the chain, what its levels leave out, and its drawing."""
    drawn: SvgLayout = layout(plan.steps, statuses or {})
    part = (
        f" · levels {drawn.first} to {drawn.last} of {drawn.levels}"
        if drawn.last - drawn.first + 1 < drawn.levels
        else ""
    )
    about = f'<div style="font-size:13px"><b>{_text(plan.name)}</b> · {len(plan.steps)} steps{part}</div>'
    return f"{about}{plan_svg(plan, statuses)}"


def _box(box: Box, steps: Mapping[str, Any], statuses: Mapping[str, str | None]) -> str:
    step = steps.get(box.key)
    mapped = step is not None and step.mapped
    name = box.key if step is not None else f"{box.folded} steps"
    notes = ", ".join(_notes(step)) if step is not None else ""
    colour = _COLOURS.get(str(statuses.get(box.key) or ""), "currentColor")
    frame = f'width="{NODE_WIDTH}" height="{NODE_HEIGHT}" rx="6" stroke="{colour}" fill="{colour}"'
    behind = f'<rect x="{box.x + 4:g}" y="{box.y - 4:g}" {frame} fill-opacity="0.05"/>' if mapped else ""
    middle = box.y + NODE_HEIGHT / 2 + (-2 if notes else 5)
    more = (
        f'<text x="{box.x + 10:g}" y="{middle + 15:g}" font-size="11" fill="currentColor" fill-opacity="0.7">'
        f"{_text(_cut(notes, 28))}</text>"
        if notes
        else ""
    )
    return (
        f'<g><title>{_text(name)}</title>{behind}<rect x="{box.x:g}" y="{box.y:g}" {frame} fill-opacity="0.08"/>'
        f'<text x="{box.x + 10:g}" y="{middle:g}" fill="currentColor">{_text(_cut(name, 22))}</text>{more}</g>'
    )


def _notes(step: Any) -> Iterator[str]:
    if step.mapped:
        yield "for each item"
    if step.kind != "python":
        yield str(step.kind)
    if step.condition is not None:
        yield "on a condition"
    if step.approval is not None:
        yield "asks for approval"


# ---- texts


def _text(text: object) -> str:
    """Escaped for HTML."""
    return html.escape(_spelled_out(str(text)), quote=True)


def _spelled_out(text: str) -> str:
    """What is not printable (control characters, changes of direction) as escapes."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode("ascii") for c in text)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _size(size: int) -> str:
    return f"{size} B" if size < 1000 else f"{size / 1000:.1f} kB" if size < 1_000_000 else f"{size / 1e6:.1f} MB"
