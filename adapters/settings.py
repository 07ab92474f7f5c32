"""Settings of an engine: from arguments, else the environment, else `towpath.toml`."""

from __future__ import annotations

import logging
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from towpath.address import (
    ADDRESS_VARIABLES,
    DEFAULT_STORE,
    Address,
    blob_folder,
    database_file,
    in_memory,
    store_address,
)
from towpath.errors import FeatureMissing, InputInvalid, Place, shown, similar
from towpath.log_lines import KEPT, Kept
from towpath.step_options import LIMIT_NAMES, MAX_CONCURRENCY, limit_name, step_concurrency

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
    "limits": dict,
    "log_prints": bool,
    "log_level": str,
}
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_WORDS = {
    bool: "true or false",
    str: "a text",
    int: "a whole number",
    list: "a list of tables",
    dict: "a table: { name = value }",
}
WORKFLOWS = "workflows"  # folder of ComfyUI workflow files that are not beside their chain


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings in force.

    `store` is the database file; `blobs` the folder of files, or None for the default beside the database.
    `servers` are addresses or the tables of `[[servers]]`, not yet checked; `comfyui` and `server` are those tables.
    `limits` says for each named limit how many steps that name it may run at the same time in one process.
    `kept` says what the log of an attempt keeps by itself.
    `temporary` is a store that is gone afterwards: then `store` is a name in a temporary folder.
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
    limits: Mapping[str, int] = field(default_factory=dict)
    kept: Kept = KEPT
    temporary: bool = False


def settle(
    store: str | os.PathLike[str] | None = None,
    *,
    blobs: str | os.PathLike[str] | None = None,
    adapter: str | None = None,
    durability: str | None = None,
    concurrency: int | None = None,
    servers: Sequence[Any] | None = None,
    workflows: str | os.PathLike[str] | None = None,
    limits: Mapping[str, int] | None = None,
    log_prints: bool | None = None,
    log_level: str | None = None,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
    memory: bool = False,
) -> Settings:
    """The settings in force: each from its argument, else the environment, else `towpath.toml`, else its default.

    The address of the store comes from `store`, else `TOWPATH_STORE`, `DATABASE_URL`, `towpath.toml`, and is
    `sqlite:///towpath.db` by default. `memory`: may it be `sqlite:///:memory:`?

    Raises:
        InputInvalid: E_STORE_URL, E_SETTING.
    """
    env = os.environ if environment is None else environment
    saved = _read(file or Path(FILE))
    address = store_address(store, env)
    address = saved.get("store", DEFAULT_STORE) if address is None else address
    temporary = memory and in_memory(address)
    files = blobs if blobs is not None else env.get("TOWPATH_BLOBS") or saved.get("blobs")
    chosen = adapter or env.get("TOWPATH_ADAPTER") or saved.get("adapter") or "local"
    safety = durability or ("normal" if temporary else saved.get("durability") or "full")
    limit = concurrency if concurrency is not None else saved.get("concurrency")
    folder = workflows if workflows is not None else env.get("TOWPATH_WORKFLOWS") or saved.get("workflows", WORKFLOWS)
    possible = chosen == "local" or chosen.startswith("temporal://")
    _check(possible, "adapter", chosen, "local, temporal://host:port/namespace")
    _check(safety in ("full", "normal"), "durability", safety, "full, normal")
    if limit is not None:
        check_size("concurrency", limit)
    return Settings(
        store=Path("towpath.db") if temporary else _store_file(address, store, env),
        blobs=None if temporary else blob_folder(files),
        adapter=chosen,
        durability=safety,
        concurrency=limit,
        servers=tuple(servers if servers is not None else saved.get("servers", ())),
        workflows=Path(folder),
        comfyui=saved.get("comfyui", {}),
        server=saved.get("server", {}),
        limits=_limits(saved.get("limits", {}) if limits is None else limits),
        kept=_kept(
            saved.get("log_prints", True) if log_prints is None else log_prints,
            saved.get("log_level", "INFO") if log_level is None else log_level,
        ),
        temporary=temporary,
    )


def _store_file(address: Address, given: Address | None, env: Mapping[str, str]) -> Path:
    """The file of the store. An error names the variable of the environment that the address came from."""
    try:
        return database_file(address)
    except (InputInvalid, FeatureMissing) as error:
        source = next((name for name in ADDRESS_VARIABLES if env.get(name)), "") if given is None else ""
        if not source:
            raise
        problem = error.problem
        cure = f"{problem.cure + '; ' if problem.cure else ''}--store, or TOWPATH_STORE, goes before {source}"
        place = Place(field=f"the environment variable {source}")
        raise type(error)(
            problem.code, problem.message, place=place, found=problem.found, allowed=problem.allowed, cure=cure
        ) from None


def check_size(name: str, size: object) -> None:
    """Refuse what is no number of steps, threads or processes. Raises InputInvalid (E_SETTING)."""
    holds = isinstance(size, int) and not isinstance(size, bool) and 1 <= size <= MAX_CONCURRENCY
    _check(holds, name, size, f"a whole number from 1 to {MAX_CONCURRENCY}")


def _kept(prints: object, level: object) -> Kept:
    _check(isinstance(prints, bool), "log_prints", prints, _WORDS[bool])
    name = level.upper() if isinstance(level, str) else ""
    _check(name in LEVELS, "log_level", level, " ".join(LEVELS))
    return Kept(bool(prints), logging.getLevelNamesMapping()[name])


def _limits(given: Mapping[str, Any]) -> dict[str, int]:
    allowed = f"a name ({LIMIT_NAMES}) and a whole number from 1 to {MAX_CONCURRENCY}, for example gpu = 2"
    _check(isinstance(given, Mapping), "limits", given, 'a mapping, for example {"gpu": 2}')
    for name, size in given.items():
        try:
            holds = limit_name(name) is not None and step_concurrency(size) is not None
        except InputInvalid:
            holds = False
        _check(holds, f"limits.{name}", size, allowed)
    return dict(given)


def _check(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        found = repr(value) if isinstance(value, str) else value  # a text "2" must not look like the number
        raise InputInvalid("E_SETTING", f"{name} cannot be this", found=found, allowed=allowed)


def _read(path: Path) -> dict[str, Any]:
    try:
        saved = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputInvalid("E_SETTING", f"{path.name} cannot be read: {error}", place=Place(file=path.name)) from error
    for key, value in saved.items():
        place = Place(file=path.name, field=key)
        if key not in _KEYS:
            message = f"there is no setting {shown(key)}"
            raise InputInvalid("E_SETTING", message, place=place, allowed=" ".join(_KEYS), cure=similar(key, _KEYS))
        if not isinstance(value, _KEYS[key]):
            raise InputInvalid(
                "E_SETTING", f"{key} cannot be this", place=place, found=value, allowed=_WORDS[_KEYS[key]]
            )
    return saved
