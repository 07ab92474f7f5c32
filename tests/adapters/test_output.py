"""What becomes of the output never decides what becomes of the run."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from tests.adapters.test_cli import clean_environment, command
from towpath.adapters.cli import screen, streams

STEPS = """
import logging, os, sys, time
from towpath import chain, context, step

logging.basicConfig()

@step
def talks(n: int, size: int) -> int:
    print("x" * size)
    print("y" * size, file=sys.stderr)
    context().logger.warning("a log line, also on stderr")
    time.sleep(0.05)
    return n

@chain
def talking(size: int = 40):
    n = 0
    for _ in range(4):
        n = talks(n, size)
    return n

@step
def waits(folder: str) -> str:
    open(os.path.join(folder, "began"), "w").close()
    while not os.path.exists(os.path.join(folder, "go")):
        time.sleep(0.02)
    print("still here")
    return "done"

@chain
def waiting(folder: str):
    return waits(folder)

@chain
def asking(folder: str):
    return waits(folder).with_approval()

@step
def breaks() -> None:
    raise ValueError("no")

@chain
def breaking():
    return breaks()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "m.py").write_text(STEPS)
    return tmp_path


def statuses(folder: Path) -> list[str]:
    """What is recorded of the runs."""
    with closing(sqlite3.connect(folder / "towpath.db")) as database:
        return [row[0] for row in database.execute("SELECT status FROM chains ORDER BY started_at")]


def closed_pipe() -> int:
    """A pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def terminal_that_is_gone() -> int:
    """Writing there is an error of the device, not a broken pipe."""
    ours, its = pty.openpty()
    os.close(ours)
    return its


def only_for_reading() -> int:
    """A descriptor that was opened the wrong way."""
    return os.open(os.devnull, os.O_RDONLY)


def half_closed_socket() -> int:
    """Another kind of pipe, with another error."""
    ours, its = socket.socketpair()
    ours.close()
    return its.detach()


TROUBLE: dict[str, Callable[[], int]] = {
    "a closed pipe": closed_pipe,
    "a full disk": full_disk,
    "a terminal that is gone": terminal_that_is_gone,
    "a descriptor for reading": only_for_reading,
    "a closed socket": half_closed_socket,
}


@pytest.mark.parametrize(
    ("kind", "which"), [*((kind, "both") for kind in TROUBLE), ("a closed pipe", "stdout"), ("a full disk", "stderr")]
)
def test_output_that_cannot_be_written_ends_the_output_only(folder: Path, kind: str, which: str) -> None:
    """Progress lines, prints of steps and log lines: the run goes on to its end, and the exit code is the run's."""
    descriptor = TROUBLE[kind]()
    try:
        streams: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        streams.update({name: descriptor for name in streams if which in (name, "both")})
        done = subprocess.run(
            command("run", "m.py:talking"), cwd=folder, env=clean_environment(), timeout=120, check=False, **streams
        )
    finally:
        os.close(descriptor)
    assert done.returncode == 0
    assert statuses(folder) == ["completed"]


@pytest.mark.parametrize(
    "line",
    [
        "{towpath} run m.py:talking | head -1",
        "{towpath} run m.py:talking 2>&1 | head -c 20",
        "{towpath} run m.py:talking >&- 2>&-",
        "{towpath} run m.py:talking <&- >&- 2>&-",  # what is opened next may not become anybody's output
        "{towpath} run m.py:talking --json | head -c 1",
        "{towpath} run m.py:breaking 2>&1 | true",
        "{towpath} run m.py:talking 2>&1 | (exec 0<&-; sleep 3)",
    ],
)
def test_a_shell_that_takes_only_a_part_gets_a_whole_run(folder: Path, line: str) -> None:
    """As people type it; the status of the first program in the line is the run's."""
    script = "set -o pipefail; " + line.format(towpath=f"{sys.executable} -m towpath")
    done = subprocess.run(["bash", "-c", script], cwd=folder, env=clean_environment(), timeout=120, check=False)
    failing = "breaking" in line
    assert done.returncode == int(failing)
    assert statuses(folder) == ["failed" if failing else "completed"]


