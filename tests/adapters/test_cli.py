"""The command line as people and programs use it: verbs, exit codes, JSON, and the corpus group `cli`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.warm_cli import WarmCli
from tests.corpus import cases
from tests.machine import needs

STEPS = """
import time
from towpath import File, context, step

@step
def numbers(n: int) -> list[int]:
    return list(range(n))

@step
def page(number: int, title: str) -> File:
    context().logger.info("page %d", number)
    return File(f"{title} {number}\\n".encode(), filename=f"page-{number}.txt")

@step
def bind(pages: list) -> dict:
    return {"count": len(pages)}

@step
def slow(seconds: float) -> str:
    time.sleep(seconds)
    return "done"

@step
async def nap(seconds: float) -> str:
    import anyio
    await anyio.sleep(seconds)
    return "rested"

@step
def broken() -> None:
    raise ValueError("no such luck")
"""
CHAIN = """
name: report
inputs:
  n: { type: integer, default: 3 }
  title: { type: string, default: Weekly }
steps:
  - id: numbers
    python: clisteps:numbers
    parameters: { n: "{{ inputs.n }}" }
  - id: pages
    python: clisteps:page
    depends_on: [numbers]
    foreach: "{{ numbers.output }}"
    parameters: { number: "{{ item }}", title: "{{ inputs.title }}" }
  - id: bind
    python: clisteps:bind
    depends_on: [pages]
    parameters: { pages: "{{ pages.output }}" }
"""


def one_step(call: str, **keys: Any) -> str:
    """A chain of one step."""
    step = {"id": "only", "python": f"clisteps:{call}", **keys}
    return json.dumps({"name": "one", "steps": [step]})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "clisteps.py").write_text(STEPS)
    (tmp_path / "report.yaml").write_text(CHAIN)
    return tmp_path


Cli = Callable[..., subprocess.CompletedProcess[str]]
HUNG = 300  # seconds after which a test gives up; no test passes or fails by how long something takes


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "towpath", *args]


def clean_environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("TOWPATH_") and k != "DATABASE_URL"}


@pytest.fixture
def cli(folder: Path, warm_cli: WarmCli) -> Cli:
    def run(*args: str, code: int | None = 0, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        done = warm_cli.run(args, folder, clean_environment(), timeout)
        assert code is None or done.returncode == code, f"{args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback (most recent call last)" not in done.stderr
        return done

    return run


def test_run_show_artifacts_get_and_fsck_tell_one_story(cli: Cli, folder: Path) -> None:
    """What `run` made is what `ls`, `show`, `logs`, `artifacts` and `get` show, and `fsck` finds it clean."""
    made = json.loads(cli("run", "report.yaml", "--input", "n=2", "--json").stdout)
    assert made["status"] == "completed"
    assert [s["status"] for s in made["steps"]] == ["completed"] * 3
    assert [row["id"] for row in json.loads(cli("ls", "--json").stdout)] == [made["id"]]
    shown = json.loads(cli("show", "last", "pages[1]", "--json").stdout)
    assert shown["artifacts"][0]["filename"] == "page-1.txt"
    assert json.loads(cli("show", made["id"][-8:], "bind", "--json").stdout)["value"] == {"count": 2}
    assert "INFO    page 1" in cli("logs", "last", "pages[1]").stdout
    assert len(json.loads(cli("artifacts", made["id"], "--json").stdout)) == 2
    cli("get", "last", "-o", "out")
    assert (folder / "out/pages/0/page-0.txt").read_text() == "Weekly 0\n"
    assert json.loads(cli("fsck", "--json").stdout)["clean"] is True
    report = cli("fsck").stdout
    assert "0 blob files" in report.replace("\n", " ")
    assert "their bytes are in the database" in report


def test_plain_output_names_every_step_once(cli: Cli) -> None:
    """Without a terminal there is one line per step, and the run's end."""
    out = cli("run", "report.yaml").stdout
    assert out.count("✓ numbers") == 1
    assert "✓ pages  3/3" in out
    assert "completed  report" in out


def test_a_failed_chain_exits_1_and_shows_the_users_traceback(cli: Cli, folder: Path) -> None:
    """The error and how to see more are shown; the traceback holds the user's frames only."""
    (folder / "bad.yaml").write_text(one_step("broken"))
    out = cli("run", "bad.yaml", code=1).stdout
    assert "ValueError: no such luck" in out
    assert "towpath show" in out
    shown = cli("show", "last", "only").stdout
    assert "clisteps.py" in shown
    assert "local_run.py" not in shown
    assert "attempt.py" not in shown
    assert "clisteps.py" in cli("show", "last", "-v").stdout


