"""Can the tests of the heart fail? Makes small mistakes in four files and counts how many the nearest tests see.

    python -m tests.mutants [--sample 200] [--seed 1] [--survived] [--fresh] [--json FILE] [--only FILE] [--show WORD]

Each mistake is made in a copy of the tree, never in the tree itself, one at a time. What was found is kept in
`build/mutants/`, so that a run that was broken off goes on. After a change of the source or of a test all begins
anew; `--survived` then believes what was seen before and tries only the rest. A mistake that no test sees is a
survivor: it has its reason in `survivors.toml`, or the command fails, as it does below 90 %.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path

from .changes import Mutant, mutants

ROOT = Path(__file__).resolve().parents[2]
FOUND = ROOT / "build" / "mutants" / "found.jsonl"
SURVIVORS = Path(__file__).parent / "survivors.toml"
TARGET = 0.9
MEMORY = 4 << 30  # bytes that a test process may take: a mistake may make lists without end
LIMIT = 30  # seconds of CPU that a stage may take at least, and five times what it takes without a mistake
PATIENCE = 10  # seconds on the clock for each of them

# The nearest tests, in stages: what is quick first, and only what it does not see goes on to the next.
STAGES: dict[str, list[list[str]]] = {
    "engine/progress.py": [
        [
            "tests/engine/test_run_state.py",
            "tests/engine/test_progress.py",
            "tests/engine/test_progress_results.py",
            "-k",
            "not R38 and not R36 and not property",
        ],
        ["tests/engine/test_progress.py", "-k", "test_property or test_R36_all_orders"],
    ],
    "adapters/run_facts.py": [
        ["tests/adapters/test_run_facts.py"],
        ["tests/adapters/test_local.py", "-k", "fail or kept or condition or gate or skip or map or S6"],
    ],
    "store/gates.py": [
        ["tests/store/test_gates.py", "tests/store/test_crud.py"],
        ["tests/adapters/test_gates.py", "-k", "H4 or H5 or edit"],
    ],
    "store/journal.py": [
        ["tests/store/test_journal.py", "tests/store/test_journal_gates.py", "tests/store/test_journal_runs.py"],
        ["tests/store/test_conformance.py", "-k", "step or run or gate or event or S2"],
    ],
}


def sample(size: int, seed: int) -> list[Mutant]:
    """Mutants of the four files, as many of each as its share of the lines."""
    sources = {file: (ROOT / file).read_bytes() for file in STAGES}
    chosen: list[Mutant] = []
    lines = sum(source.count(b"\n") for source in sources.values())
    for file, source in sources.items():
        here = source.count(b"\n")
        share = round((size - len(chosen)) * here / lines)
        lines -= here
        ranked = sorted(mutants(file, source), key=lambda m: m.rank(seed))[:share]
        chosen += sorted(ranked, key=lambda m: m.start)
    return chosen


@contextmanager
def copied_tree() -> Iterator[Path]:
    """The tree as Python sees it, in a folder of its own: `engine/` is `towpath/`."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = Path(folder)
        unwanted = shutil.ignore_patterns("__pycache__")
        for name, place in {"engine": "towpath", "store": "towpath/store", "adapters": "towpath/adapters"}.items():
            shutil.copytree(ROOT / name, tree / place, ignore=unwanted)
        shutil.copytree(ROOT / "tests", tree / "tests", ignore=unwanted)
        shutil.copy(ROOT / "pyproject.toml", tree)
        yield tree


def in_tree(tree: Path, file: str) -> Path:
    return tree / "towpath" / file.removeprefix("engine/")


