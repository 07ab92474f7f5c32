"""Several processes on one store: held locks, lost leases, takeovers."""

from __future__ import annotations

import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.reliability.chains import diamond
from tests.reliability.invariants import Hurt, Picture, assert_sound, recorded
from tests.reliability.processes import Program, Victim
from towpath import ChainStatus, Run, StoreFailed
from towpath.adapters.wiring import open_engine
from towpath.store.sqlite.errors import is_stopped, lock_holders

full = pytest.mark.full
Unbroken = Callable[..., Picture]

LEASE = 4.0

HOLDER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
time.sleep(float(sys.argv[2]))
connection.execute("COMMIT")
"""


@contextmanager
def write_lock(store: Path, seconds: float) -> Iterator[Program]:
    """Another process holds the write lock for that long."""
    with Program([sys.executable, "-c", HOLDER, str(store), str(seconds)]) as holder:
        holder.wait_for("held")
        yield holder


class Lag:
    """The longest time that the thread of the event loop computed between two turns of the loop, in seconds of CPU."""

    def __init__(self) -> None:
        self.worst = 0.0

    async def measure(self) -> None:
        """Turn with the loop until cancelled."""
        while True:
            before = time.thread_time()
            await anyio.sleep(0.01)
            self.worst = max(self.worst, time.thread_time() - before)


async def _run_beside_a_lock(hurt: Hurt, held: float, busy: float, lag: Lag) -> tuple[Run | StoreFailed, int]:
    """What came of a run while a process holds the lock, and that process's id."""
    async with open_engine(hurt.store, busy_timeout=busy) as engine:
        await engine.run(diamond, inputs={"effects": str(hurt.effects), "pace": 0.0}, run_id="warm")
        with write_lock(hurt.store, held) as holder:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lag.measure)
                result: Run | StoreFailed
                try:
                    result = await engine.run(diamond, inputs={"effects": str(hurt.effects), "pace": 0.0}, run_id="r")
                except StoreFailed as error:
                    result = error
                    assert holder.process.poll() is None, "the error came only when the lock was free again"
                tasks.cancel_scope.cancel()
            return result, holder.process.pid


@pytest.mark.parametrize(
    ("held", "busy"), [(2.0, 30.0), pytest.param(3.0, 30.0, marks=full), pytest.param(28.0, 30.0, marks=full)]
)
def test_R07_a_held_write_lock_is_only_a_delay(tmp_path: Path, unbroken: Unbroken, held: float, busy: float) -> None:
    """Below the limit nobody sees an error, and the event loop turns meanwhile."""
    hurt, lag = Hurt(tmp_path / "s.db", tmp_path / "effects"), Lag()
    run, _ = anyio.run(_run_beside_a_lock, hurt, held, busy, lag)
    assert isinstance(run, Run), run
    assert run.status is ChainStatus.COMPLETED
    assert lag.worst < 0.1
    assert_sound(hurt, dict.fromkeys(recorded(hurt), unbroken("diamond")))


@pytest.mark.parametrize(("held", "busy"), [(60.0, 0.5), pytest.param(90.0, 30.0, marks=full)])
def test_R07_a_write_lock_held_too_long_is_one_clear_error(
    tmp_path: Path, unbroken: Unbroken, held: float, busy: float
) -> None:
    """Above the limit: E_DB_BUSY that names the holder; afterwards the same run can be run."""
    hurt, lag = Hurt(tmp_path / "s.db", tmp_path / "effects"), Lag()
    error, holder = anyio.run(_run_beside_a_lock, hurt, held, busy, lag)
    assert isinstance(error, StoreFailed)
    assert error.code == "E_DB_BUSY"
    assert str(holder) in str(error), "the holder is not named"
    with Victim(hurt, pace=0.0) as victim:
        assert victim.wait() == 0
    assert_sound(hurt, dict.fromkeys(recorded(hurt), unbroken("diamond")))


@pytest.mark.parametrize(("processes", "chains"), [(2, 10), pytest.param(8, 100, marks=full)])
def test_R08_processes_share_one_file(tmp_path: Path, unbroken: Unbroken, processes: int, chains: int) -> None:
    """Nobody ever sees a lock error, and everything is recorded."""
    hurt = Hurt(tmp_path / "s.db", tmp_path / "effects")
    names = [[f"p{p}-{c}" for c in range(chains)] for p in range(processes)]
    victims = [Victim(hurt, *runs, how="start", pace=0.0, size=5_000, hold=True) for runs in names]
    try:
        for victim in victims:
            victim.wait_for("ready")
        began = time.monotonic()
        for victim in victims:
            victim.write("go")
        codes = [victim.wait() for victim in victims]
        took = time.monotonic() - began
    finally:
        for victim in victims:
            victim.kill()
    assert codes == [0] * processes, [(victim.lines[-2:], victim.errors[-3:]) for victim in victims]
    speed = processes * chains * 8 / took
    print(f"{speed:.0f} steps/s in sum")
    if chains == 100:  # only the long form, which runs alone on its machine, is about speed
        assert speed >= 20
    assert_sound(hurt, {run: unbroken("diamond", size=5_000) for runs in names for run in runs})