def test_paused_at_a_gate_exits_3_and_names_the_approval(cli: Cli, folder: Path) -> None:
    """Without a terminal `run` ends with 3 at a gate; the run can be resumed."""
    (folder / "gate.yaml").write_text(one_step("numbers", parameters={"n": 1}, requires_approval=True))
    out = cli("run", "gate.yaml", code=3).stdout
    assert "waits for an approval" in out
    shown = cli("show", "last", "only").stdout  # what is decided about, and how
    assert "value  [0]" in shown
    gate = json.loads(cli("approvals", "--json").stdout)[0]["id"]
    assert f"towpath approve {gate}" in shown
    assert json.loads(cli("ls", "--json").stdout)[0]["status"] == "paused"
    assert cli("resume", "last", code=3)
    cli("cancel", "last")
    assert json.loads(cli("ls", "--json").stdout)[0]["status"] == "cancelled"
    assert "E_RUN_OVER" in cli("resume", "last", code=None).stderr


def test_rerun_takes_over_what_completed(cli: Cli) -> None:
    """A rerun from a step reuses the steps before it, and can change inputs."""
    cli("run", "report.yaml")
    made = json.loads(cli("rerun", "last", "--from", "pages", "--input", "title=Yearly", "--json").stdout)
    assert [s["status"] for s in made["steps"]] == ["cached", "completed", "completed"]
    cli("get", "last", "pages[0]", "-o", "again")


def test_plan_validate_and_schema(cli: Cli, folder: Path) -> None:
    """A chain can be shown without running it; all its errors are listed at once, with positions."""
    assert "flowchart LR" in cli("plan", "report.yaml", "--mermaid").stdout
    assert json.loads(cli("plan", "report.yaml", "--json").stdout)["levels"] == [["numbers"], ["pages"], ["bind"]]
    assert "ok" in cli("validate", "report.yaml").stdout
    assert json.loads(cli("schema").stdout)["type"] == "object"
    (folder / "wrong.yaml").write_text(
        "name: x\nsteps:\n  - id: a\n    tiemout: 3\n  - id: a\n    workflow: /etc/passwd\n"
    )
    wrong = cli("validate", "wrong.yaml", "--json", code=2)
    codes = {e["code"] for e in json.loads(wrong.stdout)["errors"]}
    assert {"E_FIELD_UNKNOWN", "E_CHAIN_DUPLICATE_STEP", "E_REF_PATH"} <= codes
    assert "wrong.yaml:4:" in cli("validate", "wrong.yaml", code=2).stderr


def test_a_door_that_is_not_built_is_refused_before_anything_starts(cli: Cli, folder: Path) -> None:
    """E_FEATURE_MISSING, exit 2, and no run is recorded."""
    (folder / "comfy.yaml").write_text("name: x\nsteps:\n  - id: a\n    workflow: picture\n")
    cli("validate", "comfy.yaml")
    assert "E_FEATURE_MISSING" in cli("run", "comfy.yaml", code=2).stderr
    assert json.loads(cli("ls", "--json").stdout) == []


