"""Who watches a run cannot fail it: listeners, log handlers, log calls, progress callbacks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.adapters.conftest import OpenEngine
from towpath import ChainStatus, chain, context, step
from towpath.adapters.listening import Audience
from towpath.adapters.step_executor import Resources
from towpath.adapters.temporal.step_attempt import Recorder
from towpath.events import ChainPaused, Fact

pytestmark = pytest.mark.anyio


@step
async def one() -> int:
    context().logger.info("one")
    return 1


@step
def two(value: int) -> int:
    context().logger.warning("two")
    context().progress(1, 2)
    return value + 1


@chain
def line() -> Any:
    return two(one())


def raises(error: BaseException | type[BaseException]) -> Callable[[str, Fact], None]:
    """A listener that raises."""

    def listener(run_id: str, fact: Fact) -> None:
        raise error

    return listener


async def is_async(run_id: str, fact: Fact) -> None:
    """Nobody awaits it."""


def takes_too_little(run_id: str) -> None:
    """Cannot even be called."""


class Unspeakable(Exception):
    """An error that cannot be shown."""

    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


def changes_the_fact(run_id: str, fact: Fact) -> None:
    """Facts are frozen, so this is an error too."""
    object.__getattribute__(fact, "type_that_is_not_there")


LISTENERS: dict[str, Any] = {
    "an error": raises(ValueError("no")),
    "what rich raises on a broken pipe": raises(SystemExit(1)),  # not an Exception
    "a cancellation that it made up": raises(asyncio.CancelledError()),  # would be taken for the run's own
    "an interrupt": raises(KeyboardInterrupt()),  # must end neither the run nor the loop
    "the end of a generator": raises(GeneratorExit()),
    "a group": raises(BaseExceptionGroup("several", [SystemExit(2), ValueError()])),
    "an error without text": raises(Unspeakable()),  # reporting it fails as well
    "a broken pipe": raises(BrokenPipeError()),
    "no memory": raises(MemoryError()),
    "async": is_async,  # a coroutine that is never awaited
    "another signature": takes_too_little,
    "an attribute that is not there": changes_the_fact,
}


@pytest.mark.parametrize("kind", LISTENERS)
async def test_a_listener_that_raises_changes_nothing(open_engine: OpenEngine, kind: str) -> None:
    """Each ends its own call only: the run completes, and the next listener hears every fact."""
    heard: list[Fact] = []
    async with open_engine(listener=LISTENERS[kind]) as engine:
        engine.adapter.listeners.append(lambda _, fact: heard.append(fact))
        run = await engine.run(line)
        beside = await engine.run(line)
    assert (run.status, beside.status) == (ChainStatus.COMPLETED, ChainStatus.COMPLETED)
    assert len(heard) > 4


@pytest.mark.parametrize("kind", LISTENERS)
async def test_a_worker_on_temporal_records_whatever_its_listeners_raise(kind: str) -> None:
    """The recorder of a worker tells its listeners after the store: what they raise fails no activity."""
    recorded: list[Any] = []

    class Kept:
        async def record(self, lease: Any, facts: Any) -> None:
            recorded.extend(facts)

    class Lease:
        run_id = "r"

    heard: list[Fact] = []
    listeners = [LISTENERS[kind], lambda _, fact: heard.append(fact)]
    recorder: Any = Recorder(Resources(Kept(), listeners=listeners))  # type: ignore[arg-type]
    await recorder.record(Lease(), [ChainPaused("x")])
    assert recorded == heard == [ChainPaused("x")]


def test_a_listener_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    """A thousand facts do not fill the log."""
    audience = Audience([raises(ValueError("no"))])
    for _ in range(1000):
        audience.notify("r", ChainPaused("x"))
    assert len(caplog.records) == 1


# ---- logging


class Wild:
    """An argument of a log call that cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


LOG_CALLS: dict[str, tuple[Any, ...]] = {
    "a wrong conversion": ("n=%d", "three"),
    "too many arguments": ("done", 1, 2),
    "too few arguments": ("%s and %s", 1),
    "a name that is not there": ("%(missing)s", {"there": 1}),
    "no format at all": ("100%", 1),
    "an argument without text": ("%s", Wild()),
    "an unknown conversion": ("%y", 1),
    "a message without text": (Wild(),),
}