def ask(tree: Path, arguments: list[str], limit: int) -> tuple[str, float]:
    """What these tests say (`pass`, `fail`, `hang`), and the seconds of CPU that it took.

    A test that computes without end is stopped after `limit` seconds of CPU, however busy the machine is, and one
    that waits without end after many more on the clock.
    """
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()
        _test(tree, arguments, limit)
    try:
        ends = time.monotonic() + limit * PATIENCE
        done, status, used = os.wait4(child, os.WNOHANG)
        while not done and time.monotonic() < ends:
            time.sleep(0.05)
            done, status, used = os.wait4(child, os.WNOHANG)
    finally:
        _end(child)
    if not done:
        os.waitpid(child, 0)
        return "hang", 0.0
    code = os.waitstatus_to_exitcode(status)
    said = {0: "pass", -signal.SIGXCPU: "hang", -signal.SIGKILL: "hang"}.get(code, "fail")
    return said, used.ru_utime + used.ru_stime


def _end(group: int) -> None:
    """What a test started and left behind ends with it."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _test(tree: Path, arguments: list[str], limit: int) -> None:
    """In a process of its own: the tests of the copy against the copy."""
    import pytest

    log = os.open(tree / "log", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(tree)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ["PYTHONPATH"] = str(tree)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    for name in [n for n in sys.modules if n.partition(".")[0] in ("tests", "towpath")]:
        del sys.modules[name]
    sys.path.insert(0, str(tree))
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    plugins = ["-p", "anyio.pytest_plugin", "-p", "_hypothesis_pytestplugin", "-p", "no:cacheprovider"]
    fixed = ["-x", "-q", "-m", "not full", "--hypothesis-seed=0", *plugins]
    code = int(pytest.main([*fixed, f"--basetemp={tree / 'temporary'}", *arguments]))
    sys.stdout.flush()
    os._exit(code)


def preload() -> None:
    """What all test processes share is imported once; nothing of ours is."""
    import aiosqlite  # noqa: F401
    import anyio  # noqa: F401
    import hypothesis  # noqa: F401
    import msgspec  # noqa: F401
    import networkx  # noqa: F401
    import pytest  # noqa: F401
    import sqlalchemy.dialects.sqlite  # noqa: F401


def limits(tree: Path, files: Iterable[str]) -> dict[str, list[int]]:
    """How long each stage may take, by what it takes without a mistake; then it must pass."""
    found: dict[str, list[int]] = {}
    for file in files:
        for stage in STAGES[file]:
            said, used = ask(tree, stage, 600)
            if said != "pass":
                log = (tree / "log").read_text()[-3000:]
                raise SystemExit(f"{' '.join(stage)}: {said} without any mistake\n{log}")
            found.setdefault(file, []).append(max(LIMIT, int(used * 5)))
    return found


def tried(tree: Path, mutant: Mutant, allowed: list[int]) -> str:
    """Makes the mistake, asks the tests, and takes it back: `killed`, `hangs` or `survived`."""
    place = in_tree(tree, mutant.file)
    source = place.read_bytes()
    place.write_bytes(mutant.applied(source))
    try:
        for stage, limit in zip(STAGES[mutant.file], allowed, strict=True):
            shutil.rmtree(tree / ".hypothesis", ignore_errors=True)
            said, _ = ask(tree, stage, limit)
            if said != "pass":
                return {"fail": "killed", "hang": "hangs"}[said]
    finally:
        place.write_bytes(source)
    return "survived"


def digest() -> str:
    """Tells this state of the source and of the tests from all others."""
    files = [f for folder in ("engine", "store", "adapters", "tests") for f in (ROOT / folder).rglob("*.py")]
    names = sorted(f"{f.relative_to(ROOT)} {blake2b(f.read_bytes()).hexdigest()}" for f in files)
    return blake2b("\n".join(names).encode(), digest_size=8).hexdigest()


def read_found(state: str | None) -> dict[tuple[str, str], str]:
    """What was found in this state of the tree; without one, in any."""
    if not FOUND.exists():
        return {}
    lines = [json.loads(line) for line in FOUND.read_text().splitlines()]
    return {(line["file"], line["name"]): line["outcome"] for line in lines if state in (None, line["state"])}


def reasons() -> dict[tuple[str, str], str]:
    listed = tomllib.loads(SURVIVORS.read_text()).get("survivor", [])
    return {(one["file"], one["name"]): one["reason"] for one in listed}


def try_all(chosen: list[Mutant], found: dict[tuple[str, str], str], state: str) -> None:
    """Tries what was not tried yet, and keeps each outcome as soon as it is known."""
    FOUND.parent.mkdir(parents=True, exist_ok=True)
    preload()
    left = [m for m in chosen if (m.file, m.name) not in found]
    with copied_tree() as tree, FOUND.open("a") as kept:
        allowed = limits(tree, sorted({m.file for m in left}))
        for n, mutant in enumerate(left, 1):
            began = time.perf_counter()
            outcome = found[mutant.file, mutant.name] = tried(tree, mutant, allowed[mutant.file])
            line = {"file": mutant.file, "name": mutant.name, "outcome": outcome, "state": state}
            kept.write(json.dumps(line) + "\n")
            kept.flush()
            took = time.perf_counter() - began
            print(f"{n:4}/{len(left)} {outcome:9}{took:6.1f} s  {mutant.file}:{mutant.line} {mutant.name}", flush=True)


def report(chosen: list[Mutant], found: dict[tuple[str, str], str], json_file: Path | None) -> int:
    known = reasons()
    seen = Counter((m.file, found[m.file, m.name] != "survived") for m in chosen)
    print()
    for file in dict.fromkeys(m.file for m in chosen):
        good, bad = seen[file, True], seen[file, False]
        print(f"{file:24}{good:4} of {good + bad:4} seen{good / (good + bad):8.1%}")
    share = sum(found[m.file, m.name] != "survived" for m in chosen) / len(chosen)
    survived = [m for m in chosen if found[m.file, m.name] == "survived"]
    print(f"{'together':24}{len(chosen) - len(survived):4} of {len(chosen):4} seen{share:8.1%}, target {TARGET:.0%}\n")
    for m in survived:
        print(f"survived  {m.file}:{m.line} {m.name}\n          {known.get((m.file, m.name), 'NO REASON GIVEN')}")
    if json_file is not None:
        rows = [{"file": m.file, "line": m.line, "name": m.name, "outcome": found[m.file, m.name]} for m in chosen]
        json_file.write_text(json.dumps({"share": share, "mutants": rows}, indent=1))
    unexplained = [m for m in survived if (m.file, m.name) not in known]
    return int(share < TARGET or bool(unexplained))


def main() -> int:
    parser = argparse.ArgumentParser(description="Make mistakes in the heart; count how many its tests see.")
    parser.add_argument("--sample", type=int, default=200, help="how many mutants")
    parser.add_argument("--seed", type=int, default=1, help="another seed draws another sample")
    parser.add_argument("--survived", action="store_true", help="try again what was not seen last time")
    parser.add_argument("--fresh", action="store_true", help="forget what was found before")
    parser.add_argument("--json", type=Path, help="write all outcomes to this file")
    parser.add_argument("--only", choices=list(STAGES), metavar="FILE", help="only the mutants of one file")
    parser.add_argument("--show", metavar="WORD", help="only print the mutants whose name holds this word")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # whoever ends us leaves no tree and no test behind
    chosen = [m for m in sample(options.sample, options.seed) if options.only in (None, m.file)]
    print(f"seed {options.seed}, {len(chosen)} mutants", flush=True)
    if options.show is not None:
        source = {file: (ROOT / file).read_text().splitlines() for file in STAGES}
        for m in chosen:
            if options.show in f"{m.file} {m.name}":
                print(f"{m.file}:{m.line} {m.name}\n    {source[m.file][m.line - 1].strip()}")
        return 0
    if options.fresh:
        FOUND.unlink(missing_ok=True)
    state = digest()
    found = read_found(None if options.survived else state)
    if options.survived:
        found = {key: outcome for key, outcome in found.items() if outcome != "survived"}
    try_all(chosen, found, state)
    return report(chosen, found, options.json)


if __name__ == "__main__":
    sys.exit(main())