def test_D1_a_script_needs_nothing_but_the_package(folder: Path) -> None:
    """The seed's first request: steps as callables, `await run(...)`, no service beside it."""
    script = (
        "import anyio\nfrom towpath import chain, open_engine\nfrom clisteps import numbers, bind\n"
        "@chain\ndef tiny(n: int = 2):\n    return bind(numbers(n))\n"
        "async def main():\n    async with open_engine('x.db') as engine:\n"
        "        print((await engine.run(tiny, n=4)).value)\nanyio.run(main)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "{'count': 4}", done.stderr


def start(folder: Path, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*args), cwd=folder, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_status(cli: Cli, status: str) -> str:
    """Until the newest run has the status; its id."""
    deadline = time.monotonic() + HUNG
    while time.monotonic() < deadline:
        rows = json.loads(cli("ls", "--json").stdout)
        if rows and rows[0]["status"] == status:
            return str(rows[0]["id"])
        time.sleep(0.05)
    raise AssertionError(f"no run became {status}")


def interrupted(cli: Cli, folder: Path, number: int, times: int) -> None:
    """A run that would take a day ends when it gets the signal."""
    (folder / "nap.yaml").write_text(one_step("nap", parameters={"seconds": 86_400}))
    process = start(folder, "run", "nap.yaml")
    try:
        wait_for_status(cli, "running")
        for _ in range(times):
            process.send_signal(number)
            time.sleep(0.05)
        out, err = process.communicate(timeout=HUNG)
        assert process.returncode == 130, (process.returncode, out, err)
        assert "Traceback" not in err
    finally:
        process.kill()
        process.wait()
    rows = json.loads(cli("ls", "--json").stdout)
    assert rows[0]["status"] in (("paused",) if times == 1 else ("paused", "running"))
    cli("cancel", "last")
    assert json.loads(cli("fsck", "--json").stdout)["clean"] is True


def _bad_store(cli: Cli, _: Path) -> None:
    assert "--store" in cli("ls", "--store", "", code=2).stderr


def _no_folder(cli: Cli, _: Path) -> None:
    assert "E_DB_PATH" in cli("ls", "--store", "/nonexistent/x.db", code=4).stderr


def _bad_number(cli: Cli, _: Path) -> None:
    # There is no --port before `serve`; a number out of range is refused alike.
    assert cli("ls", "--limit", "99999999", code=2).stderr
    assert cli("ls", "--port", "99999", code=2).stderr


def _chain_folder(cli: Cli, folder: Path) -> None:
    (folder / "chain.d").mkdir()
    assert "E_CHAIN_FILE" in cli("run", "chain.d", code=2).stderr


def _chain_zero(cli: Cli, _: Path) -> None:
    assert "E_CHAIN_FILE" in cli("run", "/dev/zero", code=2).stderr


def _chain_fifo(cli: Cli, folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    assert "E_CHAIN_FILE" in cli("run", "fifo", code=2).stderr


def _chain_huge(cli: Cli, folder: Path) -> None:
    with (folder / "huge.yaml").open("wb") as file:
        file.truncate(1 << 30)
    assert "E_YAML_SIZE" in cli("run", "huge.yaml", code=2).stderr


def _disk_full(cli: Cli, folder: Path) -> None:
    needs("mount")
    place = folder / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], check=True)
    try:
        assert "E_DISK_FULL" in cli("run", "report.yaml", "--store", str(place / "x.db"), code=4).stderr
    finally:
        subprocess.run(["umount", str(place)], check=True)


