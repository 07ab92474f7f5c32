"""The verb that measures. What it measures is in `benchmarks/` of the repository, which is not part of a wheel."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from towpath.errors import FeatureMissing, InputInvalid, TowpathError

from .options import json_option
from .screen import print_json, say, terminal

RUNS, QUICK_RUNS = 5, 3
_MARK = Path("benchmarks", "systems.py")  # tells the folder from another one of that name


@click.command("bench")
@click.argument("workloads", nargs=-1, metavar="[WORKLOAD]...")
@click.option("--repeats", type=click.IntRange(1, 100), help="Runs of each system. Default: 5, with --quick 3.")
@click.option("--quick", is_flag=True, help="Small sizes and three runs: a look, not a result.")
@click.option("--size", "sizes", multiple=True, metavar="NAME=N", help="Another size of a workload. Repeatable.")
@click.option("--peers", default="all", show_default=True, help="Other engines, by comma; all or none.")
@click.option("--against", metavar="COMMIT", help="Measure the towpath of another commit in the same turns.")
@click.option("--check", is_flag=True, help="Print the targets; exit code 1 if one is missed.")
@click.option("--baseline", type=click.Path(path_type=Path), help="Compare ratios with saved results.")
@click.option("--tolerance", default=0.2, show_default=True, help="The share by which a ratio may fall.")
@click.option("--save", type=click.Path(path_type=Path), help="Save the results as a baseline.")
@click.option("--picture", type=click.Path(path_type=Path), help="Write a page with charts (HTML).")
@click.option("--folder", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Where files are made.")
@click.option(
    "--nice", type=click.IntRange(-20, 19), default=0, help="Niceness of measured processes; below 0 needs root."
)
@click.option("--list", "listed", is_flag=True, help="List the workloads and measure nothing.")
@json_option
def bench_verb(workloads: tuple[str, ...], listed: bool, as_json: bool, **options: Any) -> int:
    """Measure towpath beside other engines and beside plain programs that do the same work.

    Exit code 1 if a target is missed (--check), a ratio fell (--baseline), or a run came to a wrong result.
    """
    command = _benchmarks()
    if listed:
        command.terminal.show_list(terminal())
        return 0
    _refuse_options(options)
    before = _saved(command, options["baseline"])
    with _signals_end_it():
        results = _measured(command, workloads, options, None if as_json else terminal())
    checked = command.targets.check(results["rows"]) if options["check"] else []
    changes = command.baseline.compare(before, results) if before else []
    lost = command.baseline.fallen(changes, options["tolerance"])
    if options["save"]:
        command.baseline.save(results, options["save"])
    if options["picture"]:
        command.draw(results, options["picture"])
    if as_json:
        told = {"targets": [_told(one) for one in checked], "ratios": command.ratios(results["rows"])}
        print_json({**results, **told, "fallen": [_change(change) for change in lost]})
    else:
        _show(command, checked, changes, lost, {**options, "quick": results["quick"]})
    return 1 if lost or any(one.met is False for one in checked) else 0


def _benchmarks() -> Any:
    """The module `benchmarks.command`: of the repository that holds the current folder, or that this package is from.

    Raises FeatureMissing: E_BENCH_MISSING.
    """
    here, source = Path.cwd(), Path(__file__).resolve()
    for folder in (here, *here.parents, *source.parents):
        if (folder / _MARK).is_file():
            sys.path.insert(0, str(folder))
            return importlib.import_module("benchmarks.command")
    raise FeatureMissing(
        "E_BENCH_MISSING",
        "the benchmarks are in towpath's repository, not in the installed package",
        cure="run `towpath bench` in a clone of the repository",
    )


def _refuse_options(options: dict[str, Any]) -> None:
    """Refuse now what would fail after the measurements. Raises InputInvalid: E_BENCH_OPTION."""
    if not 0 <= options["tolerance"] < 1:
        raise InputInvalid("E_BENCH_OPTION", f"--tolerance {options['tolerance']} is not a share", allowed="0 to 0.99")
    for name in ("save", "picture"):
        path: Path | None = options[name]
        if path is not None and (path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK)):
            message = f"--{name} {path} cannot be written"
            raise InputInvalid("E_BENCH_OPTION", message, allowed="a file in a folder that is there")


@contextmanager
def _signals_end_it() -> Iterator[None]:
    """SIGTERM and a closed terminal end what is measured, and remove its files, as Ctrl-C does."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is signal.SIG_DFL:  # under nohup SIGHUP is ignored
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _saved(command: Any, path: Path | None) -> Any:
    """The baseline. Raises InputInvalid: E_BENCH_BASELINE."""
    if path is None:
        return None
    try:
        return command.baseline.load(path)
    except (OSError, command.baseline.NotABaseline) as error:
        raise InputInvalid("E_BENCH_BASELINE", str(error), cure="make one with `towpath bench --save FILE`") from None


def _measured(command: Any, workloads: tuple[str, ...], options: dict[str, Any], shown: Any) -> Any:
    """The results. Raises InputInvalid: E_BENCH_OPTION; TowpathError: E_BENCH_FAILED."""
    quick = options["quick"]
    wanted = command.Wanted(
        workloads=workloads,
        repeats=options["repeats"] or (QUICK_RUNS if quick else RUNS),
        quick=quick,
        **{name: options[name] for name in ("sizes", "peers", "against", "folder", "nice")},
    )
    try:
        return command.take(wanted, shown, terminal(stderr=True))
    except command.Refused as error:
        raise InputInvalid("E_BENCH_OPTION", str(error), allowed=error.allowed) from None
    except command.Failed as error:
        raise TowpathError("E_BENCH_FAILED", f"a measured run failed: {error}") from None


def _show(command: Any, checked: Any, changes: Any, lost: Any, options: dict[str, Any]) -> None:
    if checked:
        command.terminal.show_targets(terminal(), checked, quick=options["quick"])
    if options["baseline"]:
        command.terminal.show_changes(terminal(), changes, lost, options["tolerance"])
    if options["picture"]:
        say(f"picture: {options['picture']}")


def _told(checked: Any) -> dict[str, Any]:
    target = checked.target
    figure = checked.figure[0] if checked.figure else None
    words = {"target": target.wanted, "measured": checked.found, "figure": figure, "met": checked.met}
    return {"workload": target.workload, "what": target.what, **words}


def _change(change: Any) -> dict[str, Any]:
    return {"ratio": change.name, "before": change.before, "now": change.now, "by": change.by}
