"""Where the store is and how the engine works: arguments, then environment, then `towpath.toml`."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from towpath.address import DEFAULT_STORE, blob_folder, database_file, store_address
from towpath.errors import InputInvalid, Place

FILE = "towpath.toml"
_KEYS = {
    "store": str,
    "blobs": str,
    "adapter": str,
    "durability": str,
    "concurrency": int,
    "servers": list,
    "workflows": str,
    "comfyui": dict,
    "server": dict,
}
WORKFLOWS = "workflows"  # the folder for ComfyUI workflow files that no chain has beside it


@dataclass(frozen=True, slots=True)
class Settings:
    """Settled settings. `store` is the database file, `blobs` the folder for files or None for the one beside it.

    `servers` are the tables of `[[servers]]` (or addresses) as they were given, `comfyui` the table of that name.
    """

    store: Path
    blobs: Path | None = None
    adapter: str = "local"
    durability: str = "full"
    concurrency: int | None = None
    servers: tuple[Any, ...] = ()
    workflows: Path = Path(WORKFLOWS)
    comfyui: Mapping[str, Any] = field(default_factory=dict)
    server: Mapping[str, Any] = field(default_factory=dict)


def settle(
    store: str | os.PathLike[str] | None = None,
    *,
    blobs: str | os.PathLike[str] | None = None,
    adapter: str | None = None,
    durability: str | None = None,
    concurrency: int | None = None,
    servers: Sequence[Any] | None = None,
    workflows: str | os.PathLike[str] | None = None,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Settings:
    """The settings in force. The store's address is looked for in the argument, `TOWPATH_STORE`,
    `DATABASE_URL`, `towpath.toml` and is `sqlite:///towpath.db` otherwise.

    Raises:
        InputInvalid: E_STORE_URL, E_SETTING.
    """
    env = os.environ if environment is None else environment
    saved = _read(file or Path(FILE))
    address = store_address(store, env)
    if address is None:
        address = saved.get("store", DEFAULT_STORE)
    files = blobs if blobs is not None else env.get("TOWPATH_BLOBS") or saved.get("blobs")
    runs_on = adapter or env.get("TOWPATH_ADAPTER") or saved.get("adapter") or "local"
    if runs_on != "local" and not runs_on.startswith("temporal://"):
        allowed = "local, temporal://host:port/namespace"
        raise InputInvalid("E_SETTING", "adapter", found=runs_on, allowed=allowed)
    kept = durability or saved.get("durability") or "full"
    if kept not in ("full", "normal"):
        raise InputInvalid("E_SETTING", "durability", found=kept, allowed="full, normal")
    wide = concurrency if concurrency is not None else saved.get("concurrency")
    if wide is not None and not 1 <= wide <= 100_000:
        raise InputInvalid("E_SETTING", "concurrency", found=wide, allowed="1 to 100000 steps at a time")
    folder = workflows if workflows is not None else env.get("TOWPATH_WORKFLOWS") or saved.get("workflows", WORKFLOWS)
    return Settings(
        database_file(address),
        blob_folder(files),
        runs_on,
        kept,
        wide,
        tuple(servers if servers is not None else saved.get("servers", ())),
        Path(folder),
        saved.get("comfyui", {}),
        saved.get("server", {}),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        saved = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputInvalid("E_SETTING", f"{path.name} cannot be read: {error}", place=Place(file=path.name)) from error
    for key, value in saved.items():
        if key not in _KEYS or not isinstance(value, _KEYS[key]):
            allowed = " ".join(_KEYS) if key not in _KEYS else _KEYS[key].__name__
            raise InputInvalid(
                "E_SETTING", f"{key} in {path.name}", place=Place(file=path.name, field=key), allowed=allowed
            )
    return saved
