"""How long until towpath is there: its import, and a whole script with one small chain.

    python -m benchmarks.cold_start [--quick] [--repetitions N] [--json FILE]

Every figure is a fresh process, timed from outside, beside a process that does nothing and one that only
imports asyncio and sqlite3. The script makes a database and runs a chain of three steps.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from .harness import print_machine

SCRIPT = """
import asyncio
from towpath import chain, open_engine, step

@step
async def add(value: int) -> int:
    return value + 1

@chain
def three(start: int):
    return add(add(add(start)))

async def main():
    async with open_engine("towpath.db") as engine:
        run = await engine.run(three, start=39)
        assert run.value == 42, run

asyncio.run(main())
"""

PROGRAMS = {
    "python, nothing": "",
    "import asyncio, sqlite3": "import asyncio, sqlite3",
    "import towpath": "import towpath",
    "from towpath import open_engine": "from towpath import open_engine",
    "script: chain of 3, new database": SCRIPT,
    "the same script, database is there": SCRIPT,
}

_REPORT = """
import os.path as _p, resource as _r, sys as _s
_peak = _r.getrusage(_r.RUSAGE_SELF).ru_maxrss
if _p.exists("/proc/self/status"):  # ru_maxrss would count what the parent had when it forked
    _peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:"))
_heavy = [m for m in ("sqlalchemy", "networkx", "databases", "temporalio", "minijinja") if m in _s.modules]
print(_peak, len(_s.modules), *_heavy)
"""


def once(program: str, folder: str) -> tuple[float, float, int, list[str]]:
    """Wall seconds, peak MiB, loaded modules, and which heavy packages are among them."""
    script = Path(folder) / "script.py"
    script.write_text(program + _REPORT)
    started = time.perf_counter()
    done = subprocess.run([sys.executable, script.name], cwd=folder, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(done.stderr)
    kilobytes, modules, *heavy = done.stdout.split()
    scale = 2**20 if sys.platform == "darwin" else 1024
    return wall, int(kilobytes) / scale, int(modules), heavy


def take(repetitions: int) -> Iterable[dict[str, object]]:
    """Medians of all programs, taking turns."""
    taken: dict[str, list[tuple[float, float, int, list[str]]]] = {name: [] for name in PROGRAMS}
    for _ in range(repetitions):
        with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder:
            for name, program in PROGRAMS.items():
                taken[name].append(once(program, folder))
            assert (Path(folder) / "towpath.db").exists()
    for name, found in taken.items():
        yield {
            "what": name,
            "seconds": statistics.median(wall for wall, *_ in found),
            "mib": statistics.median(size for _, size, *_ in found),
            "modules": found[0][2],
            "heavy": found[0][3],
        }


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="three repetitions")
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    found = print_machine()
    with tempfile.TemporaryDirectory() as folder:
        once(SCRIPT, folder)  # compiles what is not compiled yet
    rows = list(take(3 if given.quick else given.repetitions))
    print(f"{'':<38}{'seconds':>8}{'MiB':>7}{'modules':>9}  of the heavy packages")
    for row in rows:
        heavy = " ".join(row["heavy"]) if isinstance(row["heavy"], list) else ""
        print(f"{row['what']:<38}{row['seconds']:>8.3f}{row['mib']:>7.1f}{row['modules']:>9}  {heavy}")
    if given.json:
        given.json.write_text(json.dumps({"machine": found, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
