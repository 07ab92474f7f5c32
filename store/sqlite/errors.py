"""From an exception of SQLite to a StoreFailed. No exception of a driver leaves `towpath.store`."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from towpath.errors import StoreFailed

_CURES = {
    "E_DISK_FULL": "free space on that disk, then `towpath resume`; everything recorded is safe",
    "E_DISK_IO": "check the disk; everything recorded before is safe, `towpath resume` continues from there",
    "E_DB_READONLY": "make the file and its folder writable, or name another --store",
    "E_DB_NOT_SQLITE": "name a file that towpath made, or a new one",
    "E_DB_PATH": "create the folder, or name another --store",
    "E_DB_CORRUPT": "restore a backup; `towpath fsck` says what is damaged",
}
_BY_NAME = (
    ("SQLITE_FULL", "E_DISK_FULL", "the disk is full"),
    ("SQLITE_IOERR", "E_DISK_IO", "the disk reported an error"),
    ("SQLITE_READONLY", "E_DB_READONLY", "the database cannot be written"),
    ("SQLITE_PERM", "E_DB_READONLY", "the database cannot be written"),
    ("SQLITE_NOTADB", "E_DB_NOT_SQLITE", "the file is not a database"),
    ("SQLITE_CANTOPEN", "E_DB_PATH", "the database cannot be opened"),
    ("SQLITE_CORRUPT", "E_DB_CORRUPT", "the database is damaged"),
    ("SQLITE_CONSTRAINT_FOREIGNKEY", "E_DB_REFERENCE", "a row refers to one that is not there"),
    ("SQLITE_CONSTRAINT_CHECK", "E_DB_VALUE", "a value is not allowed in its column"),
    ("SQLITE_CONSTRAINT_NOTNULL", "E_DB_VALUE", "a value is missing"),
    ("SQLITE_CONSTRAINT", "E_DB_CONFLICT", "a row like this one is there already"),
)


OF_THE_VALUE = (OverflowError, UnicodeEncodeError)
"""What Python raises for a value that SQLite cannot hold: an integer over 64 bits, half a surrogate pair."""


def database_error(error: Exception, path: Path) -> StoreFailed:
    """The StoreFailed for an error of SQLite (or of Python on the way to it) with the database at `path`."""
    if isinstance(error, (*OF_THE_VALUE, sqlite3.InterfaceError, sqlite3.DataError)):
        return StoreFailed("E_DB_VALUE", f"a value cannot be kept in the database: {error}")
    name: str = getattr(error, "sqlite_errorname", "")  # whatever SQLite itself refused has one
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return busy(path)
    for prefix, code, sentence in _BY_NAME:
        if name.startswith(prefix):
            return StoreFailed(code, f"{sentence}: {path.name} ({error})", cure=_CURES.get(code, ""))
    return StoreFailed("E_DB", f"the database refused: {error}")


def closed() -> StoreFailed:
    cure = "read what you need before the engine is closed, or open it again"
    return StoreFailed("E_DB_CLOSED", "the store is closed", cure=cure)


def busy(path: Path) -> StoreFailed:
    """The error after waiting too long for the write lock of another process."""
    holders = lock_holders(path)
    stopped = [pid for pid in holders if is_stopped(pid)]
    who = f"process {', '.join(map(str, holders))}" if holders else "another process"
    cure = f"end {who if holders else 'that process'} or let it finish, then try again"
    if stopped:
        pids = " ".join(map(str, stopped))
        who += ", which is stopped," if stopped == holders else f" (stopped: {pids})"
        cure = f"let it go on (kill -CONT {pids}) or end it (kill -KILL {pids}), then try again"
    return StoreFailed(
        "E_DB_BUSY", f"{who} has held the write lock of {path.name} for too long", cure=cure, retryable=True
    )


def is_stopped(pid: int) -> bool:
    """Is a process suspended (SIGSTOP, Ctrl-Z, a debugger)? False where that cannot be known."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] in ("T", "t")


def lock_holders(path: Path) -> list[int]:
    """Processes that hold a write lock on SQLite's shared-memory file, as the kernel lists them.

    Linux only (/proc/locks); elsewhere, or where the list cannot be read, the answer is empty.
    """
    try:
        inode = os.stat(f"{path}-shm").st_ino
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return []
    holders = set()
    for line in lines:
        fields = line.split()
        if len(fields) >= 6 and "WRITE" in fields and fields[5].rpartition(":")[2] == str(inode):
            holders.add(int(fields[4]))
    return sorted(holders - {os.getpid(), 0})
