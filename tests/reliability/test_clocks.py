"""R26: somebody sets the clock while runs are worked on: by thirty days forth or back, or by a second.

The clock of a process, and of all that it shares a store with, is libfaketime's; what counts the time since the
host was started stays as it is, as when a real clock is set.
"""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.machine import needs
from tests.reliability.invariants import Hurt, Picture, assert_sound, picture_of
from tests.reliability.processes import PATIENCE, Program, Victim
from towpath.adapters.wiring import open_engine

full = pytest.mark.full
Unbroken = Callable[..., Picture]

DAY = 86_400
FORTH, BACK, SECOND = 30 * DAY, -30 * DAY, -1
LEASE = 4.0
FOLDERS = ("/usr/lib/*/faketime", "/usr/lib/faketime", "/usr/lib64/faketime", "/usr/local/lib/faketime")


class Clock:
    """The clock of all processes started with its `environment`: right at first, and set while they run."""

    def __init__(self, file: Path, library: Path) -> None:
        self._file = file
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }
        self.set(0)

    def set(self, seconds: int) -> None:
        """Set it so many seconds beside the right time, in all its processes at once."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.replace(self._file)

    def victim(self, hurt: Hurt, **options: object) -> Victim:
        """A victim with this clock."""
        return Victim(hurt, environment=self.environment, **options)  # type: ignore[arg-type]

    def program(self, *command: str) -> Program:
        """A Python program with this clock."""
        return Program([sys.executable, "-m", *command], self.environment)


@pytest.fixture
def clock(tmp_path: Path) -> Iterator[Clock]:
    """A clock that can be set."""
    needs("faketime")
    libraries = [file for folder in FOLDERS for file in Path("/").glob(f"{folder[1:]}/libfaketimeMT.so.1")]
    assert libraries, "there is a faketime, but no libfaketimeMT.so.1 with it"
    before = _shared()
    clock = Clock(tmp_path / "clock", libraries[0])
    program = "import time; print(int(time.time()))"
    clock.set(FORTH)
    told = subprocess.run([sys.executable, "-c", program], env=clock.environment, capture_output=True, check=True)
    assert abs(int(told.stdout) - time.time() - FORTH) < PATIENCE, "the clock cannot be set"
    clock.set(0)
    yield clock
    for left in _shared() - before:
        if not Path(f"/proc/{left.name.rpartition('_')[2]}").exists():  # else it is another test's
            left.unlink(missing_ok=True)


def _shared() -> set[Path]:
    """What libfaketime keeps for each process, and leaves behind if that is killed."""
    return set(Path("/dev/shm").glob("*faketime_s*_*"))


def events_of(hurt: Hurt) -> list[tuple[str, int]]:
    """What happened to run `r`, and when by the clock, in the order in which it was recorded."""
    connection = sqlite3.connect(hurt.store)
    try:
        return connection.execute("SELECT type, at FROM events WHERE chain_id = 'r' ORDER BY seq").fetchall()
    finally:
        connection.close()


def gates_of(hurt: Hurt) -> dict[str, tuple[str, str | None, bool]]:
    """What the gates of run `r` came to, by step: status, who decided, was it acted on."""

    async def look() -> dict[str, tuple[str, str | None, bool]]:
        async with open_engine(hurt.store) as engine:
            gates = await engine.list_approvals(chain_id="r")
            return {str(gate.step_id): (gate.status, gate.decided_by, gate.delivered) for gate in gates}

    return anyio.run(look)


def timely_run(hurt: Hurt, clock: Clock, steps: list[int], chance: random.Random) -> None:
    """A run with gates whose clock is set while it works, once its gates ask. Somebody else wants it meanwhile."""
    with clock.victim(hurt, chain="timely") as victim:
        victim.wait_for("ready")
        decider = ["tests.reliability.decider", "--store", str(hurt.store), "--run", "r", "--step", "question"]
        with clock.program(*decider) as person, clock.victim(hurt, how="resume", hold=True) as thief:
            person.wait_for("ready")
            thief.wait_for("ready")
            for gate in ("question", "forgotten"):
                victim.wait_for(f"ack r {gate} - 1 waiting_approval")
            victim.wait_for("ack", len(victim.lines) + chance.randrange(6))
            for seconds in steps:
                clock.set(seconds)
                time.sleep(chance.uniform(0.1, 0.7))
            thief.write("go")
            person.write("go")
            assert (thief.wait(), thief.error) == (4, "E_RUN_OWNED")
            assert person.wait() == 0
            assert person.lines[-1] == "decided r"
            Path(f"{hurt.effects}.end").touch()
            assert victim.wait() == 0, victim.errors[-5:]


@pytest.fixture(scope="session")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Clock], Picture]:
    """What a timely run comes to if nobody sets the clock."""
    pictures: list[Picture] = []

    def picture(clock: Clock) -> Picture:
        if not pictures:
            folder = tmp_path_factory.mktemp("untouched")
            hurt = Hurt(folder / "s.db", folder / "effects")
            timely_run(hurt, clock, [], random.Random())
            pictures.append(anyio.run(_picture, hurt))
        return pictures[0]

    return picture


async def _picture(hurt: Hurt) -> Picture:
    async with open_engine(hurt.store) as engine:
        return picture_of((await engine.snapshot("r")).raise_for_status())


@pytest.mark.parametrize("rounds", [1, pytest.param(5, marks=full)])
@pytest.mark.parametrize(
    "steps", [[FORTH], [BACK], [SECOND], [FORTH, SECOND, BACK]], ids=["forth", "back", "second", "about"]
)
def test_R26_a_run_ends_as_ever_whatever_is_done_to_the_clock(
    tmp_path: Path, clock: Clock, untouched: Callable[[Clock], Picture], steps: list[int], rounds: int
) -> None:
    """Each attempt ran once, nobody else gets the run, a gate's time is as long as ever, and the end is the same."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    expected = untouched(clock)
    for number in range(rounds):
        hurt = Hurt(tmp_path / f"{number}.db", tmp_path / f"{number}.effects")
        clock.set(0)
        timely_run(hurt, clock, steps, chance)
        happened = events_of(hurt)
        assert happened[-1][0] == "ChainEnded"
        assert -PATIENCE < happened[-1][1] / 1e6 - time.time() - steps[-1] <= 0, "the clock was not set"
        assert [kind for kind, _ in happened].count("StepRetried") == 2
        assert gates_of(hurt) == {"question": ("approved", "approve", True), "forgotten": ("timed_out", None, True)}
        assert_sound(hurt, {"r": expected})


