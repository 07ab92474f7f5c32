"""`fsck`: are the rows of the store consistent, and does everything exist that they name?

Rows are read in one snapshot. Files are checked afterwards; for a file that seems to be missing, the database is asked
again. A repair does only three things: it marks one latest version per output (the highest), it sets the pointer of
a workflow to that, and it removes what no row names and what is older than the grace time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import sqlalchemy as sa
from anyio.to_thread import run_sync

from towpath.errors import StoreFailed

from .backend import Row, Script
from .blobs import FileBlobs
from .clock import now
from .findings import Check, Finding, each, unreadable
from .invariants import ORPHANED, ROW_CHECKS, WRONG_LATEST, WRONG_POINTER, inline_bytes
from .runs import RunStore
from .statements import Made
from .statements import param as b
from .tables import artifacts, blobs, chains, metadata, workflows
from .trails import decisions, trails

_AT_ONCE = 100  # files removed while the write lock is held


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a check: `problems` are damage (repaired or not), `notes` are harmless, `counts` are of rows."""

    problems: tuple[Finding, ...]
    notes: tuple[Finding, ...]
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """Is there no damage, or was all of it repaired?"""
        return all(problem.repaired for problem in self.problems)

    def __str__(self) -> str:
        seen = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        return "\n".join([*map(str, self.problems), *(f"note: {note}" for note in self.notes), f"seen: {seen}"])


@dataclass(slots=True)
class _Snapshot:
    """The results of one read of the database."""

    found: list[Finding] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    files: dict[str, list[tuple[str, int]]] = field(default_factory=dict)  # digest: artifact ids and their sizes
    named: set[str] = field(default_factory=set)
    running: frozenset[str] = frozenset()


async def fsck(store: RunStore, *, repair: bool = False, grace: float = 3600.0, deep: bool = True) -> Report:
    """Check a store. It may be in use meanwhile.

    Args:
        repair: repair what needs no decision; see the module's docstring.
        grace: seconds for which a file may exist without a row: its row may be about to be written.
        deep: read every byte and compare digests; else only sizes.
    """
    database, blobs = store.database, store.files.blobs
    faults = [Finding("I15", *fault) for fault in await database.integrity(deep=deep)]
    snapshot = await database.inspect(_look, deep)
    before = now() - int(grace * 1e6)
    found = [*faults, *snapshot.found, *await _missing_files(store, snapshot, deep)]
    orphans, others = await _stray_blobs(blobs, snapshot, before)
    leftovers = await run_sync(_leftovers, store.files.folder, snapshot.running, before)
    if repair:
        found = await _mended(store, found)
        orphans = await _collected(store, orphans, before)
        others = await run_sync(_removed, others, before)
        leftovers = await run_sync(_removed, leftovers, before)
    found += [finding for finding, _ in (*orphans, *others, *leftovers)]
    problems = tuple(f for f in found if not f.note)
    return Report(problems, tuple(f for f in found if f.note), snapshot.counts)


# ---- checking rows


_COUNTS = {
    table.name: Made(sa.select(sa.func.count().label("many")).select_from(table)) for table in metadata.sorted_tables
}
_RUNNING = Made(sa.select(chains.c.id).where(chains.c.status == "running"))
_NAMED = sa.select(artifacts.c.id, artifacts.c.sha256, artifacts.c.file_size, blobs.c.size.label("inside")).select_from(
    artifacts.outerjoin(blobs, blobs.c.sha256 == artifacts.c.sha256)
)


def _look(deep: bool) -> Script[_Snapshot]:
    snapshot = _Snapshot()
    checks: list[Check] = [inline_bytes] if deep else []
    for check in (*checks, *ROW_CHECKS, trails, decisions):
        snapshot.found += yield from _checked(check)
    snapshot.found += yield from _checked(lambda: _count(snapshot), "the counts")
    snapshot.found += yield from _checked(lambda: _name_files(snapshot), "the artifacts")
    return snapshot


def _checked(check: Check, name: str = "") -> Script[list[Finding]]:
    """The findings of a check. If the database is too damaged to be read, that is a finding too."""
    try:
        return (yield from check())
    except StoreFailed as error:
        return [unreadable(name or getattr(check, "__name__", "a check"), error)]


def _count(snapshot: _Snapshot) -> Script[list[Finding]]:
    for table, many in _COUNTS.items():
        snapshot.counts[table] = (yield many()).one()["many"]
    snapshot.running = frozenset(_work_name(row["id"]) for row in (yield _RUNNING()).rows)
    return []


