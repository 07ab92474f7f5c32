"""How fast the pages open: a run of 1,000 steps, and a gallery of 5,000 files, in a real browser.

    python -m benchmarks.pages [--repetitions N]

Printed is the median and the slowest of several openings with an empty cache, from the click to the `load`
event (everything is there and laid out), the time until something is seen, and how large the page is. With no
Chromium or playwright the time of the server alone is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import socket
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from towpath import Chain, File, chain, open_engine, step
from towpath.adapters.http.application import create_app
from towpath.adapters.http.settings import HttpSettings

from .chains import as_chain
from .shapes import Graph, fan, layers, line

STEPS = 1_000
FILES = 5_000
TARGET = 1.0  # seconds
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@step
def numbers(n: int) -> list[int]:
    return list(range(n))


@step
def note(n: int) -> File:
    return File(f"file {n}\n".encode(), filename=f"file-{n:05}.txt")


@chain
def notes(n: int) -> Any:
    """Many small files."""
    return note.map(numbers(n))


def shapes() -> dict[str, Chain[..., Any]]:
    """Runs of 1,000 steps, as different as they get."""
    graphs: dict[str, Graph] = {
        "a line of 1,000": line(STEPS),
        "1 to 998 to 1": fan(STEPS - 2),
        "25 levels of 40, three dependencies each": layers(40, 25),
    }
    return {name: as_chain(graph) for name, graph in graphs.items()}


class Server:
    """The pages over a store with these runs in it, in a thread of its own."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._ready = threading.Event()
        self._stop: Any = None
        self.url = ""
        self.pages: dict[str, str] = {}

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        async with open_engine(f"sqlite:///{self._store}", durability="normal") as engine:
            for name, made in shapes().items():
                self.pages[f"run page, {name}"] = f"/runs/{(await engine.run(made)).id}"
            run = await engine.run(notes, n=FILES)
            self.pages[f"run page, {FILES:,} items"] = f"/runs/{run.id}"
            self.pages[f"step page, {FILES:,} items"] = f"/runs/{run.id}/steps/note"
            self.pages[f"gallery of {FILES:,} files"] = f"/runs/{run.id}/artifacts"
            self.pages["all files"] = "/artifacts"
            listener = socket.create_server(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            server = uvicorn.Server(uvicorn.Config(create_app(engine, HttpSettings()), log_level="error"))
            self._stop = server
            self._ready.set()
            await server.serve([listener])

    @contextmanager
    def serving(self) -> Iterator[Server]:
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            while not self._ready.wait(0.1):
                assert thread.is_alive(), "the server did not start"
            yield self
        finally:
            if self._stop is not None:
                self._stop.should_exit = True
            thread.join()


def in_browser(server: Server, repetitions: int) -> None:
    """Open every page several times, each time in a browser that has seen nothing."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, BROWSERS)))
    read = """() => { const n = performance.getEntriesByType('navigation')[0];
        const p = performance.getEntriesByName('first-contentful-paint')[0];
        return [n.loadEventEnd, p ? p.startTime : 0, n.responseEnd, n.decodedBodySize,
                document.querySelectorAll('*').length]; }"""
    print(f"{'':<50}{'open s':>8}{'slowest':>9}{'seen s':>8}{'server s':>10}{'KiB':>7}{'elements':>10}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for name, path in server.pages.items():
            taken = []
            for _ in range(repetitions):
                context = browser.new_context()
                page = context.new_page()
                page.goto(server.url + path, wait_until="load")
                page.wait_for_timeout(100)
                taken.append(page.evaluate(read))
                context.close()
            opened, seen, served, size, elements = (list(column) for column in zip(*taken, strict=True))
            middle = statistics.median(opened) / 1000
            print(
                f"{name:<50}{middle:>8.3f}{max(opened) / 1000:>9.3f}{statistics.median(seen) / 1000:>8.3f}"
                f"{statistics.median(served) / 1000:>10.3f}{size[0] / 1024:>7.0f}{elements[0]:>10,}"
                f"{'' if middle < TARGET else '  MISSED'}"
            )
        browser.close()
    print(f"target: under {TARGET:g} s")


def without_browser(server: Server, repetitions: int) -> None:
    """Only how long the server takes."""
    print("no Chromium or playwright here: the time of the server alone")
    for name, path in server.pages.items():
        taken = []
        for _ in range(repetitions):
            started = time.perf_counter()
            with urllib.request.urlopen(server.url + path) as answer:
                size = len(answer.read())
            taken.append(time.perf_counter() - started)
        print(f"{name:<50}{statistics.median(taken):>8.3f} s{size / 1024:>8.0f} KiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=7)
    asked = parser.parse_args()
    try:
        import playwright.sync_api  # noqa: F401

        measure = in_browser if any(map(shutil.which, BROWSERS)) else without_browser
    except ImportError:
        measure = without_browser
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder, "towpath.db")).serving() as server:
        measure(server, asked.repetitions)


if __name__ == "__main__":
    main()
