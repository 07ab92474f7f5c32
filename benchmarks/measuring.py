"""Carries out a plan: systems take turns, and each measured run is a process of its own with an empty folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .environments import NotInstalled, environment_of
from .process import Measured, Order, told
from .shapes import Workload
from .systems import HERE, ROOT, SAME_ROWS, TOWPATH, Kind, System, module_of

SLOW = 120.0  # seconds that all runs of a system on one workload may take; after that it is not repeated


class Failed(Exception):
    """A run failed. `ours` says whether it was towpath or something written for the comparison."""

    def __init__(self, message: str, ours: bool) -> None:
        super().__init__(message)
        self.ours = ours


@dataclass
class Taken:
    """What was measured of a system on a workload, and why there is no more."""

    workload: Workload
    system: System
    runs: list[Measured] = field(default_factory=list)
    missing: str = ""
    spent: float = 0.0
    commits: float | None = None  # of the recorded run


@dataclass(frozen=True)
class Plan:
    """What is measured, how often, and where files are made.

    `seconds` is the most that one run may take, `nice` the niceness of all measured processes.
    """

    workloads: tuple[Workload, ...]
    systems: Callable[[str], list[System]]
    repeats: int
    folder: Path | None = None
    seconds: float = 300.0
    nice: int = 0


Progress = Callable[[Workload, System, int], None]
"""Called before each run with its number, from 1."""


def measure(plan: Plan, progress: Progress) -> Iterator[list[Taken]]:
    """Workload after workload, what all systems did. Raises Failed if towpath or a ceiling failed."""
    for workload in plan.workloads:
        taken = [Taken(workload, system) for system in plan.systems(workload.name)]
        with tempfile.TemporaryDirectory(prefix="towpath-bench-", dir=plan.folder) as folder:
            shared = _prepared(workload, taken, Path(folder), plan)
            for number in range(1, plan.repeats + 1):
                for one in taken if number % 2 else reversed(taken):
                    if not one.missing and one.spent < SLOW:
                        progress(workload, one.system, number)
                        _once(one, Path(folder), shared, plan)
        yield taken


def _once(one: Taken, folder: Path, shared: Path, plan: Plan) -> None:
    began = time.monotonic()
    try:
        one.runs.append(run(one.system, one.workload, folder, _place(one.system, shared), plan))
    except NotInstalled as error:
        one.missing = f"not installed: {error}"
    except Failed as error:
        if error.ours:
            raise
        one.missing = f"failed: {error}"
        one.runs.clear()
    one.spent += time.monotonic() - began


def _place(system: System, shared: Path) -> Path:
    """The folder of what was made before the measurements: a recording, or files."""
    return shared / "map" if system.name.endswith(".map") else shared


def _prepared(workload: Workload, taken: list[Taken], folder: Path, plan: Plan) -> Path:
    """Make what several runs of a workload use: a recording of towpath's statements, or the files of a transfer."""
    shared = folder / "shared"
    (shared / "map").mkdir(parents=True)
    for one in taken:
        if one.system.name.startswith(SAME_ROWS):
            place = _place(one.system, shared)
            mode = "record map" if place.name == "map" else "record"
            with _empty(folder) as empty:
                order = Order(workload.name, workload.size, str(empty), mode, str(place))
                recorded = _carry_out(_command(TOWPATH, workload, order), TOWPATH, empty, plan)
            for other in taken:
                if other.system.module == TOWPATH.module and mode == f"record {other.system.mode}".strip():
                    other.commits = recorded.extra["commits"]
    if any(module_of(one.system, workload.name) == "benchmarks.transfers" for one in taken):
        command = [sys.executable, "-m", "benchmarks.transfers", "prepare", workload.name]
        subprocess.run([*command, str(workload.size), str(shared / "a")], cwd=ROOT, check=True)
        return shared / "a"
    return shared


def run(system: System, workload: Workload, folder: Path, place: Path, plan: Plan) -> Measured:
    """One run in a process of its own. Raises Failed, NotInstalled."""
    with _empty(folder) as empty:
        order = Order(workload.name, workload.size, str(empty), system.mode, str(place))
        return _carry_out(_command(system, workload, order), system, empty, plan)


@contextmanager
def _empty(folder: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as empty:
        yield Path(empty)


def _command(system: System, workload: Workload, order: Order) -> list[str]:
    python = str(environment_of(system.environment) / "bin" / "python") if system.environment else sys.executable
    if workload.name == "W6":
        launch = [sys.executable, "-I", "-S", str(HERE / "launcher.py"), order.folder]
        return [*launch, python, str(system.script)]
    return [python, "-m", module_of(system, workload.name), json.dumps(asdict(order))]


def _carry_out(command: list[str], system: System, folder: Path, plan: Plan) -> Measured:
    ours = system.kind is not Kind.PEER
    process = subprocess.Popen(
        ["nice", "-n", str(plan.nice), *command] if plan.nice else command,
        cwd=folder,
        env=_variables(system, folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    if plan.nice:  # Linux weighs sessions against each other, and niceness only within a session
        with suppress(OSError):
            Path(f"/proc/{process.pid}/autogroup").write_text(str(plan.nice))
    try:
        output, errors = process.communicate(timeout=plan.seconds)
        return told(output)
    except subprocess.TimeoutExpired:
        raise Failed(f"not done after {plan.seconds:g} s", ours) from None
    except LookupError:
        said = [line for line in errors.splitlines() if line.strip()] or [f"exit code {process.returncode}"]
        raise Failed(f"{system.name}: {said[-1].strip()[:300]}", ours) from None
    finally:
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """End the process and what it left behind: servers, workers."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _variables(system: System, folder: Path) -> dict[str, str]:
    """The environment variables. The home is the empty folder: a system finds nothing there, and leaves nothing."""
    kept = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")
    variables = {name: os.environ[name] for name in kept if name in os.environ}
    path = [str(ROOT)] if system.source is None else [str(system.source), str(ROOT)]
    variables |= {"PYTHONPATH": os.pathsep.join(path), "HOME": str(folder), "PYTHONDONTWRITEBYTECODE": ""}
    if system.environment:
        variables |= {"BENCH_ENVIRONMENT": str(environment_of(system.environment)), "DO_NOT_TRACK": "1"}
        variables |= {"PREFECT_HOME": str(folder), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    return variables
