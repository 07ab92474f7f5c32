"""The file of a database: does it exist, can it be written, and under which name does SQLite open it?"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from towpath.errors import StoreFailed

_PERMISSIONS = "check the permissions of the file and its folder, or name another --store"


def there(path: Path) -> bool:
    """Does the file exist, and is it not empty? An empty file is a store that is not made yet."""
    try:
        return path.is_file() and path.stat().st_size > 0
    except OSError:
        return False


def prepare(path: Path) -> None:
    """Make the file, readable by its owner only, or find out why that is impossible.

    Raises StoreFailed: E_DB_PATH, E_DB_READONLY, E_DISK_FULL.
    """
    if path.is_dir():
        raise StoreFailed("E_DB_PATH", "the store is a folder", found=path.name, cure="name a file, e.g. towpath.db")
    try:
        # Only a new file is opened here: closing any descriptor of a database takes away all locks that
        # other connections of this process hold on it, and the next process then deletes a log in use.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        if not path.exists():
            cure = "make the folder and the file there, or name another --store"
            raise StoreFailed("E_DB_PATH", f"{path.name} is a link to a file that is missing", cure=cure) from None
        if not _writable(path):
            raise readonly(path) from None
    except (FileNotFoundError, NotADirectoryError):
        raise StoreFailed("E_DB_PATH", f"no folder {path.parent}", cure="create it, or name another --store") from None
    except PermissionError:
        raise readonly(path) from None
    except OSError as error:
        code = {28: "E_DISK_FULL", 30: "E_DB_READONLY"}.get(error.errno or 0, "E_DB_PATH")
        raise StoreFailed(code, f"{path.name} cannot be opened: {error.strerror}") from error


def readonly(path: Path) -> StoreFailed:
    """The error for a write where writing is not possible."""
    return StoreFailed("E_DB_READONLY", f"{path.name} cannot be written", cure=_PERMISSIONS)


def to_write(path: Path) -> str:
    """The name with which `databases` opens the file to read and write."""
    return f"sqlite:///{quote(str(path))}"


def to_look(path: Path) -> str:
    """The name with which `databases` opens the file only to read (with `uri=True`).

    If the log beside the file cannot be made, the file is read as it is (`immutable`): no process on this host can
    write to it. Raises StoreFailed (E_DB_READONLY) if there is a log that cannot be read there.
    """
    return f"sqlite:///{quote(f'file:{quote(str(path))}?{_mode(path)}')}"


def _mode(path: Path) -> str:
    if _writable(path):
        return "mode=rw"  # only to clean up after a dead process; `query_only` prevents all other writes
    log, index = path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")
    if index.exists():
        return "mode=ro"
    if there(log):
        raise StoreFailed(
            "E_DB_READONLY",
            f"{log.name} has the latest writes, and cannot be read in a folder without write permission",
            cure=f"copy {path.name} and {log.name} together to a folder that can be written, and open the copy",
        )
    return "mode=ro&immutable=1"


def _writable(path: Path) -> bool:
    """May this process write the file, and the log that SQLite keeps beside it?"""
    try:
        marked = not path.stat().st_mode & 0o222  # root could write it anyway, but its mode forbids it
    except OSError:
        return False
    return not marked and os.access(path, os.R_OK | os.W_OK) and os.access(path.parent, os.W_OK | os.X_OK)
