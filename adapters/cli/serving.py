"""Verbs of the server: serve, keys."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from towpath.adapters.settings import settle
from towpath.adapters.task_group import background_tasks
from towpath.errors import FeatureMissing, InputInvalid, ServerFailed

from .options import engine_of, import_modules, import_option, json_option, run_async, store_option
from .outlet import beside_a_run, guard_logs, hurry
from .screen import print_json, say, terminal, words
from .tables import when

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from towpath.adapters.http.access import ServerRecords

GRACE = 5  # seconds that answers under way are given when the server stops
QUIET = ("databases", "aiosqlite", "httpx", "httpcore", "python_multipart", "uvicorn.error")  # these tell values
_TOKEN = re.compile(r"(/a/)[^/?\s]+")


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8700, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option("--allow-host", "hosts", metavar="NAME", multiple=True, help="A name that it may be called by.")
@click.option("--chains", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Chain files to start.")
@click.option("--execute", is_flag=True, help="Work on runs that are started here or that nobody works on.")
@click.option("--access-log", is_flag=True, help="Log every request, without tokens and queries.")
@import_option
@store_option
@json_option
def serve_verb(modules: tuple[str, ...], store: str | None, as_json: bool, **how: Any) -> int:
    """Serve the pages and the HTTP API until it is stopped (Ctrl-C or SIGTERM).

    Without a key (`towpath keys add`) only this machine is let in.
    """
    import_modules(modules)
    table: Mapping[str, Any] = getattr(settle(store), "server", {})
    with beside_a_run():
        return run_async(_serve, table, store, as_json, **how)


async def _serve(
    table: Mapping[str, Any],
    store: str | None,
    as_json: bool,
    *,
    host: str,
    port: int,
    hosts: tuple[str, ...],
    access_log: bool,
    **wanted: Any,
) -> int:
    with _server_needed():
        from towpath.adapters.http.application import create_app  # noqa: PLC0415 - a web framework
        from towpath.adapters.http.settings import settings_from  # noqa: PLC0415
    settings = settings_from(table, more_hosts=(*hosts, _url_host(host)), **wanted)
    async with engine_of(store) as engine:
        app = create_app(engine, settings)
        await _refuse_open_door(app.state.records, host)
        with _listening(host, port) as listener:
            url = f"http://{_url_host(host)}:{listener.getsockname()[1]}"
            if as_json:
                print_json({"url": url, "execute": settings.execute})
            else:
                say(f"towpath serves {url}  (stop with Ctrl-C)")
            await _until_stopped(app, listener, access_log)
        if engine.store.broken is not None:
            raise engine.store.broken
    return 0


async def _refuse_open_door(records: ServerRecords, host: str) -> None:
    if not _is_loopback(host) and not await records.any_key():
        raise InputInvalid(
            "E_SERVE_KEYS",
            "without a key the server listens to this machine only",
            found=host,
            cure="make one first: towpath keys add NAME --role admin",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """A listening socket. Raises ServerFailed (E_SERVE_PORT)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2_048)
    except OSError as error:
        why = error.strerror or str(error)
        cure = "choose another --port; 0 takes a free one"
        raise ServerFailed("E_SERVE_PORT", f"cannot listen on {host} port {port}: {why}", cure=cure) from None
    with listener:
        yield listener


def _url_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


async def _until_stopped(app: Starlette, listener: socket.socket, access_log: bool) -> None:
    import uvicorn  # noqa: PLC0415

    from towpath.adapters.http.connections import ServerConfig  # noqa: PLC0415

    _guard_logs()
    config = ServerConfig(app, access_log=access_log, lifespan="on", timeout_graceful_shutdown=GRACE)
    server = uvicorn.Server(config)
    server.capture_signals = _no_signals  # type: ignore[method-assign]
    with _stopped_by_signals(server, app):
        async with background_tasks() as tasks:
            tasks.start_soon(_stop_without_store, server, app)
            await server.serve(sockets=[listener])


async def _stop_without_store(server: Any, app: Starlette) -> None:
    """A server that can record nothing any more ends, so that somebody starts it again."""
    while app.state.engine.store.broken is None:  # noqa: ASYNC110 - what breaks is no task of ours
        await asyncio.sleep(1)
    server.should_exit = True
    app.state.feed.close()


@contextmanager
def _no_signals() -> Iterator[None]:
    yield


