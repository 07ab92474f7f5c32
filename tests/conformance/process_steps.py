"""Functions that run in a process of their own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conformance.chain_steps import note
from towpath import Artifact, File, Secret, StepCancelled, StepFailed, context, step


@step(process=True)
def where(n: int) -> list[int]:
    return [n, os.getpid()]


@step(process=True)
def busy(folder: str, name: str) -> str:
    """Keeps a CPU busy until it may go; never looks at anything but a file."""
    note(folder, f"{name}.began", str(os.getpid()))
    while not Path(folder, f"{name}.go").exists():
        sum(range(10_000))
    return name


@step(process=True, timeout=3)
def hangs(folder: str) -> None:
    note(folder, "hangs.began", str(os.getpid()))
    while True:
        sum(range(10_000))


@step(process=True, retry={"attempts": 2, "delay": 0})
def dies_once(folder: str) -> int:
    if note(folder, "died") == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2


@step(process=True)
def dies() -> None:
    os._exit(7)


@step(process=True)
def uses_everything(file: Artifact, key: Secret[str]) -> dict[str, Any]:
    here = context()
    text = asyncio.run(file.read_bytes()).decode()
    here.progress(1, 4)
    here.logger.info("read %d characters", len(text))
    here.check()
    here.save("saved.txt", f"saved {text}")
    made = here.work_folder / "made.bin"
    made.write_bytes(b"x" * 100_000)
    return {"made": made, "named": File(b"y", filename="y.dat"), "same": file, "length": len(key.reveal())}


@step
def text_of(what: str) -> File:
    return File(what.encode(), filename="text.txt")


@step(process=True, retry={"attempts": 3, "delay": 0}, retry_on=OSError, retry_if=lambda error: str(error) == "again")
def fails(folder: str, what: str) -> None:
    note(folder, what)
    errors: dict[str, Callable[[], BaseException]] = {
        "again": lambda: OSError("again"),
        "never": lambda: OSError("never"),
        "final": lambda: StepFailed("no face", retryable=False, code="E_NO_FACE"),
        "exit": lambda: SystemExit(3),
    }
    raise errors[what]()


@step(process=True)
def cannot_leave() -> Any:
    return threading.Lock()


@step(process=True)
def says(text: str) -> float:
    print(text, flush=True)
    return time.time()


@step(process=True)
def forks(child_returns: bool) -> int:
    """The forked child leaves the function as well."""
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        if child_returns:
            return -1
        sys.exit(5)
    os.waitpid(child, 0)
    return int(parent == os.getpid())


@step(process=True)
def leaves_a_thread(folder: str) -> int:
    here = context()

    def report() -> None:
        while not Path(folder, "thread.go").exists():
            time.sleep(0.01)
        here.logger.info("too late")
        try:
            here.progress(9, 9)
        except StepCancelled:
            note(folder, "thread.told")

    threading.Thread(target=report).start()
    return 1


@step(process=True)
def lets_threads_go(folder: str) -> int:
    note(folder, "thread.go")
    while not Path(folder, "thread.told").exists():
        time.sleep(0.01)
    context().logger.info("in time")
    return 2


@step(process=True)
def dies_with_a_child(folder: str) -> None:
    child = os.fork()
    if child == 0:
        time.sleep(600)
        os._exit(0)
    note(folder, "child", str(child))
    os.kill(os.getpid(), signal.SIGKILL)
