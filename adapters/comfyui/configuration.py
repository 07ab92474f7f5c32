"""From settings to a farm: `[[servers]]`, the table `[comfyui]`, and the folder of workflow files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from towpath.errors import InputInvalid, Place
from towpath.ports import ReadingStore

from .connection import Timeouts
from .downloads import DOWNLOAD_SECONDS, MAX_FILE, Limits
from .farm import ComfyFarm, comfy_farm
from .pool import check_strategy
from .servers import Server, given_server, read_servers
from .workflow_run import Rules

FILE = "towpath.toml"
KEYS: dict[str, tuple[tuple[type, ...], str]] = {
    "strategy": ((str,), "least_loaded, round_robin or random"),
    "partial_outputs": ((bool,), "true to run a workflow although the server leaves some of its outputs out"),
    "check": ((bool,), "false to send workflows without checking them against the server's /object_info"),
    "max_file": ((int,), "bytes of the largest file that is downloaded"),
    "download_timeout": ((int, float), "seconds for one file"),
    "unreachable": ((int, float), "seconds to wait for a server that refuses connections"),
    "silent": ((int, float), "seconds to wait for a server that accepts connections and does not answer"),
    "busy": ((int, float), "seconds to wait for a server that says it is busy"),
    "broken": ((int, float), "seconds to wait for a server that answers 500, or with something that is not HTTP"),
    "lost": ((int, float), "seconds after which a prompt that a server does not know is lost"),
}
_TIMEOUTS = ("unreachable", "silent", "busy", "broken", "lost")


def servers_of(given: Sequence[Any]) -> tuple[Server, ...]:
    """Servers from addresses and tables. Raises InputInvalid (E_SERVER_CONFIG, E_URL_…)."""
    if all(isinstance(entry, Mapping) for entry in given):
        return read_servers(given, FILE)
    found: list[Server] = []
    for entry in given:
        if isinstance(entry, Server):
            found.append(entry)
        else:
            found += [given_server(entry)] if isinstance(entry, str) else read_servers([entry], FILE)
    seen: set[str] = set()
    for server in found:
        for word in {server.name, server.url}:
            if word in seen:
                raise InputInvalid("E_SERVER_CONFIG", "two servers have the same name or address", found=word)
            seen.add(word)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class ComfySettings:
    """The table `[comfyui]` of `towpath.toml`."""

    strategy: str = "least_loaded"
    rules: Rules = field(default_factory=Rules)
    timeouts: Timeouts = field(default_factory=Timeouts)


def settings_of(table: Mapping[str, Any]) -> ComfySettings:
    """The settings in a table `[comfyui]`. Raises InputInvalid (E_SETTING, E_STRATEGY)."""
    for key, value in table.items():
        _check(key, value)
    strategy = table.get("strategy", "least_loaded")
    check_strategy(strategy)
    limits = Limits(table.get("max_file", MAX_FILE), table.get("download_timeout", DOWNLOAD_SECONDS))
    rules = Rules(table.get("partial_outputs", False), table.get("check", True), limits)
    return ComfySettings(strategy, rules, Timeouts(**{key: float(table[key]) for key in _TIMEOUTS if key in table}))


def farm_of(
    store: ReadingStore, servers: Sequence[Any], workflows: Path, table: Mapping[str, Any]
) -> AbstractAsyncContextManager[ComfyFarm]:
    """The farm that settings describe; not open yet. Raises InputInvalid (E_SERVER_CONFIG, E_SETTING, E_STRATEGY)."""
    comfy = settings_of(table)
    return comfy_farm(
        store,
        servers_of(servers),
        workflows,
        strategy=comfy.strategy,
        rules=comfy.rules,
        timeouts=comfy.timeouts,
    )


def _check(key: str, value: Any) -> None:
    place = Place(file=FILE, field=f"comfyui.{key}")
    if key not in KEYS:
        raise InputInvalid("E_SETTING", f"no key {key} in [comfyui]", place=place, allowed=" ".join(KEYS))
    kinds, allowed = KEYS[key]
    fits = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
    if not fits or (isinstance(value, int | float) and bool not in kinds and value <= 0):
        raise InputInvalid("E_SETTING", f"{key} in [comfyui]", place=place, found=value, allowed=allowed)