@contextmanager
def _stopped_by_signals(server: Any, app: Starlette) -> Iterator[None]:
    """Once ends event streams and lets answers finish; twice lets nothing finish."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        hurry()
        server.force_exit = server.should_exit
        server.should_exit = True
        app.state.feed.close()

    ending = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # a terminal that goes away; nohup decides otherwise
        ending.append(signal.SIGHUP)
    for number in ending:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in ending:
            loop.remove_signal_handler(number)


class WithoutTokens(logging.Filter):
    """Takes the tokens of approval links, and queries, out of what is logged of requests."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(_told(arg) if isinstance(arg, str) else arg for arg in record.args)
        record.msg = _TOKEN.sub(r"\1***", record.msg) if isinstance(record.msg, str) else record.msg
        return True


def _told(text: str) -> str:
    return _TOKEN.sub(r"\1***", text.partition("?")[0] if text.startswith("/") else text)


def _guard_logs() -> None:
    """Loggers that would tell values: those of requests are filtered, those of statements and headers kept quiet."""
    access = logging.getLogger("uvicorn.access")
    if not any(isinstance(one, WithoutTokens) for one in access.filters):
        access.addFilter(WithoutTokens())
    for name in QUIET:
        logging.getLogger(name).setLevel(max(logging.getLogger(name).level, logging.WARNING))
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    guard_logs()


@contextmanager
def _server_needed() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        if error.name not in ("starlette", "uvicorn", "python_multipart", "jinja2", "itsdangerous", "httpx"):
            raise
        cure = 'pip install "towpath[server]"'
        raise FeatureMissing("E_FEATURE_MISSING", "the server needs more packages", cure=cure) from error


# ---- keys


@click.group("keys")
def keys_verb() -> None:
    """Who may use the server: add, ls, revoke."""


@keys_verb.command("add")
@click.argument("name")
@click.option("--role", required=True, type=click.Choice(["viewer", "operator", "approver", "admin"]))
@store_option
@json_option
def add_key(name: str, role: str, store: str | None, as_json: bool) -> int:
    """Make a key for NAME. It is shown once and kept nowhere.

    A viewer looks; an operator also starts and steers runs; an approver looks, decides and edits; an admin may
    do everything.
    """
    return run_async(_add, name, role, store, as_json)


async def _add(name: str, role: str, store: str | None, as_json: bool) -> int:
    from towpath.adapters.http.access import ServerRecords  # noqa: PLC0415
    from towpath.adapters.http.principals import key_digest, key_name, new_key  # noqa: PLC0415

    key = new_key()
    async with engine_of(store) as engine:
        row = await ServerRecords(engine).add_key(key_name(name), role, key_digest(key))
    if as_json:
        print_json({**row, "key": key})
    else:
        say(key)
        say(f"the key of {name} ({role}); it is not shown again", err=True)
    return 0


@keys_verb.command("ls")
@store_option
@json_option
def list_keys(store: str | None, as_json: bool) -> int:
    """List all keys ever made, without the keys."""
    return run_async(_list, store, as_json)


async def _list(store: str | None, as_json: bool) -> int:
    from towpath.adapters.http.access import ServerRecords  # noqa: PLC0415

    async with engine_of(store, readonly=True) as engine:
        rows = await ServerRecords(engine).list_keys()
    if as_json:
        print_json(rows)
        return 0
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("name", "role", "made", "revoked"):
        table.add_column(column)
    for row in rows:
        table.add_row(words(row["name"]), words(row["role"]), when(row["created_at"]), when(row["revoked_at"]))
    terminal().print(table)
    return 0


@keys_verb.command("revoke")
@click.argument("name")
@store_option
@json_option
def revoke_key(name: str, store: str | None, as_json: bool) -> int:
    """End the key of NAME for good, from the next request on."""
    return run_async(_revoke, name, store, as_json)


async def _revoke(name: str, store: str | None, as_json: bool) -> int:
    from towpath.adapters.http.access import ServerRecords  # noqa: PLC0415

    async with engine_of(store) as engine:
        if not await ServerRecords(engine).revoke_key(name):
            raise InputInvalid("E_KEY_MISSING", "there is no key of that name in use", found=name)
    if as_json:
        print_json({"name": name, "revoked": True})
    else:
        say(f"{name} is let in no more")
    return 0
