"""What steps print, log and warn about is kept, and the program around them notices nothing (F4, T25)."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import logging.config
import logging.handlers
import re
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.adapters.conftest import OpenEngine
from tests.adapters.logging_programs import HEAD, PROGRAMS
from tests.conformance.adapter.step_logs import texts
from towpath import Engine, chain, context, step
from towpath.errors import InputInvalid

pytestmark = pytest.mark.anyio

IN_A_STEP = """
from towpath import chain, open_engine, step
@step
{kind} work():
    do()
@chain
def working(): return work()
async def main():
    with tempfile.TemporaryDirectory() as folder:
        async with open_engine(folder + "/t.db") as engine:
            ready()
            run = await engine.run(working)
            await asyncio.sleep(0)
            text = "".join(row["text"] for row in await engine.store.logs(run.id))
    open(sys.argv[1], "w").write(text)
    assert "write" not in vars(sys.stdout) and logging.Logger.handle.__qualname__ == "Logger.handle"
    assert warnings._showwarnmsg.__module__ == "warnings"
asyncio.run(main())
"""


def _run(code: str, tmp_path: Path, name: str) -> tuple[str, str]:
    script = tmp_path / "program.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, "program.py", name], check=False, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize(
    ("name", "kind"), [(name, ("def", "async def")[number % 2]) for number, name in enumerate(PROGRAMS)]
)
def test_a_program_shows_what_it_shows_without_towpath(name: str, kind: str, tmp_path: Path) -> None:
    """The same code, by itself and in a step: the same output, to the byte; and the step's log has the lines."""
    body, expected = PROGRAMS[name]
    before, _, work = body.rpartition("---\n")
    # The same number of lines above the work: records tell the line.
    head = HEAD + before + "\ndef do():\n" + textwrap.indent(work, "    ") + "\n"
    alone = _run(head + "ready(); do()\n", tmp_path, "alone.txt")
    assert _run(head + IN_A_STEP.format(kind=kind), tmp_path, "kept.txt") == alone
    kept = (tmp_path / "kept.txt").read_text()
    for line in expected:
        assert kept.count(line) == 1, kept
    assert "no" not in kept.split()


# ---- one process


def _is_plain() -> bool:
    return (
        "write" not in vars(sys.stdout)
        and logging.Logger.isEnabledFor.__module__ == "logging"
        and logging.Logger.callHandlers.__module__ == "logging"
        and warnings._showwarnmsg.__module__ == "warnings"  # type: ignore[attr-defined]
    )


def _chain(function: Callable[[], Any]) -> Any:
    named = step(function)

    @chain
    def one():
        return named()

    return one


async def _text(engine: Engine, function: Callable[[], Any]) -> str:
    run = await engine.run(_chain(function))
    assert run.status == "completed", run.error
    return "".join((await texts(engine, run.id)).values())


def silent() -> None: ...


async def test_everything_is_as_before_when_the_last_engine_is_closed(open_engine: OpenEngine, tmp_path: Path) -> None:
    def work() -> None:
        print("printed")

    async with open_engine() as outer:
        async with open_engine() as inner:
            assert "printed" in await _text(inner, work)
        assert not _is_plain()
        assert "printed" in await _text(outer, work)
    assert _is_plain()
    async with open_engine(readonly=True):
        assert _is_plain()


