"""Verbs that control runs and check the store: pause, cancel, rm, fsck."""

from __future__ import annotations

import getpass
import sys

import click

from towpath.adapters.wiring import Engine, check_store, open_engine
from towpath.adapters.wording import at_store, counted, size_text
from towpath.errors import RunRefused
from towpath.model import ChainStatus
from towpath.ports import Removed
from towpath.records import ChainRecord

from .options import find_run, json_option, run_async, store_option
from .screen import print_json, say
from .tables import when


@click.command("pause")
@click.argument("run")
@store_option
@json_option
def pause_verb(run: str, store: str | None, as_json: bool) -> int:
    """Start no new step of RUN; running steps finish. `towpath resume` continues it."""
    return run_async(_request, "pause", run, store, as_json)


@click.command("cancel")
@click.argument("run")
@store_option
@json_option
def cancel_verb(run: str, store: str | None, as_json: bool) -> int:
    """Cancel RUN. This is recorded at once; the process that runs its steps then stops them."""
    return run_async(_request, "cancel", run, store, as_json)


async def _request(what: str, run: str, store: str | None, as_json: bool) -> int:
    async with open_engine(store) as engine:
        run_id = await find_run(engine, run)
        status = await (engine.pause if what == "pause" else engine.cancel)(run_id)
    if as_json:
        print_json({"id": run_id, "asked": what, "status": status})
    elif status.final or status == "paused":
        say(f"{run_id} is {status}")
    else:
        say(f"{run_id}: {what} requested; the run is still {status}")
    return 0


@click.command("rm")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask. Needed where nobody can answer.")
@store_option
@json_option
def rm_verb(runs: tuple[str, ...], yes: bool, store: str | None, as_json: bool) -> int:
    """Remove runs that are over: their steps, files, logs, approvals and the runs inside them.

    A name means the newest run of that name. Nothing is removed if one of the runs is not over. Lines of the audit
    trail that name a person are kept.
    """
    found = run_async(_removable, runs, store)
    if not yes:
        if as_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise click.UsageError("nobody can be asked here: give --yes")
        for row in found:
            say(f"{_named(row)}, {row['status']}, started {when(row['started_at'])}", err=True)
        what = "this run" if len(found) == 1 else f"these {len(found)} runs"
        click.confirm(f"Remove {what} for good?", abort=True, err=True)
    return run_async(_remove, found, store, as_json)


async def _removable(texts: tuple[str, ...], store: str | None) -> list[ChainRecord]:
    """The runs, each once. Raises RunRefused: E_RUN_MISSING, E_RUN_AMBIGUOUS, E_RUN_ACTIVE."""
    async with open_engine(store, readonly=True) as engine:
        found = {run_id: await engine.get_chain(run_id) for run_id in [await find_run(engine, text) for text in texts]}
    rows = [row for row in found.values() if row is not None]
    for row in rows:
        if not ChainStatus(row["status"]).final:
            raise RunRefused(
                "E_RUN_ACTIVE",
                f"run {row['id']} is {row['status']} and not over, so nothing was removed",
                cure=f"cancel it first (`towpath cancel {row['id']}`), or let it end",
            )
    return rows


async def _remove(rows: list[ChainRecord], store: str | None, as_json: bool) -> int:
    gone: list[Removed] = []
    async with open_engine(store) as engine:
        for row in rows:
            removed = await _removed(engine, row["id"])
            gone += [] if removed is None else [removed]
            if not as_json:
                say(_what_went(row, removed))
    if as_json:
        print_json([{"id": one.id, "steps": one.steps, "files": one.files, "bytes": one.bytes} for one in gone])
        return 0
    freed = sum(one.bytes for one in gone)
    if freed:
        command = f"towpath fsck --repair{at_store(store)}"
        say(f"{size_text(freed)} are in no other run: `{command}` frees them, an hour after they were made")
    return 0


async def _removed(engine: Engine, run_id: str) -> Removed | None:
    """What was removed; None if somebody else has removed the run since it was looked for."""
    try:
        return await engine.remove(run_id, by=_user_name())
    except RunRefused as refused:
        if refused.code != "E_RUN_MISSING":
            raise
        return None


def _what_went(row: ChainRecord, gone: Removed | None) -> str:
    if gone is None:
        return f"{_named(row)} is gone already"
    return f"removed {_named(row)}: {counted(gone.steps, 'step')}, {counted(gone.files, 'file')}"


def _named(row: ChainRecord) -> str:
    return f"run {row['id']}" + (f" ({row['run_name']})" if row["run_name"] else "") + f" of {row['name']}"


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


@click.command("fsck")
@click.option("--repair", is_flag=True, help="Repair what can be repaired without losing data.")
@click.option("--grace", default=3600.0, show_default=True, help="Ignore files without a row younger than this (s).")
@click.option("--quick", is_flag=True, help="Do not read the bytes of the blobs.")
@store_option
@json_option
def fsck_verb(repair: bool, grace: float, quick: bool, store: str | None, as_json: bool) -> int:
    """Check the store: rows, versions, lineage, blobs, audit trail. Exit code 1 if something is wrong."""
    report = run_async(check_store, store, repair=repair, grace=grace, deep=not quick)
    left = [finding for finding in report.problems if not finding.repaired]
    if as_json:
        print_json(
            {
                "clean": not left,
                "problems": report.problems,
                "notes": report.notes,
                "looked_at": report.counts,
            }
        )
        return 1 if left else 0
    for finding in report.problems:
        state = ("repaired", "green") if finding.repaired else ("wrong", "bold red")
        say(state, f" {finding.code} {finding.table} {finding.row}: {finding.sentence}")
    for note in report.notes:
        say(f"note {note}")
    checked = ", ".join(f"{n} {what}" for what, n in report.counts.items())
    say(f"{'clean' if not left else f'{len(left)} problems'}: checked {checked}")
    if report.counts.get("blobs", 0) > report.counts.get("blob files", 0):
        say("small blobs have no file: their bytes are in the database")
    return 1 if left else 0
