"""Who takes part, what each keeps, and which workloads it can do."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


class Kind(StrEnum):
    """What a system is in the comparison."""

    TOWPATH = "towpath"
    CEILING = "ceiling"
    PEER = "peer"


@dataclass(frozen=True)
class System:
    """A system in one mode. `module` measures it, `script` is its whole script for W6."""

    name: str
    kind: Kind
    keeps: str
    workloads: frozenset[str]
    module: str
    mode: str = ""
    script: Path | None = None
    environment: str = ""  # a folder of `peers/`, whose requirements it needs
    source: Path | None = None  # a towpath that is not the installed one
    lacks: dict[str, str] = field(default_factory=dict)  # why it cannot do a workload


def _peer(name: str, folder: str, keeps: str, workloads: str, **lacks: str) -> System:
    place = HERE / "peers" / folder
    return System(
        name,
        Kind.PEER,
        keeps,
        frozenset(workloads.split()),
        f"benchmarks.peers.{folder}.run",
        script=place / "script.py",
        environment=folder,
        lacks=lacks,
    )


def _ceiling(name: str, mode: str, keeps: str, workloads: str, module: str = "ceilings") -> System:
    script = HERE / "bare_script.py" if "W6" in workloads else None
    chosen = frozenset(workloads.split())
    return System(name, Kind.CEILING, keeps, chosen, f"benchmarks.{module}", mode, script)


_STEPS = "step rows, values, attempts, audit trail; group commit, fsync (synchronous=FULL)"
_TRANSFERS = "small large single"

TOWPATH = System(
    "towpath",
    Kind.TOWPATH,
    _STEPS,
    frozenset(f"W1 W2 W3 W4 W5 uneven W6 W7 items1 items10 items100 static {_TRANSFERS}".split()),
    "benchmarks.towpath_run",
    script=HERE / "script.py",
)
MAPPED = System("towpath .map", Kind.TOWPATH, _STEPS, frozenset({"W2"}), "benchmarks.towpath_run", "map")
LEVELS = System(
    "towpath, level barriers",
    Kind.TOWPATH,
    f"{_STEPS}; each level waits for the whole level before",
    frozenset({"W3", "uneven"}),
    "benchmarks.towpath_run",
    "levels",
)
SAME_ROWS = "same rows"
_SAME = "exactly what towpath writes, in the same transactions, executed by sqlite3 alone; runs no step"

CEILINGS = (
    _ceiling("bare asyncio", "asyncio", "nothing", "W1 W2 W3 W4 W5 uneven W6"),
    _ceiling("one row a step", "one row", "one row of four integers per step; group commit, fsync", "W1 W2 W3 W4 W5"),
    _ceiling(SAME_ROWS, "same rows", _SAME, "W1 W2 W3 W4"),
    _ceiling(f"{SAME_ROWS}, .map", "same rows", _SAME, "W2"),
    _ceiling("copy loop", "copy loop", "the same files, one thread, fsync of file and folder", "W7"),
    _ceiling("copy loop", "copy loop", "the same files, one thread, fsync of file and folder", _TRANSFERS, "transfers"),
    _ceiling("http alone", "http alone", "nothing: the bytes are thrown away", _TRANSFERS, "transfers"),
)

_NO_GRAPH = "has no joins of its own: a state machine, with one level of parallel actions"
_OUR_LEVELS = "its flows must start steps in a fixed order, so levels would be ours, not its"
PEERS = (
    _peer(
        "Burr",
        "burr",
        "the whole state as one row per step: SQLite, rollback journal, FULL",
        "W1 W2 W4 W5 W6",
        W3=_NO_GRAPH,
        uneven=_NO_GRAPH,
        W7="keeps values in its state as JSON",
    ),
    _peer(
        "LangGraph",
        "langgraph",
        "a checkpoint per level and a row per node: SQLite, WAL, FULL; the next level may overtake the write",
        "W1 W2 W3 W4 W5 uneven W6 W7",
    ),
    _peer(
        "DBOS",
        "dbos",
        "a row per step and per workflow before the step returns: SQLite, rollback journal, FULL",
        "W1 W2 W3 W4 W5 W6 W7",
        uneven=_OUR_LEVELS,
    ),
    _peer(
        "Restate",
        "restate",
        "a journal entry per step in its server's log before the value is handed on: RocksDB, fdatasync",
        "W1 W2 W3 W4 W5 W6 W7",
        uneven=_OUR_LEVELS,
    ),
    _peer(
        "Prefect",
        "prefect",
        "states and events by way of its server, later and in batches: SQLite, WAL, NORMAL",
        "W1 W2 W3 W5 uneven W6 W7",
        W4="its own server answers 100 flows at the same time with 503",
    ),
    _peer(
        "Temporal, by hand",
        "temporal",
        "history events per activity in the dev server's database: SQLite, fsync",
        "W1 W2 W3 W4 W5 uneven W6",
        W7="a value may have 2 MB and a history 50 MB",
    ),
)
PEER_NAMES = tuple(peer.environment for peer in PEERS)


def systems_for(workload: str, peers: frozenset[str], others: tuple[System, ...] = ()) -> list[System]:
    """Who takes part in a workload; `others` are towpaths of other commits."""
    chosen = [TOWPATH, MAPPED, LEVELS, *others, *CEILINGS]
    chosen += [peer for peer in PEERS if peer.environment in peers]
    return [system for system in chosen if workload in system.workloads]


def module_of(system: System, workload: str) -> str:
    """The module that measures it."""
    if workload in _TRANSFERS.split() and system.kind is Kind.TOWPATH:
        return "benchmarks.transfers"
    return system.module
