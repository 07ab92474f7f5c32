"""Files on their way from one ComfyUI server into the store and on to another, beside a plain copy loop.

    python -m benchmarks.transfers [--files N] [--size MB] [--large N] [--large-size MB] [--json FILE]

Every measurement is a fresh process with two fresh servers; systems take turns. What is compared is the ratio
of the medians. A megabyte is a million bytes; each file counts once, although it is moved in and out.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx

from tests.comfyui.server.contents import BEGINNINGS
from towpath import ChainStatus, open_engine
from towpath.chain_file import load_chain

from .copy_loop import copy_in_and_out
from .file_server import SOURCE, source_name
from .harness import ROOT, Clock, peak, print_machine

MB = 1_000_000
CHUNK = 1 << 20
TARGET = 0.7
AT_ONCE = 4  # files at a time in the bare HTTP loop, as many as a step of towpath has
FORM = "--x\r\nContent-Disposition: form-data; name={}\r\n\r\n"


@dataclass(frozen=True)
class Shape:
    """So many files of so many bytes, `group` of them in a prompt."""

    name: str
    files: int
    size: int
    group: int
    target: float | None

    @property
    def what(self) -> str:
        prompts = self.files // self.group
        return f"{self.files:,} files of {self.size / MB:g} MB, {prompts:,} x 2 prompts with {self.group} each"


@dataclass(frozen=True)
class Moved:
    """One measurement. Seconds, but for `fsyncs` (calls of os.fsync; SQLite's are not seen) and `memory` (bytes)."""

    wall: float
    cpu: float
    servers: float  # processor time of both servers
    fsyncs: int
    memory: int  # by which the peak of the process grew


class FileServer:
    """A process with a ComfyUI server that holds nobody up; `options` are those of its command line."""

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


# ---- files


def prepare(shape: Shape, folder: Path) -> list[str]:
    """Make the files that server `a` is going to save, all different, of random bytes; their digests."""
    source = folder / "output" / SOURCE
    source.mkdir(parents=True)
    digests = []
    for number in range(shape.files):
        seen, left, data = hashlib.sha256(), shape.size, BEGINNINGS["mp4"]
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
    return digests


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- what is measured


@dataclass(frozen=True)
class Setting:
    """What a system is given: the shape, the folder of server `a` with its files, an empty folder, both servers."""

    shape: Shape
    source: Path
    folder: Path
    servers: tuple[FileServer, ...] = ()

    @property
    def digests(self) -> list[str]:
        found: list[str] = json.loads((self.source / "digests.json").read_text())
        return found


async def run_towpath(setting: Setting, clock: Callable[[], None]) -> None:
    """A chain of two ComfyUI steps, mapped over the groups: save a group on `a`, give it to a node of `b`."""
    shape, folder, (a, b) = setting.shape, setting.folder, setting.servers
    (folder / "workflows").mkdir()
    names = {f"file_{i:04}": "" for i in range(shape.group)}
    make = {"class_type": "SaveMany", "inputs": {"first": 0, "count": shape.group, "filename_prefix": "frame"}}
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
    servers = [{"name": "a", "url": a.url}, {"name": "b", "url": b.url}]
    async with open_engine(folder / "towpath.db", servers=servers, workflows=folder / "workflows") as engine:
        described = load_chain(folder / "move.yaml")
        clock()
        run = await engine.run(described, firsts=list(range(0, shape.files, shape.group)))
        clock()
        assert run.status is ChainStatus.COMPLETED, (run.status, run.error)
        kept = [artifact.digest for item in run["make"].value for artifact in item["1"]["video"]]
        assert kept == setting.digests, "the store holds other files"


async def run_copy(setting: Setting, clock: Callable[[], None]) -> None:
    """The copy loop."""
    sources = [setting.source / "output" / SOURCE / source_name(i) for i in range(setting.shape.files)]
    clock()
    digests = copy_in_and_out(sources, setting.folder / "store", setting.folder / "b" / "input")
    clock()
    assert digests == setting.digests


async def run_http(setting: Setting, clock: Callable[[], None]) -> None:
    """httpx against the same servers and nothing else: bytes are thrown away, and others sent."""
    a, b = setting.servers
    data = os.urandom(CHUNK)
    waiting = iter(range(setting.shape.files))

    async def some() -> None:
        for number in waiting:
            await _downloaded(client, a.url, source_name(number))
            await _uploaded(client, b.url, f"{number}.mp4", data, setting.shape.size)

    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        clock()
        await asyncio.gather(*(some() for _ in range(AT_ONCE)))
        clock()


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


System = Callable[[Setting, Callable[[], None]], Coroutine[Any, Any, None]]
SYSTEMS: dict[str, System] = {"towpath": run_towpath, "copy loop": run_copy, "http alone": run_http}


def measure(system: str, shape: Shape, source: Path) -> Moved:
    """Measure in this process, in an empty folder that is removed afterwards."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=source.parent))
        places = () if system == "copy loop" else (source, Path(folder) / "b")
        servers = stack.enter_context(_running(places))
        setting = Setting(shape, source, Path(folder), servers)
        marks: list[tuple[float, float, float, int, int]] = []
        clock, fsyncs = Clock(), Fsyncs()

        def mark() -> None:
            marks.append((*clock.read(), sum(server.cpu() for server in servers), fsyncs.count, peak()))

        for file in (source / "output" / SOURCE).iterdir():
            _digest(file)  # nobody has to wait for a file that left the system's cache since it was made
        os.sync()  # nor for what others have written
        asyncio.run(SYSTEMS[system](setting, mark))
        _check(system, setting)
        before, after = marks
        wall, cpu, used, synced, memory = (end - start for start, end in zip(before, after, strict=True))
        return Moved(wall, cpu, used, int(synced), int(memory))


@contextmanager
def _running(folders: Sequence[Path]) -> Iterator[tuple[FileServer, ...]]:
    with ExitStack() as stack:
        servers: tuple[FileServer, ...] = ()
        for folder in folders:
            stack.callback(_tidy, folder / "output")
            servers = (*servers, FileServer(folder))
            stack.callback(servers[-1].stop)
        yield servers


def _tidy(output: Path) -> None:
    """Remove what was saved there, and leave what was prepared."""
    for made in output.glob("*"):
        if made.name != SOURCE:
            shutil.rmtree(made)


def _check(system: str, setting: Setting) -> None:
    """Every file came through whole."""
    got = [path for path in (setting.folder / "b" / "input").rglob("*") if path.is_file()]
    assert len(got) == setting.shape.files
    if system != "http alone":
        assert sorted(map(_digest, got)) == sorted(setting.digests), "server b got other files"


# ---- fresh processes


def take(shape: Shape, repetitions: int) -> dict[str, list[Moved]]:
    """All measurements of a shape, the systems taking turns."""
    taken: dict[str, list[Moved]] = {system: [] for system in SYSTEMS}
    with tempfile.TemporaryDirectory(prefix="towpath-bench-", dir=os.environ.get("BENCH_DIR")) as folder:
        source = Path(folder) / "a"
        prepare(shape, source)
        for repetition in range(repetitions):
            for system in sorted(SYSTEMS, reverse=repetition % 2 == 0):
                given = json.dumps([system, asdict(shape), str(source)])
                command = [sys.executable, "-m", "benchmarks.transfers", "--one", given]
                done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
                taken[system].append(Moved(**json.loads(done.stdout)))
    return taken


def row(shape: Shape, taken: dict[str, list[Moved]]) -> dict[str, Any]:
    """The medians of a shape, and the ratio."""
    total = shape.files * shape.size / MB
    systems = {}
    for system, found in taken.items():
        middle = {key: statistics.median(getattr(one, key) for one in found) for key in Moved.__annotations__}
        walls = sorted(one.wall for one in found)
        systems[system] = {"rate": total / middle["wall"], "spread": walls[-1] / walls[0], **middle}
    ratio = systems["towpath"]["rate"] / systems["copy loop"]["rate"]
    return {**asdict(shape), "what": shape.what, "systems": systems, "ratio": ratio}


def show(found: dict[str, Any]) -> None:
    """A shape for people."""
    target = f", target {found['target']:g}" if found["target"] else ""
    print(f"{found['name']}: {found['what']}\n  towpath to copy loop {found['ratio']:.2f}{target}")
    heads = ("MB/s", "seconds", "cpu s", "servers", "fsyncs", "MiB", "spread")
    print(f"  {'':<11}" + "".join(f"{head:>9}" for head in heads))
    for system, one in found["systems"].items():
        numbers = f"{one['rate']:>9,.0f}{one['wall']:>9.2f}{one['cpu']:>9.2f}{one['servers']:>9.2f}"
        print(f"  {system:<11}{numbers}{one['fsyncs']:>9,.0f}{one['memory'] / 2**20:>9.0f}{one['spread']:>8.2f}x")
    print(flush=True)


def main() -> None:
    """Parse arguments, measure, print; with `--one`, be one of the fresh processes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--files", type=int, default=1000, help="how many small files")
    parser.add_argument("--size", type=float, default=1, metavar="MB")
    parser.add_argument("--group", type=int, default=50, help="small files in a prompt; divides --files")
    parser.add_argument("--single", type=int, default=100, help="small files with a prompt each")
    parser.add_argument("--large", type=int, default=4, help="how many large files, with a prompt each")
    parser.add_argument("--large-size", type=float, default=500, metavar="MB")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        system, shape, source = json.loads(given.one)
        print(json.dumps(asdict(measure(system, Shape(**shape), Path(source)))))
        return
    if given.files % given.group:
        parser.error(f"{given.files} files are no whole number of groups of {given.group}")
    small, large = int(given.size * MB), int(given.large_size * MB)
    shapes = [
        Shape("small", given.files, small, given.group, TARGET),
        Shape("large", given.large, large, 1, TARGET),
        Shape("single", given.single, small, 1, None),
    ]
    machine, rows = print_machine(), []
    for shape in shapes:
        if shape.files:
            rows.append(row(shape, take(shape, given.repetitions)))
            show(rows[-1])
    if given.json:
        given.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