@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=full)])
@pytest.mark.parametrize("step", [FORTH, BACK], ids=["forth", "back"])
def test_R26_a_lease_lasts_as_long_as_ever(
    tmp_path: Path, clock: Clock, unbroken: Unbroken, step: int, rounds: int
) -> None:
    """A frozen owner keeps its run until its lease is over, no longer; a dead one's is taken over at once."""
    for number in range(rounds):
        hurt = Hurt(tmp_path / f"{number}.db", tmp_path / f"{number}.effects")
        waiting: dict[str, Any] = {"how": "resume", "hold": True}
        clock.set(0)
        with clock.victim(hurt, chain="line", pace=0.2, lease=LEASE) as old:
            old.wait_for("ack")
            with clock.victim(hurt, **waiting) as early, clock.victim(hurt, **waiting) as new:
                early.wait_for("ready")
                new.wait_for("ready")
                _freeze(old, hurt)
                clock.set(step)
                early.write("go")
                assert (early.wait(), early.error) == (4, "E_RUN_OWNED")
                time.sleep(LEASE)
                new.write("go")
                new.wait_for("ack", 2)
                old.signal(signal.SIGCONT)
                assert (old.wait(), old.error) == (4, "E_FENCED")
                new.kill()
        with clock.victim(hurt, how="resume") as last:
            assert last.wait() == 0, last.lines[-3:]
        assert_sound(hurt, {"r": unbroken("line")})


def _freeze(owner: Victim, hurt: Hurt) -> None:
    """Stop a process while it does not hold the write lock: nobody could do anything then."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        owner.signal(signal.SIGSTOP)
        connection = sqlite3.connect(hurt.store, timeout=0.05, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError:
            owner.signal(signal.SIGCONT)
        else:
            return
        finally:
            connection.close()
    pytest.fail("it always holds the lock")


def test_R26_a_living_owner_is_asked_to_cancel(tmp_path: Path, clock: Clock) -> None:
    """Its lease is not over because the clock was set: it ends the run itself, and is not fenced off."""
    hurt = Hurt(tmp_path / "s.db", tmp_path / "effects")
    with clock.victim(hurt, chain="line", pace=0.2) as owner:
        owner.wait_for("ack", 2)
        clock.set(FORTH)
        with clock.program("towpath", "cancel", "r", "--store", str(hurt.store)) as person:
            assert person.wait() == 0, person.errors[-5:]
        assert owner.wait() == 1, owner.lines[-3:]
        assert owner.lines[-1] == "end r cancelled"
    assert_sound(hurt, {"r": None})


@pytest.mark.parametrize("chain", ["repainted", "repainted_inside"])
def test_R26_the_latest_decision_is_the_one_recorded_last(tmp_path: Path, clock: Clock, chain: str) -> None:
    """Two regenerations, the clock set back between them, and the owner killed: the resume goes on with the second."""
    hurt = Hurt(tmp_path / "s.db", tmp_path / "effects")
    clock.set(FORTH)
    _works(hurt, clock, 3, chain=chain, pace=1)
    _decide(hurt, "reject", {"style": "red"})
    clock.set(0)
    _works(hurt, clock, 3, how="resume")
    _decide(hurt, "reject", {"style": "blue"})
    with clock.victim(hurt, how="resume") as victim:
        deadline = time.monotonic() + PATIENCE
        while sum(hurt.attempts().values()) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        victim.kill()
    _works(hurt, clock, 3, how="resume")
    _decide(hurt, "approve")
    _works(hurt, clock, 0, how="resume")
    assert anyio.run(_picture, hurt)["painted"][0] == "blue"
    assert_sound(hurt, {"r": None})


def _works(hurt: Hurt, clock: Clock, leaves_with: int, **options: object) -> None:
    with clock.victim(hurt, **options) as victim:
        assert victim.wait() == leaves_with, victim.errors[-5:]


def _decide(hurt: Hurt, act: str, parameters: dict[str, str] | None = None) -> None:
    async def go() -> None:
        async with open_engine(hurt.store) as engine:
            (gate,) = [gate for gate in await engine.list_approvals(chain_id="r") if gate.status == "pending"]
            more = {} if parameters is None else {"parameters": parameters}
            await getattr(engine, act)(gate.id, by="anna", **more)

    anyio.run(go)
