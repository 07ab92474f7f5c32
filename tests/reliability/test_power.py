"""Power cuts: what was acknowledged is still there when the file system comes back from its journal."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.machine import needs
from tests.reliability.disks import LosingDisk, losing_disk, without_sync
from tests.reliability.invariants import Hurt, Picture, assert_sound, finish, problems, recorded
from tests.reliability.processes import Victim

full = pytest.mark.full
RUNS = tuple(f"r{number}" for number in range(40))  # one after the other, more than fit before the cut


def _cut_at_random(
    hurt: Hurt, disk: LosingDisk, chance: random.Random, environment: Mapping[str, str] | None = None
) -> None:
    """Cut the power while a victim works, and bring the disk back.

    What the victim says and does after the cut does not count: to an fsync that is under way, the file system
    answers "done" when it is shut down, though nothing of it is kept. A machine without power says nothing.
    """
    with Victim(hurt, *RUNS, pace=0.0, environment=environment) as victim:
        victim.wait_for("ack")
        time.sleep(chance.uniform(0, 1.0))
        said, done = victim.lines[:], hurt.effects.stat().st_size
        disk.cut_the_power()
        victim.kill()
    hurt.hear_only(said)
    os.truncate(hurt.effects, done)
    assert hurt.acks
    disk.unmount()
    disk.mount()


@pytest.mark.parametrize("cuts", [4, pytest.param(200, marks=full)])
def test_R03_nothing_acknowledged_is_lost_when_the_power_is_cut(
    tmp_path: Path, unbroken: Callable[..., Picture], cuts: int
) -> None:
    """Every acknowledged step survives with its bytes, and the run that was cut ends as an unbroken one."""
    needs("ext4")
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    expected = unbroken("diamond")
    acknowledged = 0
    for number in range(cuts):
        with losing_disk(tmp_path / str(number)) as disk:
            hurt = Hurt(disk.folder / "s.db", tmp_path / f"{number}.effects")
            _cut_at_random(hurt, disk, chance)
            assert_sound(hurt, {})
            finish(hurt)
            assert_sound(hurt, dict.fromkeys(recorded(hurt), expected))
            acknowledged += len(hurt.acks)
    print(f"{cuts} cuts, {acknowledged} steps acknowledged before them, none lost")


@pytest.mark.parametrize("cuts", [2, pytest.param(10, marks=full)])
def test_R04_the_power_cut_test_sees_a_disk_without_fsync(tmp_path: Path, cuts: int) -> None:
    """The same with an fsync that does nothing must find losses: else R03 proves nothing."""
    needs("ext4")
    needs("gcc")
    environment = without_sync(tmp_path)
    chance = random.Random()
    caught = 0
    for number in range(cuts):
        with losing_disk(tmp_path / str(number)) as disk:
            hurt = Hurt(disk.folder / "s.db", tmp_path / f"{number}.effects")
            _cut_at_random(hurt, disk, chance, environment)
            caught += bool(problems(hurt, {}))
    print(f"{caught} of {cuts} cuts caught")
    assert caught >= 0.9 * cuts
