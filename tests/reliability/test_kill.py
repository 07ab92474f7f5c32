"""Processes that die: at any moment, at any system call, or because an fsync failed."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.machine import needs
from tests.reliability.invariants import Hurt, Picture, assert_sound, finish, recorded
from tests.reliability.processes import Victim, inject

full = pytest.mark.full
Unbroken = Callable[..., Picture]

DATABASE = "pwrite64,fdatasync"  # what SQLite's thread writes with
FILES = "write,fsync,rename,mkdir,fchmod"  # what the threads of the blob store write with
EVERY = 10_000  # more system calls than a victim makes


@pytest.mark.parametrize("rounds", [12, pytest.param(200, marks=full)])
def test_R01_S6_9_a_run_killed_at_random_is_resumed_to_the_same_end(
    tmp_path: Path, unbroken: Unbroken, rounds: int
) -> None:
    """kill -9 at a random moment, several times a run; at most one resume a kill is needed."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    expected = unbroken("diamond")
    kills = 0
    for number in range(rounds):
        hurt = Hurt(tmp_path / f"{number}.db", tmp_path / f"{number}.effects")
        for how in ["run", "resume"] if chance.random() < 0.4 else ["run"]:
            kills += _killed_at_random(hurt, how, chance)
        _end_well(hurt, expected)
    print(f"{kills} of {rounds} runs and more were killed while they worked")
    assert kills >= rounds / 3


def _killed_at_random(hurt: Hurt, how: str, chance: random.Random) -> bool:
    """True if the victim was killed before its run was over."""
    if how == "resume" and not hurt.acks:
        how = "run"
    with Victim(hurt, how=how) as victim:
        if chance.random() < 0.9:
            victim.wait_for("ready")
            time.sleep(chance.uniform(0, 0.45))
        else:
            time.sleep(chance.uniform(0.3, 0.9))
        victim.kill()
    return "r" not in hurt.over


def _end_well(hurt: Hurt, expected: Picture) -> None:
    """Resume what is not over and check everything; a run that was never recorded was never promised."""
    finish(hurt)
    runs = recorded(hurt)
    assert runs or not (hurt.acks or hurt.attempts())
    assert_sound(hurt, dict.fromkeys(runs, expected))


@pytest.mark.parametrize(
    ("calls", "step"),
    [(DATABASE, 80), (FILES, 12), pytest.param(DATABASE, 1, marks=full), pytest.param(FILES, 1, marks=full)],
)
def test_R02_killed_at_the_nth_writing_system_call(tmp_path: Path, unbroken: Unbroken, calls: str, step: int) -> None:
    """Die right before the n-th write, sync or rename of a thread, for every `step`th n until nobody dies of it."""
    needs("strace")
    expected = unbroken("diamond")
    deaths = 0
    for n in range(random.randrange(1, step + 1), EVERY, step):
        hurt = Hurt(tmp_path / f"{n}.db", tmp_path / f"{n}.effects")
        with Victim(hurt, pace=0.0, under=inject(calls, f"signal=KILL:when={n}")) as victim:
            code = victim.wait()
        _end_well(hurt, expected)
        if code == 0:
            break
        assert code == -signal.SIGKILL, f"call {n}: left with {code}: {victim.lines[-3:]} {victim.errors[-3:]}"
        deaths += 1
    print(f"died at {deaths} of the calls {calls}")
    assert deaths >= (1 if step > 1 else 30)


@pytest.mark.parametrize(
    ("call", "step"),
    [("fdatasync", 6), ("fsync", 12), pytest.param("fdatasync", 1, marks=full), pytest.param("fsync", 1, marks=full)],
)
def test_R05_an_fsync_that_fails_is_never_taken_for_done(
    tmp_path: Path, unbroken: Unbroken, call: str, step: int
) -> None:
    """EIO at the n-th fsync of a thread: nothing unsafe is acknowledged, and the run can be resumed."""
    needs("strace")
    expected = unbroken("diamond")
    told = []
    for n in range(random.randrange(1, step + 1), EVERY, step):
        hurt = Hurt(tmp_path / f"{n}.db", tmp_path / f"{n}.effects")
        with Victim(hurt, pace=0.0, under=inject(call, f"error=EIO:when={n}")) as victim:
            code = victim.wait()
        assert code in (0, 4), f"call {n}: left with {code}: {victim.lines[-3:]} {victim.errors[-3:]}"
        assert victim.error in ("", "E_DISK_IO")
        assert code == 0 or hurt.over.get("r") is None
        _end_well(hurt, expected)
        told.append(victim.error)
        if code == 0 and told[-2:] == ["", ""]:  # SQLite ignores the failed sync of a folder
            break
    print(f"{call}: {sum(map(bool, told))} errors in {len(told)} places")
    assert any(told)