@pytest.mark.parametrize(
    ("encoding", "sign"),
    [
        ("ascii", b"+ talks"),
        ("latin-1", b"+ talks"),
        ("cp1252", b"+ talks"),
        ("cp437", b"+ talks"),  # has some of our signs at other places
        ("koi8-r", b"+ talks"),
        ("shift_jis", b"+ talks"),  # several bytes to a character
        ("utf-16-le", "✓ talks".encode("utf-16-le")),
        ("utf-8", "✓ talks".encode()),
        ("ascii:strict", b"+ talks"),  # asked to fail
    ],
)
def test_every_encoding_of_a_console_will_do(folder: Path, encoding: str, sign: bytes) -> None:
    """Our signs become ASCII where an encoding has none of them; text becomes an escape; JSON stays the same data."""
    environment = {**clean_environment(), "PYTHONIOENCODING": encoding}
    arguments = command("run", "m.py:talking", "--run-id", "日本-é")
    done = subprocess.run(arguments, cwd=folder, env=environment, timeout=120, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert sign in done.stdout
    assert b"Traceback" not in done.stderr
    listed = subprocess.run(
        command("ls", "--json"), cwd=folder, env=environment, timeout=120, check=False, capture_output=True
    )
    text = listed.stdout.decode(encoding.partition(":")[0])
    assert json.loads(text)[0]["id"] == "日本-é"


def wait_for(what: Callable[[], bool]) -> None:
    """Until it is so; a minute at most."""
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_reader_that_stops_reading_holds_up_nothing_but_the_output(folder: Path) -> None:
    """The pipe is full for good; the run ends all the same, and what fits is still there for a late reader."""
    reader, writer = os.pipe()
    arguments = command("run", "m.py:talking", "--input", "size=300000")
    with subprocess.Popen(arguments, cwd=folder, env=clean_environment(), stdout=writer, stderr=writer) as process:
        os.close(writer)
        try:
            wait_for(lambda: (folder / "towpath.db").exists() and _has_ended(folder))
            assert process.poll() is None  # it still waits for its reader
            seen = b""
            while data := os.read(reader, 1 << 20):
                seen += data
            assert process.wait(60) == 0
        finally:
            process.kill()
            os.close(reader)
    assert seen.count(b"x") >= 4 * 300_000
    assert b"completed  talking" in seen


def _has_ended(folder: Path) -> bool:
    try:
        return statuses(folder) == ["completed"]
    except sqlite3.Error:  # its tables are being made
        return False


@pytest.mark.parametrize("how", ["hangup", "closed", "both"])
def test_a_terminal_that_goes_away_leaves_the_run_to_its_end(folder: Path, how: str) -> None:
    """The signal of a closed terminal is no request to stop; writing there is over."""
    ours, its = pty.openpty()
    arguments = command("run", "m.py:waiting", "--input", f"folder={folder}")
    process = subprocess.Popen(
        arguments, cwd=folder, env=clean_environment(), stdin=its, stdout=its, stderr=its, start_new_session=True
    )
    os.close(its)
    try:
        wait_for((folder / "began").exists)
        if how in ("hangup", "both"):
            process.send_signal(signal.SIGHUP)
        if how in ("closed", "both"):
            os.close(ours)
        (folder / "go").touch()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        if how == "hangup":
            os.close(ours)
    assert statuses(folder) == ["completed"]


def test_nothing_waits_at_a_gate_of_a_terminal_that_went_away(folder: Path) -> None:
    """The run is left as it is without a terminal, and can be decided and resumed."""
    ours, its = pty.openpty()
    arguments = command("run", "m.py:asking", "--input", f"folder={folder}")
    process = subprocess.Popen(
        arguments, cwd=folder, env=clean_environment(), stdin=its, stdout=its, stderr=its, start_new_session=True
    )
    os.close(its)
    try:
        wait_for((folder / "began").exists)
        process.send_signal(signal.SIGHUP)
        os.close(ours)
        (folder / "go").touch()
        assert process.wait(60) == 3
    finally:
        process.kill()
        process.wait()
    assert statuses(folder) == ["paused"]


# ---- the stream itself


@pytest.fixture
def pipe() -> Any:
    reader, writer = os.pipe()
    yield reader, writer
    for descriptor in (reader, writer):
        with suppress(OSError):
            os.close(descriptor)


def test_what_waits_for_a_slow_reader_is_bounded(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that nobody listens to does not fill the memory; one large answer is never cut."""
    monkeypatch.setattr(streams, "MAX_QUEUED", 1000)
    reader, writer = pipe
    stream = streams.OutputStream(writer, "utf-8", False)
    stream.begin()
    stream.write("z" * 200_000)  # more than a pipe holds, in one piece
    for _ in range(1000):
        stream.write("dropped\n")
    seen = b""
    while len(seen) < 200_000:
        seen += os.read(reader, 1 << 20)
    stream.end()
    os.close(writer)
    seen += os.read(reader, 1 << 20)
    assert seen.count(b"z") == 200_000
    assert seen.count(b"dropped") < 1000


def test_what_is_written_comes_in_order_beside_a_run_and_after_it(pipe: tuple[int, int]) -> None:
    """Changing over loses and swaps nothing."""
    reader, writer = pipe
    stream = streams.OutputStream(writer, "utf-8", False)
    for turn in range(6):
        if turn % 2:
            stream.begin()
        for number in range(100):
            stream.write(f"{turn}.{number}\n")
        if turn % 2:
            stream.end()
    os.close(writer)
    seen = b""
    while data := os.read(reader, 1 << 16):
        seen += data
    assert seen.decode().split() == [f"{turn}.{number}" for turn in range(6) for number in range(100)]


def test_who_is_told_to_end_waits_for_no_reader(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """What did not fit is dropped; else a full pipe would keep a process that somebody wants to end."""
    monkeypatch.setattr(streams, "FLUSH_SECONDS", 0.05)
    stream = streams.OutputStream(pipe[1], "utf-8", False)
    monkeypatch.setattr(streams, "_installed", [stream])
    stream.begin()
    stream.write("z" * 200_000)
    streams.hurry()
    stream.end()
    assert stream.gone
    stream.write("no more")


@pytest.mark.parametrize("text", ["\ud800", "✓", "\x00", "é", "😀", ""])
@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "cp1252", "no-such-encoding", "cp037", "base64"])
def test_a_stream_takes_every_text(pipe: tuple[int, int], encoding: str, text: str) -> None:
    """In any encoding, also in one that is none for text."""
    stream = streams.OutputStream(pipe[1], encoding, False)
    assert stream.write(text) == len(text)
    print(text, file=stream, flush=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_person_can_still_stop_a_run(folder: Path, number: signal.Signals) -> None:
    """It is paused in order, with the words that say so, whoever reads them."""
    process = subprocess.Popen(
        command("run", "m.py:waiting", "--input", f"folder={folder}"),
        cwd=folder,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        wait_for((folder / "began").exists)
        process.send_signal(number)
        said = b""
        assert process.stdout is not None
        while b"stopping" not in said and (chunk := os.read(process.stdout.fileno(), 1 << 16)):
            said += chunk
        (folder / "go").touch()  # a thread cannot be cancelled
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert b"stopping" in said
    assert statuses(folder) == ["paused"]


def test_the_stream_of_a_run_is_a_text_stream_to_modules(tmp_path: Path) -> None:
    """What modules do to `sys.stdout` when they are imported works as on any stream."""
    (tmp_path / "m.py").write_text(
        "import sys\n"
        "for stream in (sys.stdout, sys.stderr):\n"
        "    stream.reconfigure(encoding='utf-8', errors='replace', line_buffering=True)\n"
        "    assert stream.name and stream.mode and stream.buffer.raw and stream.encoding\n"
        "    assert stream.line_buffering and stream.write_through and not stream.closed\n"
        "import io\n"
        "missing = [name for name in dir(io.TextIOWrapper) if not hasattr(sys.stdout, name)]\n"
        "assert not [name for name in missing if not name.startswith('_')], missing\n"
        "from towpath import chain, step\n"
        "@step\ndef one() -> int:\n    return 1\n"
        "@chain\ndef c():\n    return one()\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "towpath", "run", "m.py:c", "--store", "s.db"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# ---- errors on a terminal


@pytest.mark.parametrize("columns", [20, 40, 80])
def test_an_error_is_not_cut_inside_a_word(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """The lines end between words, and what is to be copied stays in one piece."""
    console = Mock(is_terminal=True, width=columns)
    monkeypatch.setattr(screen, "terminal", lambda **_: console)
    command = """--input 'names=["a", "a"]'"""
    text = (
        f"  cure: put the module beside the chain file or on the Python path, then as JSON: {command} or `towpath ls`"
    )
    lines = screen.folded(f"{text}\n  a second line")
    assert [word for line in lines for word in line.split()] == f"{text} a second line".split()
    assert any(command in line for line in lines)
    assert all(len(line) <= columns or line.strip() in (command, "`towpath ls`") for line in lines)
    assert lines[0].startswith("  cure: ")
    assert all(line.startswith("    ") for line in lines[1:-1])


def test_an_error_in_a_pipe_has_one_line_for_each_thing() -> None:
    text = "  cure: " + "word " * 100
    assert screen.folded(text) == [text]
