"""Where a store is: from the text that people write to a file and a folder. Pure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from .errors import FeatureMissing, InputInvalid

DEFAULT_STORE = "sqlite:///towpath.db"
ADDRESS_VARIABLES = ("TOWPATH_STORE", "DATABASE_URL")  # the first one that is set counts

Address = str | os.PathLike[str]


def store_address(given: Address | None, environment: Mapping[str, str]) -> Address | None:
    """The store's address by argument, `TOWPATH_STORE` or `DATABASE_URL`, in this order; None without one."""
    if given is not None:
        return given
    return next(filter(None, map(environment.get, ADDRESS_VARIABLES)), None)


def in_memory(address: Address) -> bool:
    """Does the address name a store for a while, as `sqlite:///:memory:` does?"""
    text = os.fspath(address)
    scheme, _, rest = text.rpartition("://")
    return rest.lstrip("/") == ":memory:" and scheme in ("", "sqlite", "sqlite+aiosqlite")


def database_file(address: Address) -> Path:
    """The file of a store's address: `sqlite:///FILE`, or a file name.

    Raises:
        InputInvalid: E_STORE_URL. FeatureMissing: E_FEATURE_MISSING for a database not built in yet.
    """
    text = os.fspath(address)
    scheme, separator, rest = text.partition("://")
    if not separator:
        path = text
    elif scheme in ("sqlite", "sqlite+aiosqlite"):
        if "?" in rest:
            raise InputInvalid(
                "E_STORE_URL",
                "the store's address has options after the ?, and none are known",
                found=text,
                allowed="sqlite:///FILE, or a file name",
                cure="leave them out; a file that has a ? in its name is named by its path alone",
            )
        path = rest[1:] if rest.startswith("/") else rest
    elif scheme.startswith("postgres"):
        raise FeatureMissing(
            "E_FEATURE_MISSING",
            "PostgreSQL is not built into this version of towpath yet",
            found=f"{scheme}://…",
            cure='use sqlite:///FILE for now; later: pip install "towpath[postgres]"',
        )
    else:
        raise InputInvalid(
            "E_STORE_URL", "the store's address cannot be read", found=text, allowed="sqlite:///FILE, or a file name"
        )
    if not path or "\0" in path or path == ":memory:":
        raise InputInvalid("E_STORE_URL", "the store's address names no file", found=text, allowed="sqlite:///FILE")
    return Path(path).expanduser().absolute()


def blob_folder(address: Address | None) -> Path | None:
    """The folder of an address of blobs; None for the one beside the database.

    Raises FeatureMissing (E_FEATURE_MISSING) for object storage, which is not built in yet.
    """
    if address is None:
        return None
    text = os.fspath(address)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    elif "://" in text:
        raise FeatureMissing(
            "E_FEATURE_MISSING",
            "object storage is not built into this version of towpath yet",
            found=text.partition("://")[0] + "://…",
            cure='name a folder for now; later: pip install "towpath[s3]"',
        )
    return Path(text).expanduser().absolute()