def _name_files(snapshot: _Snapshot) -> Script[list[Finding]]:
    def name(row: Row) -> tuple[Finding, ...]:
        snapshot.named.add(row["sha256"])
        if row["inside"] is None:
            snapshot.files.setdefault(row["sha256"], []).append((row["id"], row["file_size"]))
        return ()

    return (yield from each(_NAMED, artifacts.c.id, "", name))


def _work_name(run_id: str) -> str:
    """The beginning of the names of a run's work folders (`towpath.context`)."""
    return hashlib.sha256(run_id.encode()).hexdigest()[:16]


# ---- checking files


async def _missing_files(store: RunStore, snapshot: _Snapshot, deep: bool) -> list[Finding]:
    found: list[Finding] = []
    blobs = store.files.blobs
    snapshot.counts["blob files"] = len(snapshot.files)
    for digest, named in snapshot.files.items():
        for row, size in named:
            damage = await _damage(blobs, digest, size, deep and row == named[0][0])
            if damage is not None and await _still_there(store, row):
                found.append(Finding("I7", damage[0], "artifacts", row, damage[1]))
    return found


async def _damage(blobs: FileBlobs, digest: str, size: int, deep: bool) -> tuple[str, str] | None:
    try:
        there = await blobs.size(digest)
        if there is None:
            return "E_BLOB_MISSING", f"its bytes, blob {digest}, are not in the store"
        if there != size:
            return "E_BLOB_CORRUPT", f"blob {digest} has {there} bytes instead of {size}"
        if deep:
            await blobs.verify(digest)
    except StoreFailed as error:
        return error.code, error.problem.message
    except ValueError:
        return "E_DB_VALUE", f"sha256 is not a digest: {digest:.80}"
    return None


_BY_ID = Made(sa.select(artifacts.c.id).where(artifacts.c.id == b("row")))


async def _still_there(store: RunStore, row: str) -> bool:
    return bool(await store.database.fetch(_BY_ID(row=row)))


Stray = tuple[Finding, Path]


async def _stray_blobs(blobs: FileBlobs, snapshot: _Snapshot, before: int) -> tuple[list[Stray], list[Stray]]:
    """Blobs that no row names, and other files, all older than the grace time."""
    orphans: list[Stray] = []
    others: list[Stray] = []
    young: list[int] = []
    async for file in blobs.scan():
        where = str(file.path.relative_to(blobs.root))
        if file.kind == "foreign":
            note = Finding(
                "I8", "E_FSCK_FOREIGN", "files", where, "is not a file of towpath; it is not touched", note=True
            )
            others.append((note, file.path))
        elif file.mtime > before or file.digest in snapshot.named:
            if file.kind == "blob" and file.digest not in snapshot.named:
                young.append(file.size)
        elif file.kind == "blob":
            orphan = Finding("I8", "E_FSCK_ORPHAN", "files", file.digest, f"{file.size} bytes belong to no artifact")
            orphans.append((orphan, file.path))
        else:
            others.append((Finding("I9", "E_FSCK_TEMP", "files", where, "was left by an unfinished write"), file.path))
    if young and not snapshot.running:  # no run is working, so no row is about to name them
        others.append((_unnamed(young, snapshot), blobs.root))
    return orphans, others


def _unnamed(young: list[int], snapshot: _Snapshot) -> Finding:
    lost = "" if snapshot.counts["chains"] else "; there are no runs: was the -wal file of the database lost?"
    what = f"{len(young)} new files ({sum(young)} bytes) belong to no artifact yet{lost}"
    return Finding("I8", "E_FSCK_UNNAMED", "files", "", what, note=True)


def _leftovers(folder: Path, running: frozenset[str], before: int) -> list[Stray]:
    """Work folders of steps that have ended, and unfinished copies for people."""
    found: list[Stray] = []
    work = folder / "work"
    for entry in sorted(work.iterdir()) if work.is_dir() else ():
        if entry.name.partition("-")[0] not in running and _changed(entry) <= before:
            why = "is the work folder of a step that is over"
            found.append((Finding("I9", "E_FSCK_TEMP", "files", f"work/{entry.name}", why), entry))
    for entry in sorted((folder / "files").rglob(".towpath-*.tmp")):
        if _changed(entry) <= before:
            where = str(entry.relative_to(folder))
            found.append((Finding("I9", "E_FSCK_TEMP", "files", where, "was left by an unfinished copy"), entry))
    return found


