"""What running attempts log, and how far they are: recorded while they run, for pages and for other processes.

An attempt is recorded for the first time a second after its first line or figure, and then once a second at most. So an
attempt that ends within a second writes nothing before its end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial

import anyio
import anyio.to_thread

from towpath.context import Figures
from towpath.errors import TowpathError
from towpath.events import LogKept
from towpath.logs import guarded_logger

from .step_executor import Key, Work

BETWEEN = 1.0  # seconds between two records of one attempt
TICK = 0.25  # seconds between two looks at all attempts
RATE = 4 * 2**20  # characters in a second: logs are recorded as a whole each time

_log = guarded_logger("towpath")


def figures_of(works: Iterable[Work]) -> dict[Key, Figures]:
    """The progress that running attempts have reported: (done, total) by step and item."""
    reports = [(work.key, work.context.figures) for work in works if work.context is not None]
    return {key: figures for key, figures in reports if figures is not None}


def due(works: Iterable[Work]) -> list[Work]:
    """The attempts with something new that may be recorded now."""
    now = anyio.current_time()
    return [work for work in works if _is_due(work, now)]


def _is_due(work: Work, now: float) -> bool:
    context = work.context
    if context is None or not context.has_news:
        return False
    if context.figures is context.shown and (context.log is None or not context.log.changed):
        return False
    if context.show_at is None:
        context.show_at = now + BETWEEN
    if now < context.show_at:
        return False
    context.show_at = now + BETWEEN
    return True


async def news_of(works: list[Work]) -> list[tuple[Work, LogKept]]:
    """The facts about attempts, as they are now. The caller must drop those whose attempt has ended meanwhile."""
    return (
        await anyio.to_thread.run_sync(partial(_news_of, works)) if works else []
    )  # secrets are searched in the texts


def _news_of(works: list[Work]) -> list[tuple[Work, LogKept]]:
    made: list[tuple[Work, LogKept]] = []
    for work in works:
        context = work.context
        if context is not None:
            figures = context.shown = context.figures
            text = "" if context.log is None else context.log.text()
            made.append((work, LogKept(work.row.id, context.attempt, text, *_columns(figures))))
    return made


def last_news_of(work: Work, *, failed: bool) -> LogKept | None:
    """The fact about an attempt that has ended. None without a line or, unless it failed, a figure that was shown."""
    context = work.context
    if context is None or not context.has_news:
        return None
    text = "" if context.log is None else context.log.text(final=True)
    if not text and not (context.figures is not None and (failed or context.shown is not None)):
        return None
    return LogKept(work.row.id, work.row.attempt, text, *_columns(context.figures))


def _columns(figures: Figures | None) -> tuple[float | None, float | None]:
    if figures is None:
        return None, None
    done, total = figures
    return float(done), None if total is None else float(total)


async def record_all_the_time(record: Callable[[], Awaitable[int]]) -> None:
    """Call `record` until cancelled. It returns how many characters it recorded."""
    while True:
        size = 0
        try:
            size = await record()
        except TowpathError as error:
            _log.warning("log lines are not stored yet: %s", error)
        except Exception:
            _log.exception("recording log lines failed; retrying")
        await anyio.sleep(max(TICK, size / RATE))
