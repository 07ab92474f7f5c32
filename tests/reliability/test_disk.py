"""Disks that are full: the run stops with one clear error, and goes on when there is room again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.machine import needs
from tests.reliability.disks import fill, small_disk
from tests.reliability.invariants import Hurt, Picture, assert_sound, finish, recorded
from tests.reliability.processes import Victim

full = pytest.mark.full
Unbroken = Callable[..., Picture]

KIB = 1024
BLOBS = [250 * KIB, 700 * KIB]  # enough for the database, not for all blobs
ROWS = [40 * KIB, 150 * KIB, 300 * KIB]  # hardly enough for the database and its log
MORE = [full_at * 37 * KIB for full_at in range(1, 28)]


@pytest.mark.parametrize("leave", [*BLOBS, *(pytest.param(size, marks=full) for size in MORE)])
def test_R06_a_disk_full_of_blobs_stops_the_run_and_room_lets_it_go_on(
    tmp_path: Path, unbroken: Unbroken, leave: int
) -> None:
    """Full while a blob is written (or the log, whichever comes first): E_DISK_FULL, nothing false recorded."""
    _fill_then_free(tmp_path, unbroken("diamond", size=90_000), leave, "diamond", size=90_000)


@pytest.mark.parametrize("leave", [*ROWS, *(pytest.param(size, marks=full) for size in MORE[:14])])
def test_R06_a_disk_full_of_rows_stops_the_run_and_room_lets_it_go_on(
    tmp_path: Path, unbroken: Unbroken, leave: int
) -> None:
    """Full while the log (or a checkpoint) is written; there are no blobs here."""
    _fill_then_free(tmp_path, unbroken("line"), leave, "line")


def _fill_then_free(tmp_path: Path, expected: Picture, leave: int, chain: str, **options: Any) -> None:
    needs("mount")
    with small_disk(tmp_path / "small") as disk:
        hurt = Hurt(disk / "s.db", tmp_path / "effects")
        ballast = fill(disk, leave)
        with Victim(hurt, chain=chain, pace=0.0, **options) as victim:
            code = victim.wait()
        assert (code, victim.error) in ((0, ""), (4, "E_DISK_FULL")), (victim.lines[-3:], victim.errors[-5:])
        assert (code == 0) == ("r" in hurt.over)
        ballast.unlink()
        finish(hurt)
        with Victim(hurt, chain=chain, pace=0.0, **options) as victim:  # it may not even have been recorded
            assert victim.wait() == 0
        assert_sound(hurt, {"r": expected})


@pytest.mark.parametrize("limit", [60 * KIB, *(pytest.param(size * KIB, marks=full) for size in (300, 500, 900))])
def test_R06_a_limit_on_file_sizes_is_a_clear_error_too(tmp_path: Path, unbroken: Unbroken, limit: int) -> None:
    """RLIMIT_FSIZE: SQLite calls it an I/O error."""
    hurt = Hurt(tmp_path / "s.db", tmp_path / "effects")
    with Victim(hurt, pace=0.0, fsize=limit) as victim:
        code = victim.wait()
    assert (code, victim.error) in ((0, ""), (4, "E_DISK_FULL"), (4, "E_DISK_IO")), (victim.lines[-3:], victim.errors)
    assert code == 4 or limit > 100 * KIB
    with Victim(hurt, pace=0.0) as victim:
        assert victim.wait() == 0
    assert recorded(hurt)
    assert_sound(hurt, {"r": unbroken("diamond")})
