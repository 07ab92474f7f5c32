"""`towpath serve` and `towpath keys` as processes: safe by default, stopped in order, going on with runs."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest

from tests.adapters.conftest import check

from .serving import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
SECRET = "0123456789abcdef-secret"
STARTED = time.time()
CHAIN = """
name: served
steps:
  - id: note
    python: tests.http.steps:write
    parameters: { text: served }
  - id: loud
    python: tests.http.steps:shout
    depends_on: [note]
    parameters: { note: "{{ note.output.text }}" }
    requires_approval: true
  - id: length
    python: tests.http.steps:measure
    depends_on: [loud]
    parameters: { note: "{{ loud.output.text }}" }
"""


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TOWPATH_", "DATABASE_URL"))}
    return {**kept, "PYTHONPATH": os.pathsep.join([str(ROOT), *kept.get("PYTHONPATH", "").split(os.pathsep)])}


def verb(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "towpath", name, *arguments]


@contextmanager
def served(store: Path, *arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server on a free port; its URL and its process."""
    command = verb("serve", "--port", "0", "--store", str(store), "--json", *arguments)
    process = subprocess.Popen(
        command, cwd=store.parent, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        told = ""
        while not told.endswith("}\n"):
            line = process.stdout.readline()
            if not line:
                raise AssertionError(process.communicate(timeout=PATIENCE)[1])
            told += line
        url = json.loads(told)["url"]
        ready(url)
        yield url, process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=PATIENCE)


def polls() -> Iterator[None]:
    """Twenty times a second, until only a hang can be the reason."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        yield
        time.sleep(0.05)


def ready(url: str) -> None:
    for _ in polls():
        with suppress(httpx.TransportError):
            if httpx.get(f"{url}/api/v1/health", timeout=PATIENCE).status_code == 200:
                return
    raise AssertionError("the server does not answer")


def until(url: str, run: str, status: str) -> dict[str, Any]:
    for _ in polls():
        shown: dict[str, Any] = httpx.get(f"{url}/api/v1/chains/{run}", timeout=PATIENCE).json()
        if shown["status"] == status:
            return shown
    raise AssertionError(shown)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_in_order(tmp_path: Path, number: signal.Signals) -> None:
    """Event streams end, the process ends with 0, nothing is left behind."""
    store = tmp_path / "towpath.db"
    with served(store) as (url, process):
        with httpx.stream(
            "GET", f"{url}/api/v1/events", headers={"Accept": "text/event-stream"}, timeout=PATIENCE
        ) as stream:
            lines = stream.iter_lines()
            assert next(lines) == "retry: 1000"
            process.send_signal(number)
            assert [line for line in lines if line.startswith("data")] == []
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, (out, err)
        assert "Traceback" not in err
    check(store)


def test_R27_H5_decided_while_nothing_runs_and_gone_on_with_by_a_server(tmp_path: Path) -> None:
    """A server without --execute takes the decision; the next one with it finishes the run. Killed in between."""
    store = tmp_path / "towpath.db"
    steps = ("--import", "tests.http.steps")
    with served(store, "--execute", *steps) as (url, process):
        run = httpx.post(f"{url}/api/v1/chains", json={"yaml": CHAIN}).json()["id"]
        until(url, run, "paused")
        process.kill()
    with served(store) as (url, _):
        (gate,) = httpx.get(f"{url}/api/v1/approvals?status=pending").json()["rows"]
        seen = {"seen": gate["artifact_ids"], "by": "Ann"}
        answers = [httpx.post(f"{url}/api/v1/approvals/{gate['id']}/approve", json=seen).status_code for _ in range(2)]
        assert answers == [200, 409]
        assert httpx.get(f"{url}/api/v1/chains/{run}").json()["status"] == "paused"
    with served(store, "--execute", *steps) as (url, _):
        shown = until(url, run, "completed")
    assert shown["steps"][-1]["value"] == {"length": 6, "text": "SERVED"}
    check(store)


def decided_while_away(folder: Path, turn: int) -> None:
    """One round: a gate opens, the server is killed, two people decide at once elsewhere, a third one finishes."""
    folder.mkdir()
    store = folder / "towpath.db"
    steps = ("--import", "tests.http.steps")
    with served(store, "--execute", *steps) as (url, process):
        run = httpx.post(f"{url}/api/v1/chains", json={"yaml": CHAIN}).json()["id"]
        until(url, run, "paused")
        process.kill()
    with served(store) as (url, process), ThreadPoolExecutor(2) as people:
        (gate,) = httpx.get(f"{url}/api/v1/approvals?status=pending").json()["rows"]
        path = f"{url}/api/v1/approvals/{gate['id']}"
        bodies = {"approve": {"seen": gate["artifact_ids"], "by": "Ann"}, "reject": {"action": "stop", "by": "Bob"}}
        order = sorted(bodies, reverse=turn % 2 == 1)
        said = [people.submit(httpx.post, f"{path}/{verb}", json=bodies[verb]) for verb in order]
        answers = [answer.result() for answer in said]
        assert sorted(answer.status_code for answer in answers) == [200, 409], answers
        process.kill()  # right after it answered: what it said is kept
    decided = next(answer.json()["status"] for answer in answers if answer.status_code == 200)
    with served(store, "--execute", *steps) as (url, _):
        until(url, run, "completed" if decided == "approved" else "failed")
        assert httpx.get(f"{url}/api/v1/approvals/{gate['id']}").json()["status"] == decided
        told = httpx.get(f"{url}/api/v1/chains/{run}/events?limit=1000").json()["rows"]
        assert [line["type"] for line in told].count("DecisionRecorded") == 1
    check(store)


def test_R27_two_decide_at_once_while_nothing_runs(tmp_path: Path) -> None:
    decided_while_away(tmp_path / "0", 0)


@pytest.mark.full
def test_R27_a_hundred_decisions_and_none_is_lost(tmp_path: Path) -> None:
    """Every one is kept and acted on."""
    for turn in range(100):
        decided_while_away(tmp_path / str(turn), turn)


class Receiver(BaseHTTPRequestHandler):
    """Answers `status` (503 at first), and keeps all messages."""

    status = 503
    heard: ClassVar[list[tuple[int, dict[str, str], bytes]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.heard.append((type(self).status, {name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(type(self).status)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Quietly."""