def _changed(path: Path) -> int:
    """When a file, or anything in a folder, was last changed, in microseconds."""
    newest = 0
    for entry in (path, *path.rglob("*")):
        try:
            newest = max(newest, entry.lstat().st_mtime_ns // 1000)
        except OSError:
            newest = max(newest, int(time.time() * 1e6))  # it is being changed right now
    return newest


# ---- repairing


async def _mended(store: RunStore, found: list[Finding]) -> list[Finding]:
    """Repair latest versions and pointers, and remove bytes in the database that no row names.

    Each repair returns the findings that it could not repair.
    """
    menders: dict[str, Callable[[], Script[set[str]]]] = {
        "E_FSCK_LATEST": _mend_latest,
        "E_FSCK_POINTER": _mend_pointers,
        "E_FSCK_ORPHAN": _drop_orphans,
    }
    codes = {finding.code for finding in found}
    for code, mend in menders.items():
        if code in codes:
            left = await store.database.write(mend)
            found = [replace(f, repaired=True) if f.code == code and f.row not in left else f for f in found]
    return found


_MARK_LATEST = Made(
    sa.update(artifacts)
    .where(
        artifacts.c.workflow_id == b("row"), artifacts.c.name == b("output"), artifacts.c.version == b("new_version")
    )
    .values(is_latest=1, updated_at=b("at"))
)


def _mend_latest() -> Script[set[str]]:
    """Mark the highest version where none is marked. If several are marked, only a person knows the right one."""
    left = set()
    for row in (yield WRONG_LATEST()).rows:
        if row["marked"]:
            left.add(row["workflow_id"])
            continue
        where = {"row": row["workflow_id"], "output": row["name"], "new_version": row["highest"]}
        yield _MARK_LATEST(**where, at=now())
    return left


_old, _first = artifacts.alias("old"), artifacts.alias("first")
_another_name = sa.case(
    (artifacts.c.name == sa.select(_old.c.name).where(_old.c.id == b("pointer")).scalar_subquery(), 0), else_=1
)
_made_first = sa.select(sa.func.min(_first.c.id)).where(
    _first.c.workflow_id == artifacts.c.workflow_id, _first.c.name == artifacts.c.name
)
_RIGHT_POINTER = Made(
    sa.select(artifacts.c.id)
    .where(artifacts.c.workflow_id == b("row"), artifacts.c.is_latest == 1)
    .order_by(_another_name, _made_first.scalar_subquery())
    .limit(1)
)
_POINT = Made(
    sa.update(workflows).where(workflows.c.id == b("row")).values(latest_artifact_id=b("artifact"), updated_at=b("at"))
)


def _mend_pointers() -> Script[set[str]]:
    """Point to the latest version of the same output, else of the first output."""
    for row in (yield WRONG_POINTER()).rows:
        right = (yield _RIGHT_POINTER(row=row["id"], pointer=row["latest_artifact_id"])).first()
        yield _POINT(row=row["id"], artifact=right["id"] if right else None, at=now())
    return {row["id"] for row in (yield WRONG_POINTER()).rows}


_DROP_ORPHANS = Made(sa.delete(blobs).where(ORPHANED))


def _drop_orphans() -> Script[set[str]]:
    yield _DROP_ORPHANS()
    return set()


_NAMING = Made(sa.select(artifacts.c.id).where(artifacts.c.sha256 == b("sha256")).limit(1))


async def _collected(store: RunStore, orphans: list[Stray], before: int) -> list[Stray]:
    """Remove orphans while no row can begin to name them: each is checked again under the write lock."""
    done: list[Stray] = []
    for start in range(0, len(orphans), _AT_ONCE):
        some = orphans[start : start + _AT_ONCE]
        done += await store.database.write(_collect, store.files.blobs, some, before)
    return done


def _collect(blobs: FileBlobs, some: list[Stray], before: int) -> Script[list[Stray]]:
    result = []
    for finding, path in some:
        named = (yield _NAMING(sha256=finding.row)).first()
        gone = named is None and blobs.collect(finding.row, before)
        result.append((replace(finding, repaired=gone), path))
    return result


def _removed(strays: list[Stray], before: int) -> list[Stray]:
    result = []
    for finding, path in strays:
        if finding.code == "E_FSCK_TEMP" and _changed(path) <= before:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
            result.append((replace(finding, repaired=not os.path.lexists(path)), path))
        else:
            result.append((finding, path))
    return result
