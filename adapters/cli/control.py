"""Verbs that control runs and check the store: pause, cancel, fsck."""

from __future__ import annotations

import click

from towpath.adapters.wiring import check_store, open_engine

from .options import find_run, json_option, run_async, store_option
from .screen import print_json, say


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