@pytest.mark.parametrize("call", LOG_CALLS)
async def test_a_log_call_never_raises(open_engine: OpenEngine, capsys: pytest.CaptureFixture[str], call: str) -> None:
    """Python's rule: the mistake is shown on stderr, and the line that follows is kept."""
    arguments = LOG_CALLS[call]

    @step
    def logs() -> str:
        context().logger.info(*arguments)
        context().logger.info("went on")
        return "done"

    @chain
    def logging_chain() -> Any:
        return logs()

    async with open_engine() as engine:
        run = await engine.run(logging_chain)
        text = (await engine.store.logs(run.id))[0]["text"]
    assert run.status is ChainStatus.COMPLETED
    assert text.splitlines()[-1].endswith("went on")
    assert "Logging error" in capsys.readouterr().err


HALVES = {
    "the first half": "\ud800",
    "a byte of a file name": "a\udcffb",
    "two halves in the wrong order": "\udfff\ud800",
    "at the end": "ok \udc80",
    "half an emoji": "x\ud83d",
    "beside a whole one": "😀\ud83d",
}


@pytest.mark.parametrize("kind", HALVES)
async def test_half_a_surrogate_pair_in_a_log_line_is_kept_as_its_escape(
    open_engine: OpenEngine, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No database can hold one; neither the step nor the other lines suffer."""
    text = HALVES[kind]
    monkeypatch.setattr(logging.getLogger("towpath.steps"), "propagate", False)  # a test's report cannot hold one

    @step
    def logs() -> None:
        context().logger.info(text)
        context().logger.info("went on")

    @chain
    def logging_chain() -> Any:
        return logs()

    async with open_engine() as engine:
        run = await engine.run(logging_chain)
        lines = (await engine.store.logs(run.id))[0]["text"].splitlines()
    assert run.status is ChainStatus.COMPLETED
    assert lines[0].endswith(text.encode("utf-8", "backslashreplace").decode())
    assert lines[1].endswith("went on")


class Broken(logging.Handler):
    """A handler that does not call `handleError`, as many home-made ones."""

    def emit(self, record: logging.LogRecord) -> None:
        raise OSError("the log's disk is full")


class Picky(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        raise KeyError("a filter")


@pytest.fixture(
    params=["root handler", "towpath handler", "steps handler", "handler's filter", "logger's filter", "formatter"]
)
def broken_logging(request: pytest.FixtureRequest) -> Iterator[str]:
    """Something in the program's logging set-up raises."""
    names = {"root handler": None, "towpath handler": "towpath", "steps handler": "towpath.steps"}
    logger = logging.getLogger(names.get(request.param))
    handler: logging.Handler = Broken() if request.param in names else logging.NullHandler()
    if request.param == "handler's filter":
        handler = Broken()
        handler.addFilter(Picky())
    if request.param == "formatter":
        handler = logging.StreamHandler()
        handler.format = lambda record: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    picky = Picky()
    own = logging.getLogger("towpath")
    logger.addHandler(handler)
    if request.param == "logger's filter":
        own.addFilter(picky)
    yield request.param
    logger.removeHandler(handler)
    own.removeFilter(picky)


async def test_a_log_handler_that_raises_changes_nothing(open_engine: OpenEngine, broken_logging: str) -> None:
    """Neither lines of steps nor our own messages (here: of a listener) pass its error on."""
    async with open_engine(listener=raises(ValueError("no"))) as engine:
        run = await engine.run(line)
        assert "one" in (await engine.store.logs(run.id))[0]["text"]
    assert run.status is ChainStatus.COMPLETED, broken_logging


# ---- progress


@pytest.mark.parametrize(
    "told",
    [
        ("much",),
        (float("nan"),),
        (1, float("inf")),
        (None,),
        (10**400,),
        (1, "all"),
        (object(), object()),
        ([],),
        (1j,),
    ],
    ids=["text", "nan", "infinity", "none", "huge", "text-total", "objects", "list", "complex"],
)
async def test_progress_that_is_no_number_is_not_told(open_engine: OpenEngine, told: tuple[Any, ...]) -> None:
    """What was told before stands, and the step goes on."""
    seen: list[tuple[float, float | None]] = []

    @step
    def works() -> str:
        context().progress(1, 4)
        context().progress(*told)
        seen.append((context().done, context().total))
        return "done"

    @chain
    def working() -> Any:
        return works()

    async with open_engine() as engine:
        assert (await engine.run(working)).status is ChainStatus.COMPLETED
    assert seen == [(1, 4)]


async def test_a_progress_callback_that_raises_is_called_no_more(open_engine: OpenEngine) -> None:
    """It watches; the step does not depend on it."""
    calls: list[int] = []

    def bad() -> None:
        calls.append(1)
        raise ValueError("no")

    @step
    def works() -> str:
        context().on_progress = bad
        context().progress(1)
        context().progress(2)
        return "done"

    @chain
    def working() -> Any:
        return works()

    async with open_engine() as engine:
        assert (await engine.run(working)).status is ChainStatus.COMPLETED
    assert calls == [1]
