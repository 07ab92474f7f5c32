"""Victims as processes: started, heard, stopped, killed, and never left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from tests.reliability.invariants import Hurt

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120.0  # seconds that anything may take on a busy machine
_TIME = re.compile(r"^\d\d:\d\d:\d\d ")


def inject(calls: str, what: str) -> list[str]:
    """The beginning of a command line that does `what` at system calls `calls`, by strace."""
    options = ["-f", "-qq", "-o", os.devnull, "-e", f"trace={calls}"]
    return ["strace", *options, "-e", f"inject={calls}:{what}"]


class Program:
    """A command in a session of its own, as a context manager; its whole session is killed at the end."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        folder: Path = ROOT,
    ) -> None:
        self.lines: list[str] = []
        self.errors: list[str] = []
        self._news = threading.Condition()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
            cwd=folder,
            start_new_session=True,
            text=True,
        )
        streams = ((self.process.stdout, self.lines), (self.process.stderr, self.errors))
        self._readers = [threading.Thread(target=self._read, args=pair, daemon=True) for pair in streams]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: object, into: list[str]) -> None:
        for line in stream:  # type: ignore[attr-defined]
            with self._news:
                into.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()
        if kind is not None:
            print(f"victim said: {self.lines[-20:]}\n" + "\n".join(self.errors[-40:]))

    def wait_for(self, beginning: str, count: int = 1) -> str:
        """The `count`th line that begins so (after a time, if there is one); fails if the process ends without it."""
        deadline = time.monotonic() + PATIENCE
        with self._news:
            while len(found := [line for line in self.lines if _TIME.sub("", line).startswith(beginning)]) < count:
                gone = self.process.poll() is not None and not any(r.is_alive() for r in self._readers)
                assert not gone, f"ended without {beginning!r}: {self.lines[-5:]} {self.errors[-5:]}"
                assert time.monotonic() < deadline, f"no {beginning!r} in {PATIENCE} s: {self.lines[-5:]}"
                self._news.wait(0.2)
        return found[count - 1]

    def wait(self) -> int:
        """Its exit code, when it has ended and all it said is heard."""
        code = self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        return code

    def write(self, line: str) -> None:
        """Give it a line on stdin."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL to everything it started; what it said before is heard."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()


class Victim(Program):
    """`tests/reliability/victim.py` on a store that is going to be hurt."""

    def __init__(
        self,
        hurt: Hurt,
        *runs: str,
        under: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        **options: object,
    ) -> None:
        command = [*under, sys.executable, "-m", "tests.reliability.victim"]
        command += ["--store", str(hurt.store), "--effects", str(hurt.effects)]
        for run in runs or ("r",):
            command += ["--run", run]
        for name, value in options.items():
            command += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        super().__init__(command, environment)
        self._hurt = hurt

    def __enter__(self) -> Victim:
        return self

    def wait(self) -> int:
        """Its exit code; what it acknowledged counts from now on."""
        code = super().wait()
        self._hurt.hear(self.lines)
        return code

    @property
    def error(self) -> str:
        """The code of the error that it ended with, if it did."""
        told = [line.split()[1] for line in self.lines if line.startswith("error ")]
        return told[-1] if told else ""
