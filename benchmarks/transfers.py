"""Files on their way from one ComfyUI server into the store and on to another: `python -m benchmarks.transfers ORDER`.

The mode says who moves them: `towpath`, the `copy loop`, or `http alone`, which is what the transport costs. A megabyte
is a million bytes; each file counts once, although it is moved in and out. The order's `place` holds the files.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx

from tests.comfyui.server.contents import BEGINNINGS
from towpath import ChainStatus, open_engine
from towpath.chain_file import load_chain

from .copy_loop import copy_in_and_out
from .file_server import SOURCE, source_name
from .process import Order, System, WrongOutcome, answer
from .shapes import WORKLOADS, Workload

ROOT = Path(__file__).resolve().parent.parent
CHUNK = 1 << 20
GROUP = 50  # small files in a prompt
AT_ONCE = 4  # files at a time in the bare HTTP loop, as many as a step of towpath has
FORM = "--x\r\nContent-Disposition: form-data; name={}\r\n\r\n"


class FileServer:
    """A process with a fast ComfyUI server; `options` are those of its command line."""

    def __init__(self, folder: Path, *options: str) -> None:
        command = [sys.executable, "-m", "benchmarks.file_server", "--folder", str(folder), *options]
        self.folder = folder
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        assert self.url, "the server does not start"

    def cpu(self) -> float:
        """Processor seconds so far; 0 where the system does not tell."""
        place = Path(f"/proc/{self._process.pid}/stat")
        if not place.exists():
            return 0.0
        user, system = place.read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


class Fsyncs:
    """Counts the calls of os.fsync in this process."""

    def __init__(self) -> None:
        self.count = 0
        self._fsync = os.fsync
        os.fsync = self._counted

    def _counted(self, fd: Any) -> None:
        self.count += 1
        self._fsync(fd)


def prepare(workload: Workload, folder: Path) -> None:
    """Make the files that server `a` is going to save, all different, of random bytes."""
    source = folder / "output" / SOURCE
    source.mkdir(parents=True)
    digests = []
    for number in range(workload.steps):
        seen, left, data = hashlib.sha256(), workload.file_size, BEGINNINGS["mp4"]
        with open(source / source_name(number), "wb") as file:
            while left:
                data = (data + os.urandom(min(left, CHUNK)))[:left]
                left -= file.write(data)
                seen.update(data)
                data = b""
            file.flush()
            os.fsync(file.fileno())
        digests.append(seen.hexdigest())
    (folder / "digests.json").write_text(json.dumps(digests))


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _group(workload: Workload) -> int:
    """How many files are in a prompt: frames come in batches, videos one by one."""
    return math.gcd(GROUP, workload.steps) if workload.name == "small" else 1


class _Transfer(System):
    """Moves the prepared files; `run` of a subclass does it."""

    warms = False
    serves = False

    def __init__(self, order: Order) -> None:
        super().__init__(order)
        self.source = Path(order.place)
        self.digests: list[str] = json.loads((self.source / "digests.json").read_text())
        self.fsyncs = Fsyncs()
        self.servers: tuple[FileServer, ...] = ()

    async def open(self) -> None:
        for file in (self.source / "output" / SOURCE).iterdir():
            _digest(file)  # read once, so that no file must come from the disk while the clock runs
        os.sync()  # else a measured fsync would wait for the writes of others

    async def after(self, workload: Workload) -> None:
        self.extra["fsyncs"] = self.fsyncs.count
        got = [path for path in (self.folder / "b" / "input").rglob("*") if path.is_file()]
        whole = sorted(map(_digest, got)) == sorted(self.digests)
        if len(got) != workload.steps or not (whole or isinstance(self, HttpAlone)):
            raise WrongOutcome("server b got other files")


class CopyLoop(_Transfer):
    """The simplest program that keeps files as safely."""

    async def run(self, workload: Workload) -> int:
        sources = [self.source / "output" / SOURCE / source_name(i) for i in range(workload.steps)]
        found = copy_in_and_out(sources, self.folder / "store", self.folder / "b" / "input")
        return len(found) if found == self.digests else 0


class _Served(_Transfer):
    """Moves the files between two servers."""

    async def open(self) -> None:
        await super().open()
        self.servers = (FileServer(self.source), FileServer(self.folder / "b"))
        self._used = sum(server.cpu() for server in self.servers)

    async def after(self, workload: Workload) -> None:
        self.extra["servers"] = sum(server.cpu() for server in self.servers) - self._used
        await super().after(workload)

    async def close(self) -> None:
        for server in self.servers:
            server.stop()
        for made in (self.source / "output").glob("*"):  # remove what was saved, and leave what was prepared
            if made.name != SOURCE:
                shutil.rmtree(made)


class Towpath(_Served):
    """A chain of two ComfyUI steps, mapped over the groups: save a group on `a`, give it to a node of `b`."""

    async def open(self) -> None:
        await super().open()
        _write_chain(self.folder, _group(self.order.what))
        servers = [{"name": name, "url": server.url} for name, server in zip("ab", self.servers, strict=True)]
        database, workflows = self.folder / "towpath.db", self.folder / "workflows"
        self._entered = open_engine(database, servers=servers, workflows=workflows)
        self._engine = await self._entered.__aenter__()

    async def run(self, workload: Workload) -> int:
        described = load_chain(self.folder / "move.yaml")
        self._run = await self._engine.run(described, firsts=list(range(0, workload.steps, _group(workload))))
        return workload.steps

    async def after(self, workload: Workload) -> None:
        await super().after(workload)
        if self._run.status is not ChainStatus.COMPLETED:
            raise WrongOutcome(f"{self._run.status}: {self._run.error}")
        kept = [artifact.digest for item in self._run["make"].value for artifact in item["1"]["video"]]
        if kept != self.digests:
            raise WrongOutcome("the store holds other files")

    async def close(self) -> None:
        await self._entered.__aexit__(None, None, None)
        await super().close()


def _write_chain(folder: Path, group: int) -> None:
    """The chain and its two workflows."""
    (folder / "workflows").mkdir()
    names = {f"file_{i:04}": "" for i in range(group)}
    make = {"class_type": "SaveMany", "inputs": {"first": 0, "count": group, "filename_prefix": "frame"}}
    for name, node in (("make", make), ("take", {"class_type": "TakeMany", "inputs": names})):
        (folder / "workflows" / f"{name}.json").write_text(json.dumps({"1": node}))
    parameters = {f"1.{name}": f"{{{{ item['1'].video[{i}] }}}}" for i, name in enumerate(names)}
    first: dict[str, Any] = {"id": "make", "workflow": "make", "server": "a", "foreach": "{{ inputs.firsts }}"}
    then: dict[str, Any] = {"id": "take", "workflow": "take", "server": "b", "foreach": "{{ make.output }}"}
    steps = [
        {**first, "parameters": {"1.first": "{{ item }}"}},
        {**then, "depends_on": ["make"], "parameters": parameters},
    ]
    chain = {"name": "move", "inputs": {"firsts": {"type": "json"}}, "steps": steps}
    (folder / "move.yaml").write_text(json.dumps(chain))  # JSON is YAML


class HttpAlone(_Served):
    """httpx against the same servers and nothing else: bytes are thrown away, and others sent."""

    async def run(self, workload: Workload) -> int:
        a, b = self.servers
        data = os.urandom(CHUNK)
        waiting = iter(range(workload.steps))

        async def some() -> int:
            moved = 0
            for number in waiting:
                await _downloaded(client, a.url, source_name(number))
                await _uploaded(client, b.url, f"{number}.mp4", data, workload.file_size)
                moved += 1
            return moved

        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            return sum(await asyncio.gather(*(some() for _ in range(AT_ONCE))))


async def _downloaded(client: httpx.AsyncClient, url: str, name: str) -> None:
    query = urlencode({"filename": name, "subfolder": SOURCE, "type": "output"})
    async with client.stream("GET", f"{url}/view?{query}") as response:
        assert response.status_code == 200
        async for _ in response.aiter_raw():
            pass


async def _uploaded(client: httpx.AsyncClient, url: str, name: str, data: bytes, size: int) -> None:
    words = f'"image"; filename="{name}"'
    head, tail = FORM.format(words).encode(), b"\r\n--x--\r\n"

    async def body() -> AsyncIterator[bytes]:
        yield head
        for left in range(size, 0, -CHUNK):
            yield data if left >= CHUNK else data[:left]
        yield tail

    kind, length = "multipart/form-data; boundary=x", str(len(head) + size + len(tail))
    headers = {"Content-Type": kind, "Content-Length": length}
    answer = await client.post(f"{url}/upload/image", content=body(), headers=headers)
    assert answer.json()["name"] == name


KINDS: dict[str, type[_Transfer]] = {"": Towpath, "copy loop": CopyLoop, "http alone": HttpAlone}


def _made(order: Order) -> System:
    return KINDS[order.mode](order)


if __name__ == "__main__":
    if sys.argv[1] == "prepare":
        name, size, folder = sys.argv[2:]
        prepare(WORKLOADS[name].sized(int(size)), Path(folder))
    else:
        answer(_made)
