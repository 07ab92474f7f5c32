"""What only time shows: memory and files of a process that works for long, and everything mixed for half an hour."""

from __future__ import annotations

import json
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.reliability.invariants import Hurt, Picture, assert_sound, finish, recorded
from tests.reliability.processes import ROOT, Victim
from towpath import ChainStatus

full = pytest.mark.full
LOG = 64 << 20
CHAINS = {"diamond": "d", "short": "s"}


@pytest.mark.parametrize(("steps", "grows"), [(12_000, 300), pytest.param(100_000, 100, marks=full)])
def test_R37_memory_and_files_stay_as_they_are(tmp_path: Path, steps: int, grows: int) -> None:
    """Runs of all kinds in one process: nothing is kept of what is over. `grows`: bytes of memory a step, at most; the
    short form has hardly warmed up.
    """
    command = [sys.executable, "-m", "tests.reliability.long_runner", str(tmp_path / "s.db"), str(steps)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3_600, check=False)
    assert done.returncode == 0, done.stderr
    samples = [json.loads(line) for line in done.stdout.splitlines()]
    settled = samples[len(samples) // 2 :]
    slope = statistics.linear_regression([s["steps"] for s in settled], [s["memory"] for s in settled]).slope
    print(f"{slope:.0f} bytes a step, {settled[-1]['memory'] >> 20} MiB, {settled[-1]['files']} files")
    assert slope < grows, samples
    assert len({s["files"] for s in settled}) == 1, samples
    assert max(s["log"] for s in samples) < LOG
    assert max(s["threads"] for s in settled) < 30
    assert_sound(Hurt(tmp_path / "s.db", tmp_path / "none"), {})


@pytest.mark.parametrize("seconds", [8, pytest.param(1_800, marks=full)])
def test_R42_everything_at_once_for_long(tmp_path: Path, unbroken: Callable[..., Picture], seconds: float) -> None:
    """Processes share one store. They are killed, frozen and stopped at random, and others go on with their runs."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    hurt = Hurt(tmp_path / "s.db", tmp_path / "effects")
    until, rounds = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        _round(hurt, rounds, chance)
        rounds += 1
    finish(hurt)
    runs = recorded(hurt)
    expected = {run: unbroken("short" if run.startswith("s") else "diamond", size=5_000) for run in runs}
    assert set(runs.values()) == {ChainStatus.COMPLETED}
    assert_sound(hurt, expected)
    print(f"{rounds} rounds, {len(runs)} runs, {len(hurt.acks)} steps acknowledged")


def _round(hurt: Hurt, number: int, chance: random.Random) -> None:
    """A few processes at the same time, each with its own end."""
    with ExitStack() as stack:
        victims = []
        for index in range(chance.randint(1, 3)):
            chain = chance.choice(list(CHAINS))
            runs = [f"{CHAINS[chain]}{number}-{index}-{n}" for n in range(chance.randint(1, 4))]
            pace = chance.choice([0.0, 0.01])
            victims.append(stack.enter_context(Victim(hurt, *runs, chain=chain, how="start", pace=pace, size=5_000)))
        for victim in victims:
            victim.wait_for("ready")
        for victim in victims:
            time.sleep(chance.uniform(0, 0.4))
            _hurt(victim, chance.choice(["kill", "freeze", "stop", "interrupt", "leave", "leave"]), chance)
        for victim in victims:
            victim.wait()
    if number % 5 == 4:
        finish(hurt)


def _hurt(victim: Victim, how: str, chance: random.Random) -> None:
    if victim.process.poll() is not None:
        return
    if how == "kill":
        victim.kill()
    elif how == "freeze":
        victim.signal(signal.SIGSTOP)
        time.sleep(chance.uniform(0, 0.3))
        victim.signal(signal.SIGCONT)
    elif how == "stop":
        victim.signal(signal.SIGTERM)
    elif how == "interrupt":
        victim.signal(signal.SIGINT)