@contextmanager
def receiving() -> Iterator[tuple[str, type[Receiver]]]:
    """A receiver on a free port; its address and what it hears."""
    kind = type("OwnReceiver", (Receiver,), {"heard": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/hook", kind
        finally:
            server.shutdown()
            thread.join()


def heard(receiver: type[Receiver], status: int, count: int) -> list[dict[str, Any]]:
    """Wait until the receiver answered so many messages so, and return them; each is signed."""
    for _ in polls():
        messages = [one for one in receiver.heard if one[0] == status]
        if len(messages) >= count:
            break
    assert len(messages) >= count, receiver.heard
    for _, headers, body in messages:
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        right = base64.b64encode(hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{right}"
        assert STARTED - 1 < int(headers["webhook-timestamp"]) < time.time() + 1
    return [json.loads(body) for _, _, body in messages]


def test_webhooks_of_the_settings_file_are_told_at_least_once(tmp_path: Path) -> None:
    """The receiver is ill, the server is killed; the next server tells it everything, under the same ids."""
    store = tmp_path / "towpath.db"
    execute = ("--execute", "--import", "tests.http.steps")
    with receiving() as (address, receiver):
        (tmp_path / "towpath.toml").write_text(
            f'[server]\nurl = "https://tow.example"\n[[server.webhooks]]\nurl = "{address}"\nsecret = "{SECRET}"\n'
        )
        with served(store, *execute) as (url, process):
            wait_for_cursor(store)
            run = httpx.post(f"{url}/api/v1/chains", json={"yaml": CHAIN}).json()["id"]
            until(url, run, "paused")
            (refused, *_) = heard(receiver, 503, 1)
            process.kill()
        assert [one for one in receiver.heard if one[0] == 200] == []
        receiver.status = 200
        with served(store, *execute) as (url, _):
            (wanted,) = heard(receiver, 200, 1)
            assert wanted == refused
            assert (wanted["type"], wanted["data"]["chain_id"]) == ("approval.requested", run)
            assert wanted["data"]["url"] == f"https://tow.example/approvals/{wanted['data']['approval']}"
            (gate,) = httpx.get(f"{url}/api/v1/approvals?status=pending").json()["rows"]
            assert gate["id"] == wanted["data"]["approval"]
            httpx.post(f"{url}/api/v1/approvals/{gate['id']}/approve", json={"seen": gate["artifact_ids"]})
            until(url, run, "completed")
            ended = heard(receiver, 200, 2)[1]
            assert (ended["type"], ended["data"]["status"]) == ("chain.ended", "completed")
    check(store)


def wait_for_cursor(store: Path) -> None:
    """Wait until the server has stored the receiver's cursor: later events are delivered."""
    for _ in polls():
        with sqlite3.connect(store) as database:
            if database.execute("SELECT count(*) FROM webhook_cursors").fetchone()[0]:
                return
    raise AssertionError("the server tells nobody")


def test_settings_that_are_wrong_are_told_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "towpath.toml").write_text("[server]\nhosts = 5\n")
    command = verb("serve", "--port", "0", "--store", str(tmp_path / "towpath.db"))
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 2
    assert "E_SETTING" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_of_a_killed_server_is_gone_on_with(tmp_path: Path) -> None:
    """It was working when it was killed; the next one takes over when the lease is over."""
    store = tmp_path / "towpath.db"
    slow = CHAIN.replace("requires_approval: true", "").replace("tests.http.steps:write", "tests.http.slow:slow")
    steps = ("--import", "tests.http.slow")
    marker = {"TOWTEST_SLOW": "60"}
    os.environ.update(marker)
    try:
        with served(store, "--execute", "--import", "tests.http.steps", *steps) as (url, process):
            run = httpx.post(f"{url}/api/v1/chains", json={"yaml": slow}).json()["id"]
            until(url, run, "running")
            process.kill()
    finally:
        del os.environ["TOWTEST_SLOW"]
    with served(store, "--execute", "--import", "tests.http.steps", *steps) as (url, _):
        until(url, run, "completed")
    check(store)


def test_nobody_is_let_in_from_elsewhere_without_a_key(tmp_path: Path) -> None:
    """It refuses to listen to the world before there is a key, and says what to do."""
    store = tmp_path / "towpath.db"
    command = verb("serve", "--host", "0.0.0.0", "--port", "0", "--store", str(store))
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 2
    assert "E_SERVE_KEYS" in done.stderr
    assert "towpath keys add" in done.stderr


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with served(tmp_path / "a.db") as (url, _):
        port = url.rpartition(":")[2]
        command = verb("serve", "--port", port, "--store", str(tmp_path / "b.db"))
        done = subprocess.run(
            command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False, timeout=PATIENCE
        )
    assert "E_SERVE_PORT" in done.stderr


def test_keys_are_shown_once(tmp_path: Path) -> None:
    """add prints the key alone on stdout; the store holds its digest; ls and revoke know names only."""
    store = tmp_path / "towpath.db"

    def keys(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = verb("keys", *arguments, "--store", str(store))
        return subprocess.run(
            command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False, timeout=PATIENCE
        )

    key = keys("add", "Ann", "--role", "approver").stdout.strip()
    assert key.startswith("tp_")
    assert len(key) >= 46
    assert "E_KEY_NAME" in keys("add", "Ann", "--role", "viewer").stderr
    assert "E_KEY_NAME" in keys("add", " ", "--role", "viewer").stderr
    listed = json.loads(keys("ls", "--json").stdout)
    assert [(row["name"], row["role"], row["revoked_at"]) for row in listed] == [("Ann", "approver", None)]
    assert all(key.encode() not in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    with served(store) as (url, _):
        header = {"Authorization": f"Bearer {key}"}
        assert httpx.get(f"{url}/api/v1/me").status_code == 401
        assert httpx.get(f"{url}/api/v1/me", headers=header).json()["name"] == "Ann"
        assert keys("revoke", "Ann").returncode == 0
        assert httpx.get(f"{url}/api/v1/me", headers=header).status_code == 401
    assert "E_KEY_MISSING" in keys("revoke", "Ann").stderr
