"""The benchmark of transfers runs, and its server answers as the stand-in does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.file_server import SOURCE
from benchmarks.transfers import FileServer

ROOT = Path(__file__).resolve().parent.parent
SIZES = ("--files", "4", "--group", "2", "--size", "0.05", "--single", "2", "--large", "1", "--large-size", "2.5")


def test_transfers_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every shape is moved by every system, checked, and synced as often by the copy loop as by the store."""
    monkeypatch.setenv("BENCH_DIR", str(tmp_path))
    found = tmp_path / "found.json"
    command = [sys.executable, "-m", "benchmarks.transfers", *SIZES, "--repetitions", "1", "--json", str(found)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(found.read_text())["rows"]
    assert [(row["name"], row["files"]) for row in rows] == [("small", 4), ("large", 1), ("single", 2)]
    for row in rows:
        towpath, loop, http = (row["systems"][name] for name in ("towpath", "copy loop", "http alone"))
        assert row["ratio"] == pytest.approx(towpath["rate"] / loop["rate"])
        assert min(towpath["rate"], loop["rate"], http["rate"]) > 0
        # Making the store takes one more; files that come at the same time may each sync a new folder above them.
        assert 0 <= towpath["fsyncs"] - loop["fsyncs"] <= 1 + row["files"]
        assert f"{row['name']}: " in done.stdout
    assert not list(tmp_path.glob("towpath-bench-*")), "files are left behind"


def test_groups_are_whole() -> None:
    """A number of files that cannot be grouped is refused before anything starts."""
    command = [sys.executable, "-m", "benchmarks.transfers", "--files", "10", "--group", "4"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "groups of 4" in done.stderr


@contextmanager
def client_of(folder: Path, *options: str) -> Iterator[httpx.Client]:
    """A client of a server with two files, one of them larger than any buffer."""
    source = folder / "output" / SOURCE
    source.mkdir(parents=True)
    (source / "00000.mp4").write_bytes(bytes(range(256)) * 4)
    (source / "00001.mp4").write_bytes(b"large" * 1_000_000)
    server = FileServer(folder, *options)
    try:
        with httpx.Client(base_url=server.url, trust_env=False, timeout=30) as client:
            yield client
    finally:
        server.stop()


def answers(client: httpx.Client) -> list[tuple[Any, ...]]:
    """Everything that may be asked about files over one connection, with other requests between."""

    def view(name: str, method: str = "GET", **headers: str) -> tuple[Any, ...]:
        query = {"filename": name, "subfolder": SOURCE, "type": "output"}
        answer = client.request(method, "/view", params=query, headers=headers)
        return answer.status_code, answer.headers.get("content-type"), answer.headers["content-length"], answer.content

    def upload(name: str, data: bytes, **fields: str) -> tuple[Any, ...]:
        answer = client.post("/upload/image", data=fields, files={"image": (name, data)})
        return answer.status_code, answer.json() if answer.status_code == 200 else None

    return [
        view("00001.mp4"),
        (client.get("/prompt").json(),),
        view("00000.mp4"),
        view("00000.mp4", "HEAD"),
        view("00000.mp4", range="bytes=10-19"),
        upload("a.mp4", b"first", subfolder="below/it", type="input"),
        upload("a.mp4", b"first", subfolder="below/it", type="input"),
        upload("a.mp4", b"other", subfolder="below/it", type="input"),
        upload("b.mp4", b"\r\n--x" * 500_000),
        upload("c.mp4", b"", type="temp"),
        upload("d.mp4", b"x", subfolder="../../out")[:1],
        view("missing.mp4")[:1],
        view("../00000.mp4")[:1],
        (client.get("/features").json()["max_upload_size"],),
        view("00001.mp4"),
    ]


def kept(folder: Path) -> dict[str, bytes]:
    """The files that were uploaded."""
    found = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    return {str(path): (folder / path).read_bytes() for path in found if path.parts[0] in ("input", "temp")}


def test_fast_file_routes_answer_as_the_stand_in(tmp_path: Path) -> None:
    """Same statuses, types, bytes and names, and the same files on disk."""
    with client_of(tmp_path / "fast") as fast, client_of(tmp_path / "slow", "--stand-in") as slow:
        told = answers(fast)
        assert told == answers(slow)
        assert [answer[0] for answer in told[5:12]] == [200] * 5 + [400] + [404]
        assert kept(tmp_path / "fast") == kept(tmp_path / "slow")
