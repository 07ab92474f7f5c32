"""`towpath bench` with tiny sizes: what it measures, says, saves, compares and draws."""

from __future__ import annotations

import asyncio
import copy
import io
import json
import os
import pickle
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks import baseline, picture, targets, terminal
from benchmarks.ceilings import BareAsyncio, CopyLoop, OneRow, SameRows
from benchmarks.chains import chain_of
from benchmarks.measuring import Failed, Plan, Taken
from benchmarks.measuring import measure as measure_all
from benchmarks.process import Measured, Order, System, WrongOutcome, measure
from benchmarks.recording import RECORDING
from benchmarks.results import Results, ratios, row_of
from benchmarks.shapes import WORKLOADS, Graph, Workload, evaluate, outcome
from benchmarks.systems import CEILINGS, MAPPED, PEERS, TOWPATH, Kind
from benchmarks.systems import System as Entrant
from benchmarks.towpath_run import Towpath

ROOT = Path(__file__).resolve().parent.parent
SIZES = {"W1": 4, "W6": 3, "W7": 2}
SMALL = {"W1": 4, "W2": 5, "W3": 3, "W4": 3, "W5": 2, "uneven": 2, "W7": 2, "items1": 4, "items100": 1_200, "static": 6}


def bench(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a checkout, with a cache of its own."""
    command = [sys.executable, "-m", "benchmarks", *arguments]
    variables = {**os.environ, "TOWPATH_BENCH_CACHE": str(folder / "cache"), "NO_COLOR": "1"}
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)


class _Page(HTMLParser):
    """What a page consists of."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_command(tmp_path: Path) -> None:
    """A few workloads once, without peers: what is measured, said, saved, drawn and compared."""
    (tmp_path / "files").mkdir()
    sizes = [text for name, size in SIZES.items() for text in ("--size", f"{name}={size}")]
    options = ["--repeats", "1", "--peers", "none", "--folder", str(tmp_path / "files"), "--json", "--check"]
    options += ["--save", str(tmp_path / "saved.json"), "--picture", str(tmp_path / "page.html")]
    done = bench(tmp_path, *SIZES, *sizes, *options)
    assert done.returncode in (0, 1), done.stderr  # whether targets are met at such sizes means nothing
    assert not list((tmp_path / "files").iterdir()), "files are left behind"
    told = json.loads(done.stdout)
    _every_system_is_measured(told["rows"])
    _targets_are_told(told["targets"])
    _the_picture_stands_alone((tmp_path / "page.html").read_text(), told["rows"])
    _a_fall_is_told(tmp_path)


def test_a_table_fits_into_80_columns() -> None:
    """Figures are never cut; why there is none stands below."""
    workload = WORKLOADS["uneven"]
    ran = Measured(
        wall=0.0001234,
        cpu=0.5,
        memory=1 << 31,
        disk=1 << 30,
        extra={"commits": 9_000.0, "wait_p50": 1.0, "wait_p99": 2.0},
    )
    missing = "not installed: there is no network here, and nothing in the cache of environments"
    taken = [Taken(workload, TOWPATH, [ran]), Taken(workload, PEERS[0], missing=missing)]
    written = io.StringIO()
    console = Console(width=80, file=written)
    terminal.show_workload(console, [row_of(one) for one in taken])
    told = written.getvalue()
    assert "…" not in told
    assert "spread  runs" in told
    assert f"{PEERS[0].name}: not installed" in told
    assert all(len(line.rstrip()) <= 80 for line in told.splitlines())


def _every_system_is_measured(rows: list[dict[str, Any]]) -> None:
    wanted = {(name, TOWPATH.name) for name in SIZES}
    wanted |= {(name, system.name) for system in CEILINGS for name in system.workloads & set(SIZES)}
    assert {(row["workload"], row["system"]) for row in rows} == wanted
    for row in rows:
        assert row["missing"] == "", row
        assert row["value"] > 0 and row["wall"] > 0 and row["runs"] == 1 and row["keeps"]
        assert row["memory"] > 2**20
    # The ceiling counts its rows itself. That it commits as often tells that the recording is whole.
    commits = {row["system"]: row["extra"].get("commits", 0) for row in rows if row["workload"] == "W1"}
    assert abs(commits["same rows"] - commits[TOWPATH.name]) <= 1


def _targets_are_told(told: list[dict[str, Any]]) -> None:
    assert {one["workload"] for one in told} == {"W1", "W6", "W7"}
    without = [one for one in told if "peer" in one["what"]]
    assert without and all(one["met"] is None and one["figure"] is None for one in without)
    assert next(one for one in told if one["workload"] == "W7")["figure"] > 0


def _the_picture_stands_alone(text: str, rows: list[dict[str, Any]]) -> None:
    """One page with a drawing for each workload, that asks nobody for anything."""
    page = _Page()
    page.feed(text)
    assert page.tags.count("section") == len({row["workload"] for row in rows}) + 2
    assert not page.links and not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not re.search(r"https?://|url\(|@import", text)
    assert "prefers-color-scheme: dark" in text
    for row in rows:
        assert row["system"] in page.text


def _a_fall_is_told(folder: Path) -> None:
    """The saved results are made better than anything: the next ones have fallen, which ends with 1."""
    better = baseline.load(folder / "saved.json")
    for row in better["rows"]:
        row["wall"] /= 1000 if row["system"] == TOWPATH.name else 1
    baseline.save(better, folder / "better.json")
    options = ("--repeats", "1", "--peers", "none", "--baseline", str(folder / "better.json"))
    done = bench(folder, "W6", *options)
    assert done.returncode == 1, done.stderr
    assert "of 2 ratios fell by more than 20 %" in done.stdout  # noise may make the other one fall too
    assert "W6: towpath to bare asyncio, time" in done.stdout


def measured_here(folder: Path, name: str, kind: type[System], mode: str = "", place: Path | None = None) -> Measured:
    """A measured process, without the process."""
    folder.mkdir(exist_ok=True)
    order = Order(name, SMALL[name], str(folder), mode, str(place or ""))
    return asyncio.run(measure(kind(order), order))


@pytest.mark.parametrize("name", list(SMALL))
def test_towpath_comes_to_what_the_workload_comes_to(tmp_path: Path, name: str) -> None:
    """Values and rows are checked inside; here is what only some workloads tell."""
    found = measured_here(tmp_path, name, Towpath)
    assert found.wall > 0 and found.cpu > 0 and found.disk > 0 and found.extra["commits"] > 0
    assert ("wait_p50" in found.extra) == (name in ("W1", "W3"))
    assert 0 <= found.extra.get("wait_p50", 0) <= found.extra.get("wait_p99", 0)
    assert ("standstill" in found.extra) == (name == "items100")
    assert ("compile_cpu" in found.extra) == ("largest" in found.extra) == (name == "static")
    assert found.extra.get("largest", SMALL["static"]) >= SMALL["static"]


@pytest.mark.parametrize(("name", "mode"), [("W2", "map"), ("W3", "levels"), ("uneven", "levels")])
def test_towpath_in_other_modes(tmp_path: Path, name: str, mode: str) -> None:
    assert measured_here(tmp_path, name, Towpath, mode).wall > 0


@pytest.mark.parametrize(("mode", "name"), [("", "W4"), ("map", "W2")])
def test_the_same_rows_come_of_the_same_statements(
    tmp_path: Path, mode: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recording is replayed, and the rows of every table are counted."""
    monkeypatch.setattr(sqlite3, "connect", sqlite3.connect)
    recorded = measured_here(tmp_path / "recorded", name, Towpath, f"record {mode}", tmp_path)
    monkeypatch.undo()
    replayed = measured_here(tmp_path / "replayed", name, SameRows, place=tmp_path)
    assert abs(replayed.extra["commits"] - recorded.extra["commits"]) <= 1
    assert recorded.extra["statements"] > WORKLOADS[name].sized(SMALL[name]).steps
    kept = pickle.loads((tmp_path / RECORDING).read_bytes())
    kept.rows["workflows"] += 1
    (tmp_path / RECORDING).write_bytes(pickle.dumps(kept))
    with pytest.raises(WrongOutcome, match="other rows"):
        measured_here(tmp_path / "again", name, SameRows, place=tmp_path)


@pytest.mark.parametrize("name", ["W1", "W2", "W3", "W4", "W5", "uneven"])
@pytest.mark.parametrize("kind", [BareAsyncio, OneRow])
def test_ceilings_come_to_what_the_workload_comes_to(tmp_path: Path, kind: type[System], name: str) -> None:
    assert measured_here(tmp_path, name, kind).wall > 0


def test_the_copy_loop_keeps_the_files(tmp_path: Path) -> None:
    assert measured_here(tmp_path, "W7", CopyLoop).disk >= SMALL["W7"] * 2**20


def test_what_fell_since_a_baseline() -> None:
    """Ratios are compared, so a slower machine is no fall, and a slower towpath is one, by as much."""
    rows = _made_up({"towpath": 0.1, "same rows": 0.05, "Burr": 0.2}, "W3")
    before = Results(format=1, towpath="0", machine={}, quick=False, repeats=1, rows=rows)
    slower_machine, slower_towpath = copy.deepcopy(before), copy.deepcopy(before)
    for row in slower_machine["rows"]:
        row["wall"] *= 3
        row["cpu"] *= 3
    slower_towpath["rows"][0]["wall"] *= 2
    assert baseline.fallen(baseline.compare(before, slower_machine), 0.01) == []
    lost = baseline.fallen(baseline.compare(before, slower_towpath), 0.2)
    assert {change.name for change in lost} == {f"W3: towpath to {name}, time" for name in ("same rows", "Burr")}
    assert [round(change.by, 3) for change in lost] == [-0.5] * 2
    for row in slower_towpath["rows"]:
        row["size"] += 1
    assert baseline.compare(before, slower_towpath) == []


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("W1", "--peers", "nobody"), "E_BENCH_OPTION"),
        (("W99",), "E_BENCH_OPTION"),
        (("--size", "W1=few"), "E_BENCH_OPTION"),
        (("--against", "no-such-commit"), "E_BENCH_OPTION"),
        (("--baseline", "pyproject.toml"), "E_BENCH_BASELINE"),
        (("--baseline", "no-such-file"), "E_BENCH_BASELINE"),
        (("--save", "no-such-folder/file.json"), "E_BENCH_OPTION"),
        (("--save", "tests"), "E_BENCH_OPTION"),
        (("--picture", "no-such-folder/page.html"), "E_BENCH_OPTION"),
        (("--tolerance", "nan"), "E_BENCH_OPTION"),
        (("--tolerance", "-1"), "E_BENCH_OPTION"),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(tmp_path: Path, arguments: tuple[str, ...], code: str) -> None:
    done = bench(tmp_path, *arguments, "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["errors"][0]["code"] == code


@pytest.mark.parametrize("change", [{"wall": 0}, {"wall": float("nan")}, {"cpu": "much"}, None])
def test_rows_that_cannot_be_compared_are_no_baseline(tmp_path: Path, change: dict[str, Any] | None) -> None:
    """Found before anything is measured, not after."""
    path, rows = tmp_path / "saved.json", _made_up({"towpath": 0.1, "Burr": 0.2}, "W3")
    path.write_text(json.dumps({"format": 1, "rows": rows}))
    baseline.load(path)
    rows[0] = {} if change is None else {**rows[0], **change}
    path.write_text(json.dumps({"format": 1, "rows": rows}))
    with pytest.raises(baseline.NotABaseline):
        baseline.load(path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_what_is_measured_too(tmp_path: Path, number: signal.Signals) -> None:
    """No process and no file is left, as after Ctrl-C."""
    arguments = ["items100", "--size", "items100=90000", "--peers", "none", "--folder", str(tmp_path)]
    # Under `nohup` the tests ignore SIGHUP, and so would their children.
    default = "import runpy, signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)"
    start = f"{default}; runpy.run_module('benchmarks', None, '__main__', True)"
    command = [sys.executable, "-c", start, *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not (found := list(tmp_path.glob("*/*/*.db"))) and process.poll() is None:
            time.sleep(0.05)
        assert found, "it measures"
        process.send_signal(number)
        assert process.wait(120) == 128 + number
    assert not list(tmp_path.iterdir())
    for listed in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            assert str(tmp_path) not in listed.read_text()


def test_without_the_repository_it_says_where_the_benchmarks_are(tmp_path: Path) -> None:
    """As from a wheel: the package is a copy, and the current folder is not in a checkout."""
    from towpath.adapters.cli import bench as verb

    program = "import runpy, sys; sys.argv = ['towpath', 'bench', '--list', '--json']; runpy.run_module('towpath')"
    hidden = f"import {verb.__name__} as verb; verb._MARK = verb.Path('nowhere', 'at', 'all'); {program}"
    done = subprocess.run([sys.executable, "-c", hidden], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert json.loads(done.stdout)["errors"][0]["code"] == "E_BENCH_MISSING"


def test_a_peer_that_cannot_be_installed_is_a_row_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache cannot be written; without a network it is pip that says why."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("TOWPATH_BENCH_CACHE", str(tmp_path / "file" / "cache"))
    plan = Plan((WORKLOADS["W1"].sized(3),), lambda _: [PEERS[0], CEILINGS[0]], repeats=1, folder=tmp_path)
    ((peer, ceiling),) = measure_all(plan, lambda *_: None)
    assert row_of(peer)["value"] is None and row_of(peer)["missing"].startswith("not installed: ")
    assert row_of(ceiling)["runs"] == 1 and row_of(ceiling)["missing"] == ""


def test_a_peer_that_fails_is_a_row_with_the_reason(tmp_path: Path) -> None:
    """What is ours must not fail: that ends everything."""
    peer = Entrant("Nobody", Kind.PEER, "nothing", frozenset({"W1"}), "benchmarks.nothing")
    ((taken,),) = measure_all(Plan((WORKLOADS["W1"],), lambda _: [peer], 1, tmp_path), lambda *_: None)
    assert row_of(taken)["missing"].startswith("failed: Nobody: ")
    ours = replace(peer, kind=Kind.CEILING)
    with pytest.raises(Failed, match="Nobody"):
        list(measure_all(Plan((WORKLOADS["W1"],), lambda _: [ours], 1, tmp_path), lambda *_: None))


class _Wrong(System):
    """Does nothing, very fast."""

    async def run(self, workload: Workload) -> int:
        return 0


async def _all_wrong(folder: Path) -> None:
    await measure(_Wrong(Order("W3", 3, str(folder))), Order("W3", 3, str(folder)))


def test_a_wrong_outcome_is_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(WrongOutcome, match="W3"):
        asyncio.run(_all_wrong(tmp_path))


def test_a_wrong_step_fails_the_command(tmp_path: Path) -> None:
    """A towpath whose lines come to something else: the command ends with 1 and says so."""
    program = (
        "import benchmarks.chains as chains, benchmarks.towpath_run as run\n"
        "def wrong(workload, mode=''): return chains.inc_line(chains.Graph(((), (0,)), (1, 1)))\n"
        "run.chain_of = wrong\nrun.answer(run.Towpath)\n"
    )
    order = json.dumps({"workload": "W1", "size": 7, "folder": str(tmp_path)})
    done = subprocess.run([sys.executable, "-c", program, order], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "WrongOutcome: W1 of size 3 came to 2, not to 3" in done.stderr
    assert "MEASURED" not in done.stdout


def by_hand(graph: Graph) -> int:
    """What a graph comes to, without the code of the benchmarks."""
    values: dict[int, int] = {}
    for i, needs in enumerate(graph.needs):
        values[i] = (sum(values[n] for n in needs) + graph.adds[i]) % 1_000_003
    needed = {n for needs in graph.needs for n in needs}
    return sum(value for i, value in values.items() if i not in needed)


@pytest.mark.parametrize("name", ["W1", "W2", "W3", "uneven", "static"])
def test_the_chains_have_the_steps_of_their_graphs(name: str) -> None:
    workload = WORKLOADS[name].sized(5)
    assert len(chain_of(workload).plan.steps) == len(workload.shape.needs) == workload.steps
    assert outcome(workload.shape) == by_hand(workload.shape)


def test_lines_of_the_uneven_graph_take_as_long_as_each_other() -> None:
    graph = WORKLOADS["uneven"].shape
    lines = [sum(graph.naps[level * 5 + at] for level in range(5)) for at in range(5)]
    assert lines == pytest.approx([0.1] * 5)
    barriers = sum(max(graph.naps[i] for i in level) for level in graph.levels)
    assert barriers == pytest.approx(0.3)
    assert evaluate(1, [2, 3]) == 6


def _made_up(walls: dict[str, float], workload: str = "W1") -> list[Any]:
    systems = {system.name: system for system in (TOWPATH, MAPPED, *CEILINGS, *PEERS)}
    taken = [Taken(WORKLOADS[workload], systems[name], [Measured(wall, wall)]) for name, wall in walls.items()]
    return [row_of(one) for one in taken]


def test_the_best_peer_is_compared() -> None:
    """Targets take the fastest of the peers, and say which it is."""
    rows = _made_up({"towpath": 0.1, "Burr": 0.25, "Restate": 0.15, "bare asyncio": 0.001})
    line = targets.check(rows)[0]
    assert line.figure is not None
    assert line.figure[0] == pytest.approx(1.5)
    assert "Restate" in line.found and line.met is False
    rows = _made_up({"towpath": 0.1, "Burr": 0.25, "Restate": 0.2})
    assert targets.check(rows)[0].met is True
    assert ratios(rows)["W1: towpath to Burr, time"] == pytest.approx(2.5)


def test_names_in_the_page_are_only_text() -> None:
    rows = _made_up({"towpath": 0.1})
    rows[0]["what"] = "<script>alert(1)</script>"
    machine = {"python": "3", "sqlite": "3", "system": "<b>", "cpus": 2, "load": 0.0, "fsync_ms": 0.1, "time": "now"}
    made = Results(format=1, towpath="0", machine=machine, quick=False, repeats=1, rows=rows)
    assert "<script>" not in picture.page(made, []) and "<b>" not in picture.page(made, [])