def _closed_stdout(cli: Cli, folder: Path) -> None:
    cli("run", "report.yaml", "--input", "n=200")
    text = f"{sys.executable} -m towpath artifacts last | head -1"
    done = subprocess.run(
        text, shell=True, cwd=folder, env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def _interrupt_once(cli: Cli, folder: Path) -> None:
    interrupted(cli, folder, signal.SIGINT, 1)


def _interrupt_twice(cli: Cli, folder: Path) -> None:
    interrupted(cli, folder, signal.SIGINT, 2)


def _odd_clock(cli: Cli, folder: Path) -> None:
    script = (
        "import time, sys\nreal = time.time_ns\noffset = int(sys.argv[1])\n"
        "time.time_ns = lambda: real() + offset\n"
        "sys.argv = ['towpath', 'run', 'report.yaml', '--json']\nfrom towpath.adapters.cli import main\nmain()\n"
    )
    for year in (1970, 2106):
        offset = (year - 2026) * 365 * 86400 * 10**9
        done = subprocess.run(
            [sys.executable, "-c", script, str(offset)],
            cwd=folder,
            env=clean_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    ids = [row["id"] for row in json.loads(cli("ls", "--json").stdout)]
    assert len(set(ids)) == 2
    assert json.loads(cli("fsck", "--json").stdout)["clean"] is True


SCENES: dict[str, Callable[[Cli, Path], None]] = {
    "cli-001": _bad_store,
    "cli-002": _no_folder,
    "cli-003": _bad_number,
    "cli-005": _chain_folder,
    "cli-006": _chain_zero,
    "cli-007": _chain_fifo,
    "cli-008": _chain_huge,
    "cli-010": _disk_full,
    "cli-011": _closed_stdout,
    "cli-012": _interrupt_once,
    "cli-013": _interrupt_twice,
    "cli-015": _odd_clock,
}


@pytest.mark.parametrize("case", cases("cli"), ids=lambda case: str(case.id))
def test_corpus_cli(case: Any, cli: Cli, folder: Path) -> None:
    """Each scenario of the corpus ends with its code; for the corpus' exit code 1 it is 2 (file) or 4 (store)."""
    SCENES[case.id](cli, folder)


def test_R39_sigterm_leaves_a_paused_run(cli: Cli, folder: Path) -> None:
    """SIGTERM acts as Ctrl-C does."""
    interrupted(cli, folder, signal.SIGTERM, 1)


def test_a_killed_demo_continues_its_run(cli: Cli, folder: Path) -> None:
    """kill -9 in the middle of the demo, then the same command again: completed, nothing done twice."""
    while not killed_in_the_middle(folder):
        shutil.rmtree(folder / "towpath-demo")
    out = cli("demo", "--width", "320").stdout
    rows = json.loads(cli("ls", "--json", "--store", "towpath-demo/demo.db").stdout)
    assert len(rows) == 1
    assert rows[0]["status"] == "completed"
    assert "contact-sheet.jpg" in out
    assert json.loads(cli("fsck", "--json", "--store", "towpath-demo/demo.db").stdout)["clean"] is True


def killed_in_the_middle(folder: Path) -> bool:
    """Start the demo and kill it after its first step; False if it had ended before it was stopped."""
    process = start(folder, "demo", "--width", "320")
    try:
        wait_until(folder, "SELECT count(*) FROM workflows WHERE status = 'completed'")
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        return bool(counted(folder, "SELECT count(*) FROM chains WHERE status = 'running'"))
    finally:
        process.kill()
        process.wait()


def wait_until(folder: Path, query: str) -> None:
    """Until the demo's database exists and the query counts something."""
    deadline = time.monotonic() + HUNG
    while time.monotonic() < deadline:
        if counted(folder, query):
            return
        time.sleep(0.005)
    raise AssertionError("the demo did not begin")


def counted(folder: Path, query: str) -> int:
    """The answer of the demo's database; 0 as long as it has no tables."""
    database = folder / "towpath-demo/demo.db"
    if not database.exists():
        return 0
    try:
        with closing(sqlite3.connect(database)) as connection:
            return int(connection.execute(query).fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def gated(folder: Path, **approval: Any) -> None:
    """A chain whose first step waits for a person, `gate.yaml`."""
    (folder / "gate.yaml").write_text(
        json.dumps(
            {
                "name": "gated",
                "steps": [
                    {
                        "id": "draft",
                        "python": "clisteps:page",
                        "parameters": {"number": 1, "title": "Draft"},
                        "requires_approval": True,
                        **({"approval": approval} if approval else {}),
                    },
                    {
                        "id": "last",
                        "python": "clisteps:bind",
                        "depends_on": ["draft"],
                        "parameters": {"pages": ["{{ draft.output }}"]},
                    },
                ],
            }
        )
    )


def test_N4_H2_a_person_edits_and_approves_on_the_command_line(cli: Cli, folder: Path) -> None:
    """List the approval, edit its file, approve, resume; names and reasons are recorded."""
    gated(folder)
    cli("run", "gate.yaml", code=3)
    [gate] = json.loads(cli("approvals", "--json").stdout)
    assert (gate["step"], [a["filename"] for a in gate["artifacts"]]) == ("draft", ["page-1.txt"])
    assert "draft" in cli("approvals").stdout
    (folder / "better.txt").write_text("better\n")
    artifact = gate["artifacts"][0]["id"]
    edited = json.loads(cli("edit", artifact, "better.txt", "--by", "kim", "--reason", "typo", "--json").stdout)
    assert (edited["version"], edited["parent_artifact_id"], edited["created_by"]) == (2, artifact, "kim")
    assert "E_APPROVAL_STALE" in cli("approve", gate["id"], "--by", "lee", "--seen", artifact, code=1).stderr
    shown = cli("approve", gate["id"], "--by", "lee", "--reason", "fine now").stdout
    assert "approved by lee: draft (output v2)" in shown
    assert "E_APPROVAL_DECIDED" in cli("approve", gate["id"], "--by", "max", code=1).stderr
    cli("resume", "last")
    [file] = json.loads(cli("get", "last", "draft", "-o", "out", "--json").stdout)
    assert (folder / file["path"]).read_text() == "better\n"


def test_H4_a_rejection_on_the_command_line_makes_it_again(cli: Cli, folder: Path) -> None:
    """`reject --set` regenerates with another argument; then a second rejection skips by name."""
    gated(folder, on_rejected="regenerate", max_retries=2)
    cli("run", "gate.yaml", code=3)
    [gate] = json.loads(cli("approvals", "--json").stdout)
    cli("reject", gate["id"][-12:], "--by", "kim", "--reason", "dull", "--set", "title=Lively")
    cli("resume", "last", code=3)
    [gate] = json.loads(cli("approvals", "last", "--json").stdout)
    assert gate["artifacts"][0]["version"] == 2
    decided = json.loads(cli("reject", gate["id"], "--action", "skip", "--by", "kim", "--json").stdout)
    assert decided["action"] == "skip"
    cli("resume", "last")
    shown = {step["id"]: step["status"] for step in json.loads(cli("show", "last", "--json").stdout)["steps"]}
    assert shown == {"draft": "skipped", "last": "skipped"}
    missing = cli("approve", "nowhere", "--by", "kim", code=1).stderr
    assert "E_APPROVAL_MISSING" in missing
    assert "cure: `towpath approvals` lists" in missing
