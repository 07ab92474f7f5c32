"""Transfers are measured, and its server answers as the stand-in does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.file_server import SOURCE
from benchmarks.measuring import Plan, measure
from benchmarks.results import row_of
from benchmarks.shapes import WORKLOADS
from benchmarks.systems import systems_for
from benchmarks.transfers import FileServer

SIZES = {"small": 4, "large": 3, "single": 2}


@pytest.mark.parametrize("name", list(SIZES))
def test_transfers_are_measured(tmp_path: Path, name: str) -> None:
    """Every shape is moved by every system and checked; towpath and the copy loop make each file durable."""
    plan = Plan((WORKLOADS[name].sized(SIZES[name]),), lambda _: systems_for(name, frozenset()), 1, tmp_path)
    (taken,) = measure(plan, lambda *_: None)
    rows = {one.system.name: row_of(one) for one in taken}
    assert set(rows) == {"towpath", "copy loop", "http alone"}
    assert all(row["value"] and row["value"] > 0 and row["unit"] == "MB/s" for row in rows.values())
    fsyncs = {system: row["extra"]["fsyncs"] for system, row in rows.items()}
    assert min(fsyncs["towpath"], fsyncs["copy loop"]) >= rows["towpath"]["steps"]
    assert fsyncs["http alone"] == 0
    assert not list(tmp_path.iterdir()), "files are left behind"


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