@pytest.mark.parametrize("rounds", [1, pytest.param(50, marks=full)])
def test_R10_a_frozen_owner_that_wakes_up_after_a_takeover_stops(
    tmp_path: Path, unbroken: Unbroken, rounds: int
) -> None:
    """SIGSTOP beyond the lease, takeover, SIGCONT: the old owner ends with E_FENCED and writes nothing more."""
    for number in range(rounds):
        hurt = Hurt(tmp_path / f"{number}.db", tmp_path / f"{number}.effects")
        waiting: dict[str, Any] = {"how": "resume", "hold": True, "pace": 0.05}
        with (
            Victim(hurt, **waiting) as early,
            Victim(hurt, **waiting) as new,
            Victim(hurt, pace=0.3, lease=LEASE) as old,
        ):
            early.wait_for("ready")
            new.wait_for("ready")
            old.wait_for("ack", 1 + number % 3)
            _freeze(old, hurt.store)
            early.write("go")
            assert (early.wait(), early.error) == (4, "E_RUN_OWNED")
            time.sleep(LEASE)
            new.write("go")
            if number % 2:  # wake it in the middle of the new owner's work, or after it
                new.wait_for("ack")
                old.signal(signal.SIGCONT)
            assert new.wait() == 0
            old.signal(signal.SIGCONT)
            assert old.wait() == 4
            assert old.error == "E_FENCED"
            assert not any(line.startswith("over") for line in old.lines)
        assert_sound(hurt, {"r": unbroken("diamond")})


def _freeze(program: Program, store: Path) -> None:
    """SIGSTOP where it holds no lock: inside a commit it would hold up everybody, which is another test's matter."""
    while True:
        program.signal(signal.SIGSTOP)
        while not is_stopped(program.process.pid):
            time.sleep(0.005)
        if program.process.pid not in lock_holders(store):
            return
        program.signal(signal.SIGCONT)
        time.sleep(0.01)


@pytest.mark.parametrize("rounds", [2, pytest.param(100, marks=full)])
def test_R11_of_two_resumers_exactly_one_wins(tmp_path: Path, unbroken: Unbroken, rounds: int) -> None:
    """Two processes resume a dead process's run at the same moment."""
    for number in range(rounds):
        hurt = Hurt(tmp_path / f"{number}.db", tmp_path / f"{number}.effects")
        with Victim(hurt, pace=0.1) as dead:
            dead.wait_for("ack")
        with Victim(hurt, how="resume", hold=True) as one, Victim(hurt, how="resume", hold=True) as other:
            for resumer in (one, other):
                resumer.wait_for("ready")
            threads = [threading.Thread(target=resumer.write, args=("go",)) for resumer in (one, other)]
            for thread in threads:
                thread.start()
            outcomes = sorted([(one.wait(), one.error), (other.wait(), other.error)])
            for thread in threads:
                thread.join()
        assert outcomes == [(0, ""), (4, "E_RUN_OWNED")]
        assert_sound(hurt, {"r": unbroken("diamond")})


@pytest.mark.parametrize("rounds", [1, pytest.param(30, marks=full)])
def test_R13_a_draining_process_beside_a_new_one_strands_nothing(
    tmp_path: Path, unbroken: Unbroken, rounds: int
) -> None:
    """SIGTERM to a process whose step takes its time, while a new process wants the same run."""
    for number in range(rounds):
        hurt = Hurt(tmp_path / f"{number}.db", tmp_path / f"{number}.effects")
        with Victim(hurt, chain="draining") as old:
            old.wait_for("ack r first")
            old.signal(signal.SIGTERM)
            with Victim(hurt, "r", "other", chain="draining") as new:
                assert new.wait() == 0
            assert old.wait() == 130
        epochs = _epochs(hurt.store)
        assert epochs == {"r": 2, "other": 1}
        assert_sound(hurt, dict.fromkeys(("r", "other"), unbroken("draining")))


def _epochs(store: Path) -> dict[str, int]:
    connection = sqlite3.connect(store)
    try:
        return dict(connection.execute("SELECT id, epoch FROM chains").fetchall())
    finally:
        connection.close()
