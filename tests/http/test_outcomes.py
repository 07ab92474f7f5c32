"""`towpath serve --execute` and what steps come to: no run ends the service, and what ends the process is said."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.adapters.conftest import check
from tests.conformance import hostile_steps as steps
from tests.http.test_serve import environment, served, until, verb

from .serving import PATIENCE

MODULE = "tests.conformance.hostile_steps"
EXECUTES = ("--execute", "--import", MODULE)


def chain(step: str, **parameters: Any) -> dict[str, str]:
    """The body of a start: one step of the hostile ones."""
    given = json.dumps(parameters)
    return {"yaml": f"name: one\nsteps:\n  - {{ id: a, python: '{MODULE}:{step}', parameters: {given} }}"}


def mapped(step: str, items: list[str]) -> dict[str, str]:
    over, item = json.dumps(items), "{{ item }}"
    line = f"  - {{ id: a, python: '{MODULE}:{step}', foreach: {over}, parameters: {{ what: '{item}' }} }}"
    return {"yaml": f"name: all\nsteps:\n{line}"}


def start(url: str, body: dict[str, str]) -> str:
    answer = httpx.post(f"{url}/api/v1/chains", json=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def test_no_outcome_ends_the_service(tmp_path: Path) -> None:
    """Every hostile outcome of plain and of async functions, in one server; a good run after each completes."""
    store = tmp_path / "towpath.db"
    with served(store, *EXECUTES) as (url, process):
        for step, names in (("odd", steps.PLAIN), ("async_odd", steps.ASYNC)):
            until(url, start(url, mapped(step, names)), "failed")
            until(url, start(url, chain("good", n=1)), "completed")
        assert process.poll() is None
    check(store)


def test_a_step_that_ends_its_process_ends_the_server_three_times(tmp_path: Path) -> None:
    """Restarted several times, the server stops retrying the step, and other runs continue."""
    store, folder = tmp_path / "towpath.db", str(tmp_path)
    with served(store, *EXECUTES) as (url, process):
        poison = start(url, chain("dies", folder=folder, times=99))
        assert process.wait(PATIENCE) == 9
    for _ in range(2):
        command = verb("serve", "--port", "0", "--store", str(store), *EXECUTES)
        again = subprocess.run(
            command, cwd=tmp_path, env=environment(), capture_output=True, timeout=PATIENCE, check=False
        )
        assert again.returncode == 9
    with served(store, *EXECUTES) as (url, _):
        assert until(url, poison, "failed")["error_code"] == "E_STEP_CRASHES"
        until(url, start(url, chain("good", n=1)), "completed")
    assert (tmp_path / "died").read_text() == "xxx"
    check(store)


def test_an_exit_in_a_task_of_a_step_ends_the_server_with_an_error(tmp_path: Path) -> None:
    """asyncio ends the loop with it. The server says so in one line and ends; it does not answer 500 for ever."""
    store = tmp_path / "towpath.db"
    with served(store, *EXECUTES) as (url, process):
        run = start(url, chain("child_exits"))
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 4, err
        assert json.loads(out)["errors"][0]["code"] == "E_PROCESS_EXIT"
    with served(store) as (url, _):
        left = httpx.get(f"{url}/api/v1/chains/{run}").json()
        assert (left["status"], left["status_reason"]) == ("paused", "interrupted")  # to be gone on with


@pytest.mark.parametrize("every", [False, True])
def test_one_run_that_cannot_be_gone_on_with_keeps_nobody_from_the_others(tmp_path: Path, every: bool) -> None:
    """`resume --all` reports the problem of a run and resumes the next; the exit code is the worst one."""
    store = tmp_path / "towpath.db"
    with served(store, "--import", MODULE, "--import", "tests.http.steps") as (url, _):
        runs = [start(url, chain("good", n=1))]
        if every:
            foreign = "name: x\nsteps:\n  - { id: a, python: 'tests.http.steps:write', parameters: { text: t } }"
            runs.append(start(url, {"yaml": foreign}))
        runs.append(start(url, chain("good", n=2)))
    hidden = {**environment(), "PYTHONPATH": str(tmp_path)}
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/__init__.py").touch()
    (tmp_path / "tests/conformance").mkdir()
    (tmp_path / "tests/conformance/__init__.py").touch()
    (tmp_path / "tests/conformance/hostile_steps.py").write_text(
        "from towpath import step\n\n@step\nasync def good(n: int) -> int:\n    return n\n"
    )
    command = verb("resume", "--all", "--store", str(store), "--import", MODULE)
    done = subprocess.run(
        command, cwd=tmp_path, env=hidden, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == (2 if every else 0), done.stderr
    assert ("E_STEP_NOT_REGISTERED" in done.stderr) is every
    with served(store) as (url, _):
        states = [httpx.get(f"{url}/api/v1/chains/{run}").json()["status"] for run in runs]
    assert states == (["completed", "pending", "completed"] if every else ["completed", "completed"])
