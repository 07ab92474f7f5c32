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
from rich.text import Text

from towpath.adapters.settings import settle
from towpath.adapters.task_group import background_tasks
from towpath.adapters.wiring import open_engine
from towpath.errors import FeatureMissing, InputInvalid, ServerFailed

from .options import import_modules, import_option, json_option, run_async, store_option
from .screen import Row, print_json, print_list, say, terminal, words
from .streams import during_a_run, hurry, make_logs_safe
from .tables import when

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from towpath.adapters.http.access import ServerRecords

GRACE = 5  # seconds that open responses get to finish when the server stops
QUIET = ("databases", "aiosqlite", "httpx", "httpcore", "python_multipart", "uvicorn.error")  # these log values
_TOKEN = re.compile(r"(/a/)[^/?\s]+")


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8700, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free port.")
@click.option("--allow-host", "hosts", metavar="NAME", multiple=True, help="A further host name of the server.")
@click.option("--chains", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Chain files to offer.")
@click.option("--execute", is_flag=True, help="Also execute runs: new ones, and those without a live owner.")
@click.option("--access-log", is_flag=True, help="Log every request, without tokens and queries.")
@import_option
@store_option
@json_option
def serve_verb(modules: tuple[str, ...], store: str | None, as_json: bool, **how: Any) -> int:
    """Start the server: pages and HTTP API. Ctrl-C or SIGTERM stops it.

    Without a key (`towpath keys add`) it accepts only requests from this machine.
    """
    import_modules(modules)
    table: Mapping[str, Any] = getattr(settle(store), "server", {})
    with during_a_run():
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
    async with open_engine(store) as engine:
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
            "the server has no key yet, so it listens on this machine only",
            found=host,
            cure="make a key first: towpath keys add NAME --role admin",
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
        cure = "choose another --port; 0 takes a free port"
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
    """Stop the server when its store is broken, so that a supervisor can restart it."""
    while app.state.engine.store.broken is None:  # noqa: ASYNC110 - the store sets no event
        await asyncio.sleep(1)
    server.should_exit = True
    app.state.feed.close()


@contextmanager
def _no_signals() -> Iterator[None]:
    yield


@contextmanager
def _stopped_by_signals(server: Any, app: Starlette) -> Iterator[None]:
    """The first signal ends event streams and lets responses finish; the second one ends those too."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        hurry()
        server.force_exit = server.should_exit
        server.should_exit = True
        app.state.feed.close()

    ending = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # the terminal was closed; under nohup it is ignored
        ending.append(signal.SIGHUP)
    for number in ending:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in ending:
            loop.remove_signal_handler(number)


class WithoutTokens(logging.Filter):
    """Removes tokens of approval links, and query strings, from log lines of requests."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(_without_token(arg) if isinstance(arg, str) else arg for arg in record.args)
        record.msg = _TOKEN.sub(r"\1***", record.msg) if isinstance(record.msg, str) else record.msg
        return True


def _without_token(text: str) -> str:
    return _TOKEN.sub(r"\1***", text.partition("?")[0] if text.startswith("/") else text)


def _guard_logs() -> None:
    """Keep secrets out of logs: filter request lines, and quieten loggers that write statements or headers."""
    access = logging.getLogger("uvicorn.access")
    if not any(isinstance(one, WithoutTokens) for one in access.filters):
        access.addFilter(WithoutTokens())
    for name in QUIET:
        logging.getLogger(name).setLevel(max(logging.getLogger(name).level, logging.WARNING))
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    make_logs_safe()


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
    """Keys of the server: add, ls, revoke."""


@keys_verb.command("add")
@click.argument("name")
@click.option("--role", required=True, type=click.Choice(["viewer", "operator", "approver", "admin"]))
@store_option
@json_option
def add_key(name: str, role: str, store: str | None, as_json: bool) -> int:
    """Make a key for NAME. It is printed once; the store keeps only a hash.

    viewer: read. operator: also start and control runs. approver: read, decide and edit. admin: everything.
    """
    return run_async(_add, name, role, store, as_json)


async def _add(name: str, role: str, store: str | None, as_json: bool) -> int:
    from towpath.adapters.http.access import ServerRecords  # noqa: PLC0415
    from towpath.adapters.http.principals import key_digest, key_name, new_key  # noqa: PLC0415

    key = new_key()
    async with open_engine(store) as engine:
        row = await ServerRecords(engine).add_key(key_name(name), role, key_digest(key))
    if as_json:
        print_json({**row, "key": key})
    else:
        say(key)
        say(f"the key of {name} ({role}); it is not printed again", err=True)
    return 0


@keys_verb.command("ls")
@store_option
@json_option
def list_keys(store: str | None, as_json: bool) -> int:
    """List the names and roles of all keys, revoked ones too."""
    return run_async(_list, store, as_json)


async def _list(store: str | None, as_json: bool) -> int:
    from towpath.adapters.http.access import ServerRecords  # noqa: PLC0415

    async with open_engine(store, readonly=True) as engine:
        rows = await ServerRecords(engine).list_keys()
    if as_json:
        print_json(rows)
        return 0
    if not rows:
        say("no keys yet; add one with: towpath keys add NAME")
        return 0
    listed: list[Row] = []
    for row in rows:
        times = words(when(row["created_at"])), words(when(row["revoked_at"]))
        listed.append(((words(row["name"]), words(row["role"]), *times), Text()))
    print_list(terminal(), ("name", "role", "made", "revoked"), listed, cut=("name",))
    return 0


@keys_verb.command("revoke")
@click.argument("name")
@store_option
@json_option
def revoke_key(name: str, store: str | None, as_json: bool) -> int:
    """Revoke the key of NAME for good, from the next request on."""
    return run_async(_revoke, name, store, as_json)


async def _revoke(name: str, store: str | None, as_json: bool) -> int:
    from towpath.adapters.http.access import ServerRecords  # noqa: PLC0415

    async with open_engine(store) as engine:
        if not await ServerRecords(engine).revoke_key(name):
            raise InputInvalid("E_KEY_MISSING", "no active key has this name", found=name)
    if as_json:
        print_json({"name": name, "revoked": True})
    else:
        say(f"the key of {name} is revoked")
    return 0