async def test_two_engines_in_two_threads(open_engine: OpenEngine, tmp_path: Path) -> None:
    """Neither sees the other's steps, and the first to close takes nothing away from the other."""
    found: dict[int, str] = {}
    meet = threading.Barrier(2)

    def own(number: int) -> None:
        def work() -> None:
            for n in range(50):
                print(f"{number}: line {n}")

        async def main() -> None:
            async with open_engine(blobs=tmp_path / str(number)) as engine:
                await asyncio.to_thread(meet.wait)
                found[number] = await _text(engine, work)
                if number:
                    await asyncio.sleep(0.3)
                    found[number] += await _text(engine, work)

        asyncio.run(main())

    threads = [threading.Thread(target=own, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert found[0].splitlines() == [f"INFO    stdout: 0: line {n}" for n in range(50)]
    assert found[1].splitlines() == [f"INFO    stdout: 1: line {n}" for n in range(50)] * 2
    assert _is_plain()


async def test_streams_that_are_replaced_while_an_engine_is_open(open_engine: OpenEngine) -> None:
    """By pytest, a notebook, rich, or the program: from the next attempt on the new one is seen."""

    def work() -> None:
        print("one line")

    class Odd:
        """Has no attributes of its own: nothing can be seen there, and nothing fails."""

        __slots__ = ("text",)

        def __init__(self) -> None:
            self.text = ""

        def write(self, text: str) -> None:
            self.text += text

        def flush(self) -> None: ...

    async with open_engine() as engine:
        assert "one line" in await _text(engine, work)
        with contextlib.redirect_stdout(io.StringIO()) as there:
            assert "one line" in await _text(engine, work)
        assert there.getvalue() == "one line\n"
        odd = Odd()
        with contextlib.redirect_stdout(odd):  # type: ignore[type-var]
            assert await _text(engine, work) == ""
        assert odd.text == "one line\n"
        with contextlib.redirect_stdout(None):
            assert await _text(engine, work) == ""
        assert await _text(engine, work) == "INFO    stdout: one line\n"
    assert "write" not in vars(there)


async def test_a_stream_may_take_more_than_a_text(open_engine: OpenEngine) -> None:
    """And what is wrong with a call is said by the stream itself."""

    class Marking(io.StringIO):
        def write(self, text: str, mark: str = "", *, end: str = "") -> int:
            return super().write(mark + text + end)

    def work() -> None:
        sys.stdout.write("one", "> ", end="!\n")  # type: ignore[call-arg]
        sys.stdout.write(text="two\n")  # type: ignore[call-arg]
        with pytest.raises(TypeError, match=r"Marking.write.. missing 1 required positional argument: 'text'"):
            sys.stdout.write()  # type: ignore[call-arg]

    async with open_engine() as engine:
        with contextlib.redirect_stdout(Marking()) as there:
            assert await _text(engine, work) == "INFO    stdout: one\n"
        assert there.getvalue() == "> one!\ntwo\n"


async def test_a_closed_stream_is_as_closed_as_ever(open_engine: OpenEngine) -> None:
    closed = io.StringIO()
    closed.close()

    def work() -> None:
        with pytest.raises(ValueError, match="closed file"):
            print("to nobody")

    async with open_engine() as engine:
        with contextlib.redirect_stdout(closed):
            assert await _text(engine, work) == "INFO    stdout: to nobody\n"


async def test_prints_can_be_left_out(open_engine: OpenEngine) -> None:
    def work() -> None:
        print("printed")
        logging.getLogger("a.lib").info("info")
        logging.getLogger("a.lib").error("error")
        logging.getLogger("a.lib").debug("debug")

    async with open_engine(log_prints=False, log_level="error") as engine:
        assert await _text(engine, work) == "ERROR   a.lib: error\n"
    async with open_engine(log_level="DEBUG") as engine:
        text = await _text(engine, work)
        assert [line.split()[-1] for line in text.splitlines()] == ["printed", "info", "error", "debug"]


@pytest.mark.parametrize("wrong", [{"log_prints": "no"}, {"log_level": "LOUD"}, {"log_level": 20}])
async def test_wrong_settings_are_refused(open_engine: OpenEngine, wrong: dict[str, Any]) -> None:
    with pytest.raises(InputInvalid, match=next(iter(wrong))) as refused:
        async with open_engine(**wrong):
            pass
    assert refused.value.code == "E_SETTING"


async def test_settings_of_the_file(open_engine: OpenEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    await anyio.Path("towpath.toml").write_text('log_prints = false\nlog_level = "WARNING"\n')

    def work() -> None:
        print("printed")
        logging.getLogger("a.lib").info("info")
        logging.getLogger("a.lib").warning("warning")

    async with open_engine() as engine:
        assert await _text(engine, work) == "WARNING a.lib: warning\n"


@pytest.fixture
def quiet() -> Iterator[logging.Logger]:
    logger = logging.getLogger("a.talkative.lib")
    logger.setLevel(logging.WARNING)
    yield logger
    logger.setLevel(logging.NOTSET)


async def test_levels_that_somebody_chose_count(open_engine: OpenEngine, quiet: logging.Logger) -> None:
    """A logger below the root with a level of its own was made quiet on purpose; so was everything by `disable`."""

    def work() -> None:
        quiet.getChild("part").info("too much")
        quiet.warning("enough")
        logging.disable(logging.WARNING)
        logging.getLogger("a.lib").warning("disabled")
        logging.getLogger("a.lib").error("kept")
        logging.disable(logging.NOTSET)

    async with open_engine() as engine:
        text = await _text(engine, work)
        assert text.splitlines() == ["WARNING a.talkative.lib: enough", "ERROR   a.lib: kept"]


async def test_no_line_of_a_library_fails_a_step(open_engine: OpenEngine) -> None:
    class Bad:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    def work() -> None:
        log = logging.getLogger("a.lib")
        log.info("%d", "x")
        log.info(Bad())
        log.info("%s", Bad())
        with contextlib.suppress(UnicodeEncodeError):
            print("\udcff\0")
        log.info("after")

    async with open_engine() as engine:
        text = await _text(engine, work)
    assert "after" in text
    assert "INFO    stdout: \\udcff\\x00" in text
    assert "%d (its arguments do not fit)" in text


async def test_secrets_are_removed_from_what_is_kept_only(
    open_engine: OpenEngine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVICE_TOKEN", "tr0ub4dor-and-3")

    def work() -> None:
        print("the token is ", end="")
        print("tr0ub4dor-and-3")
        logging.getLogger("a.lib").info("with tr0ub4dor-and-3")
        print("-----BEGIN PRIVATE KEY-----")
        print("MIIEvQIBADANBgkqhkiG9w0BAQEFAASC")
        print("-----END PRIVATE KEY-----")

    async with open_engine() as engine:
        text = await _text(engine, work)
    assert "tr0ub4dor" not in text
    assert "MIIEv" not in text
    assert "the token is ***" in text
    assert "the token is tr0ub4dor-and-3" in capsys.readouterr().out


async def test_what_is_left_behind_adds_nothing(open_engine: OpenEngine) -> None:
    """A task or a thread of a step that goes on after it."""
    goes_on = asyncio.Event()
    left: list[asyncio.Task[None]] = []

    async def later() -> None:
        await goes_on.wait()
        print("too late")

    async def work() -> None:
        print("in time")
        left.append(asyncio.create_task(later()))

    async with open_engine() as engine:
        assert await _text(engine, work) == "INFO    stdout: in time\n"
        goes_on.set()
        await left[0]
        assert await _text(engine, silent) == ""


async def test_only_the_end_of_a_huge_output_is_kept(open_engine: OpenEngine) -> None:
    def work() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            pass
        for n in range(20_000):
            sys.stderr.write(f"line {n} {'x' * 40}\n")
        sys.stderr.write("y" * 100_000)

    async with open_engine() as engine:
        text = await _text(engine, work)
    assert len(text) <= 256 * 1024
    lines = text.splitlines()
    assert re.fullmatch(r"INFO    stderr: line \d+ x{40}", lines[0])
    assert lines[-2].startswith("INFO    stderr: line 19999 ")
    assert lines[-1] == f"INFO    stderr: {'y' * 100_000}"


async def test_the_store_says_nothing_to_the_log_of_the_program(
    open_engine: OpenEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """F20: `INFO:databases:Connected to database …`."""
    with caplog.at_level(logging.INFO):
        async with open_engine() as engine:
            assert await _text(engine, silent) == ""
    assert [record for record in caplog.records if record.name == "databases"] == []


async def test_caplog_sees_what_it_would_see(open_engine: OpenEngine, caplog: pytest.LogCaptureFixture) -> None:
    def work() -> None:
        logging.getLogger("a.lib").info("info")
        logging.getLogger("a.lib").error("error %d", 1)
        context().logger.debug("own")

    async with open_engine() as engine:
        text = await _text(engine, work)
        assert text.splitlines() == ["INFO    a.lib: info", "ERROR   a.lib: error 1", "DEBUG   own"]
    own = [record.getMessage() for record in caplog.records if record.name in ("a.lib", "towpath.steps.work")]
    assert own == ["error 1", "own"]


async def test_an_interrupted_run_keeps_what_its_steps_said(open_engine: OpenEngine) -> None:
    began = asyncio.Event()

    async def work() -> None:
        print("before the end")
        context().progress(1, 3)
        began.set()
        await asyncio.sleep(60)

    async with open_engine() as engine:
        handle = await engine.start(_chain(work))
        await began.wait()
    async with open_engine() as engine:
        assert (await engine.snapshot(handle.id)).reason == "interrupted"
        assert await texts(engine, handle.id) == {"work": "INFO    stdout: before the end\n"}
