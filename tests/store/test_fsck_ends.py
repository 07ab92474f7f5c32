"""What `towpath fsck` ends with, and what it says of bytes that no row names."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from tests.adapters.warm_cli import WarmCli
from towpath import store as api
from towpath.store import RunStore, fsck, open_store

pytestmark = pytest.mark.anyio
CLEAN, FAULTS, NOT_LOOKED = 0, 1, 4


async def _kept(store: RunStore, files: int) -> None:
    """Files whose rows were never recorded."""
    for n in range(files):
        await store.files.keep(b"%d" % n * 100_000, f"{n}.bin")


async def test_bytes_without_a_row_are_a_note_until_they_are_old(store: RunStore) -> None:
    """New ones may be on their way into a row; that nobody works on one is worth a word."""
    async with store.session() as session:
        await api.create_chain(session, "demo", "completed")
    await _kept(store, 3)
    report = await fsck(store)
    assert report.clean
    (note,) = report.notes
    assert (note.code, note.sentence[:11]) == ("E_FSCK_UNNAMED", "3 new files")
    assert "-wal" not in note.sentence
    repaired = await fsck(store, repair=True)
    assert [note.code for note in repaired.notes] == ["E_FSCK_UNNAMED"]
    old = await fsck(store, grace=-1.0)
    assert {problem.code for problem in old.problems} == {"E_FSCK_ORPHAN"}
    await fsck(store, grace=-1.0, repair=True)
    assert (await fsck(store)).notes == ()


async def test_while_somebody_works_new_bytes_are_nothing_to_tell(store: RunStore) -> None:
    """They are on their way into a row."""
    async with store.session() as session:
        chain = await api.create_chain(session, "demo", "running")
    await _kept(store, 2)
    assert not [note for note in (await fsck(store)).notes if note.code == "E_FSCK_UNNAMED"]
    async with store.session() as session:
        await api.update_chain_status(session, chain.id, "completed")
    await fsck(store, grace=-1.0, repair=True)


async def test_a_database_that_lost_its_log_is_told_from_the_files_beside_it(tmp_path: Path) -> None:
    """Without its `-wal` file the database is a valid one, and empty; the files are what is left."""
    path = tmp_path / "lost.db"
    async with open_store(path, durability="normal") as store:
        await _kept(store, 4)
    for name in ("", "-wal", "-shm"):
        path.with_name(f"lost.db{name}").unlink(missing_ok=True)
    async with open_store(path, durability="normal") as store:
        report = await fsck(store)
    assert report.clean
    (note,) = report.notes
    assert "4 new files" in note.sentence
    assert "-wal" in note.sentence


def _ends(cli: WarmCli, store: Path) -> tuple[int, str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TOWPATH_")}
    done = cli.run(["fsck", "--store", str(store)], store.parent, environment, timeout=60)
    return done.returncode, done.stdout + done.stderr


def _text(path: Path) -> None:
    path.write_text("no database, and longer than the header of one " * 9)


def _of_another_program(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE notes (text)")
        database.commit()


def _newer(path: Path) -> None:
    _made(path, "UPDATE schema_version SET version = version + 1")


def _older(path: Path) -> None:
    _made(path, "UPDATE schema_version SET version = version - 1")


async def _opened(path: Path) -> None:
    async with open_store(path):
        pass


def _made(path: Path, *changes: str) -> None:
    anyio.run(_opened, path)
    with closing(sqlite3.connect(path)) as database:
        for change in changes:
            database.execute(change)
        database.commit()


def _faulty(path: Path) -> None:
    _made(
        path,
        "INSERT INTO chains (id, name, status, current_level, epoch, started_at, created_at, updated_at)"
        " VALUES ('a', 'a', 'completed', 0, 0, 1, 1, 1)",
    )


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (_made, CLEAN),
        (_faulty, FAULTS),
        (_text, NOT_LOOKED),
        (Path.mkdir, NOT_LOOKED),
        (_of_another_program, NOT_LOOKED),
        (_newer, NOT_LOOKED),
        (_older, NOT_LOOKED),
    ],
    ids=["clean", "faults", "text", "a folder", "of another program", "newer", "older"],
)
def test_fsck_ends_with_what_it_found(
    warm_cli: WarmCli, tmp_path: Path, make: Callable[[Path], None], expected: int
) -> None:
    """Scripts rely on the exit codes: 0 clean, 1 faults, 4 fsck could not look."""
    path = tmp_path / "some.db"
    make(path)
    code, shown = _ends(warm_cli, path)
    assert code == expected, shown
