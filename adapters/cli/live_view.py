"""The progress of a running chain: a live picture on a terminal, lines elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType

from towpath.adapters.wiring import Engine
from towpath.events import DecisionApplied, Fact, StepDropped, StepEnded, StepReady, StepStarted
from towpath.model import Plan
from towpath.ports import RunRow
from towpath.run import Run

from .plain_lines import PlainLines
from .run_figures import RunFigures
from .screen import words

if TYPE_CHECKING:
    from rich.live import Live

    from .run_frame import RunFrame

FRAMES = 5  # a second
ASKED = 0.5  # seconds between two looks at what steps report, and at requests
_OF_STEPS = (StepReady, StepStarted, StepEnded, StepDropped, DecisionApplied)  # the process that executes records them
SHARE = 5.0  # a look that takes long is followed by a pause so many times as long


class Watch:
    """Shows one run while it runs. Use it as a context manager, with `on_fact` as the engine's listener.

    Without a `run_id` it follows the first run that reports a fact; runs inside its steps start later. `at` is
    ` --store …` for the commands that it names, `on_ctrl_c` says what Ctrl-C does.
    """

    def __init__(
        self,
        console: Console,
        plan: Plan,
        run_id: str | None = None,
        *,
        quiet: bool = False,
        at: str = "",
        on_ctrl_c: str = "Ctrl-C pauses the run",
    ) -> None:
        self.console = console
        self.run_id = run_id
        self.figures = RunFigures(plan)
        self._quiet = quiet
        self._message = ""
        self._heard = False  # of steps that this process executes: else another one works on the run
        self._frame: RunFrame | None = None
        self._lines: PlainLines | None = None
        self._live: Live | None = None
        if not quiet and _draws(console):
            from .run_frame import RunFrame  # noqa: PLC0415 - rich.progress is needed on a terminal only

            self._frame = RunFrame(console, self.figures, at, on_ctrl_c=on_ctrl_c)
        elif not quiet:
            self._lines = PlainLines(console, self.figures)

    def __enter__(self) -> Watch:
        self.figures.began = time.monotonic()
        if self._lines is not None:
            self._lines.begin()
            self._name_run()
        elif self._frame is not None:
            from rich.live import Live  # noqa: PLC0415

            self._live = Live(
                console=self.console, get_renderable=self._safely, refresh_per_second=FRAMES, transient=False
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._message = ""
        self.figures.ended = self.figures.ended or time.monotonic()
        if self._live is not None:
            self._live.stop()
        if self._lines is not None:
            self._lines.end()

    def begin_with(self, run: RunRow) -> None:
        """The run is not new: show what is recorded of it."""
        self.figures.load(run)
        if self._lines is not None:
            self._lines.catch_up(silently=True)

    def on_fact(self, run_id: str, fact: Fact) -> None:
        """Listener: update the view with a recorded fact."""
        if self.run_id is None:
            self.run_id = run_id
        if self._quiet or self.run_id != run_id:
            return
        if not self._heard:
            self._heard = isinstance(fact, _OF_STEPS)
            self._name_run()
        self.figures.take(fact)
        if self._lines is not None:
            self._lines.tell(fact)

    async def settle(self, engine: Engine, run: Run) -> None:
        """The run ended or paused: the last picture shows how it stands."""
        if not self._heard and not self._quiet:
            with suppress(Exception):
                self.figures.load(await engine.store.load(run.id))
                if self._lines is not None:
                    self._lines.catch_up()
        self.run_id = run.id
        self.figures.settle(run)

    def tell(self, message: str) -> bool:
        """Show a message below the picture: lines printed elsewhere would break it. False if there is no picture."""
        if self._live is None:
            return False
        self._message = message
        self._live.refresh()
        return True

    @asynccontextmanager
    async def following(self, engine: Engine) -> AsyncIterator[None]:
        """Meanwhile ask what running steps report. Errors of asking never reach the run."""
        if self._quiet:
            yield
            return
        asking = asyncio.ensure_future(self._ask_again_and_again(engine))
        try:
            yield
        finally:
            asking.cancel()

    async def _ask_again_and_again(self, engine: Engine) -> None:
        await asyncio.sleep(ASKED)  # a run that is refused shows nothing
        while True:
            began = time.monotonic()
            if self.run_id is not None:
                with suppress(Exception):
                    await self._ask(engine, self.run_id)
            await asyncio.sleep(max(ASKED, SHARE * (time.monotonic() - began)))

    async def _ask(self, engine: Engine, run_id: str) -> None:
        if self._heard:
            self.figures.reported = engine.adapter.progress(run_id)
            chain = await engine.get_chain(run_id)
            if chain is not None and chain["pause_requested_at"] and not self.figures.state:
                self.figures.state = "pausing"
            return
        reported, recorded = await engine.progress(run_id), await engine.store.load(run_id)
        if self._heard:  # meanwhile: its lines are told already
            return
        self.figures.reported = reported
        self.figures.load(recorded)
        if self._lines is not None:
            self._lines.catch_up()

    def _name_run(self) -> None:
        if self._lines is not None and self.run_id is not None:
            self._lines.name_run(self.run_id)

    def _safely(self) -> RenderableType:
        """The view, or a line with the error: an exception would end the thread that draws."""
        assert self._frame is not None, "only a terminal has a picture"
        try:
            return self._frame.draw(self.run_id or "", self._message)
        except Exception as error:
            return words(f"{self.figures.plan.name}: cannot be shown: {type(error).__name__}")


def _draws(console: Console) -> bool:
    """Can a picture be drawn? A dumb terminal cannot move its cursor."""
    return console.is_terminal and not console.is_dumb_terminal
