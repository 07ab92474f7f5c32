"""Durations, sizes and places of steps as people read them, on the command line and on the pages."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping

_MINUTE, _HOUR = 60, 3600


def duration(seconds: float) -> str:
    """`250 ms`, `3.2 s`, `1 min 15 s`, `2 h`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    large, small = (("min", _MINUTE), ("s", 1)) if seconds < _HOUR else (("h", _HOUR), ("min", _MINUTE))
    rest = int(seconds % large[1] // small[1])
    return f"{int(seconds // large[1])} {large[0]}" + (f" {rest} {small[0]}" if rest else "")


def lasted(started: int | None, ended: int | None) -> str:
    """The duration between two times in microseconds; empty if one of them is not known."""
    return "" if started is None or ended is None else duration(max(0, ended - started) / 1e6)


def size_text(size: int) -> str:
    """A number of bytes: `512 B`, `1.5 kB`."""
    if size < 1000:
        return f"{size} B"
    scaled = float(size)
    for unit in ("kB", "MB", "GB"):
        scaled /= 1000
        if scaled < 1000:
            return f"{scaled:.1f} {unit}"
    return f"{scaled / 1000:.1f} TB"


def label_text(name: str | None, tags: Mapping[str, str]) -> str:
    """The name of a run and its tags: `media-12  client=x urgent`."""
    shown = " ".join(f"{key}={value}" if value else key for key, value in tags.items())
    return "  ".join(part for part in (name, shown) if part)


def place(step: str | None, item: int | None = None) -> str:
    """A step or an item of it: `step` or `step[2]`. A file that no step made has the place `standalone`."""
    return f"{step or 'standalone'}" if item is None else f"{step}[{item}]"


def counted(number: int, one: str, many: str = "") -> str:
    """`1 file`, `2 files`, `1,000 files`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def amount(number: float) -> str:
    """A figure that a step reported: `1,234`, `0.25`, `1.5e+20`."""
    if abs(number) >= 1e15:
        return f"{number:g}"
    return f"{number:,.0f}" if number == int(number) else f"{number:,.3f}".rstrip("0").rstrip(".")


def at_store(store: str | os.PathLike[str] | None) -> str:
    """What a command needs to find this store: ` --store …`, as a shell takes it. Empty for the default store."""
    return "" if store is None else f" --store {shlex.quote(os.fspath(store))}"
