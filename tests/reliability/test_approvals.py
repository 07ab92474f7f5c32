"""R27: decisions by other processes: while no engine runs, two at once, and at the end of the time for them."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.reliability.invariants import Hurt, assert_sound
from tests.reliability.processes import Program, Victim
from towpath.adapters.wiring import open_engine

full = pytest.mark.full
Ends = dict[str, tuple[str, str | None, bool, str]]
"""By run: the gate's status, who decided, was it delivered, and the status of the row behind it."""


def decider(hurt: Hurt, runs: list[str], act: str = "approve", **options: object) -> Program:
    command = [sys.executable, "-m", "tests.reliability.decider", "--store", str(hurt.store), "--act", act]
    for run in runs:
        command += ["--run", run]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    return Program(command)


def ends(hurt: Hurt, runs: list[str]) -> Ends:
    """What is recorded of the gates."""

    async def look() -> Ends:
        found: Ends = {}
        async with open_engine(hurt.store) as engine:
            for run in runs:
                (gate,) = await engine.list_approvals(chain_id=run)
                row: Any = await engine.get_workflow(gate.workflow_id)
                found[run] = (gate.status, gate.decided_by, gate.delivered, row.status)
        return found

    return anyio.run(look)


def told(program: Program, word: str) -> set[str]:
    return {line.split()[1] for line in program.lines if line.startswith(f"{word} ")}


def refusals(program: Program) -> set[str]:
    return {line.split()[2] for line in program.lines if line.startswith("refused ")}


@pytest.mark.parametrize("rounds", [2, pytest.param(30, marks=full)])
@pytest.mark.parametrize("act", ["approve", "reject"])
def test_R27_H5_a_decision_while_no_engine_runs_is_kept_and_acted_on(tmp_path: Path, act: str, rounds: int) -> None:
    """Whoever decides may be killed at once: what it was told is recorded stays; the resume acts on what is there."""
    hurt = Hurt(tmp_path / "s.db", tmp_path / "effects")
    runs = [f"r{n}" for n in range(3 * rounds)]
    with Victim(hurt, *runs, chain="gated") as victim:
        assert victim.wait() == 3
    acknowledged: set[str] = set()
    for n in range(rounds):
        with decider(hurt, runs[3 * n : 3 * n + 3], act) as program:
            program.wait_for("ready")
            program.write("go")
            if n % 2:
                time.sleep(random.uniform(0, 0.05))
            else:
                program.wait_for("decided")
            program.kill()
        acknowledged |= told(program, "decided")
    assert acknowledged
    before = ends(hurt, runs)
    assert all(before[run] == ({"approve": "approved", "reject": "rejected"}[act], act, False, "waiting_approval")
               for run in acknowledged)  # fmt: skip
    with Victim(hurt, *runs, how="resume") as victim:
        victim.wait()
    after = ends(hurt, runs)
    expected = {"approved": "completed", "rejected": "failed", "pending": "waiting_approval"}
    for run in runs:
        status = before[run][0]
        assert after[run] == (status, before[run][1], status != "pending", expected[status])
    _finish(hurt, [run for run in runs if before[run][0] == "pending"])
    assert_sound(hurt, dict.fromkeys(runs))


def _finish(hurt: Hurt, runs: list[str]) -> None:
    async def cancel() -> None:
        async with open_engine(hurt.store) as engine:
            for run in runs:
                await engine.cancel(run)

    anyio.run(cancel)


@pytest.mark.parametrize("runs", [8, pytest.param(100, marks=full)])
def test_R27_H5_of_two_decisions_at_once_one_is_recorded_and_acted_on(tmp_path: Path, runs: int) -> None:
    """Two processes approve and reject while a third one works on the runs."""
    hurt, names = Hurt(tmp_path / "s.db", tmp_path / "effects"), [f"r{n}" for n in range(runs)]
    with (
        decider(hurt, names, "approve") as one,
        decider(hurt, names, "reject") as other,
        Victim(hurt, *names, how="start", chain="gated", pace=3) as victim,
    ):
        for program in (one, other):
            program.wait_for("ready")
            program.write("go")
        assert one.wait() == other.wait() == 0
        victim.wait()
    approved, rejected = told(one, "decided"), told(other, "decided")
    assert approved | rejected == set(names)
    assert not approved & rejected
    assert refusals(one) | refusals(other) == {"E_APPROVAL_DECIDED"}
    found = ends(hurt, names)
    assert {run for run in names if found[run] == ("approved", "approve", True, "completed")} == approved
    assert {run for run in names if found[run] == ("rejected", "reject", True, "failed")} == rejected
    assert_sound(hurt, dict.fromkeys(names))


@pytest.mark.parametrize("live", [True, False], ids=["live", "left"])
@pytest.mark.parametrize("runs", [10, pytest.param(100, marks=full)])
def test_R27_a_decision_at_the_moment_of_the_timeout(tmp_path: Path, runs: int, live: bool) -> None:
    """Whichever is recorded first counts, is what the one who decided is told, and is what the run does."""
    hurt, names = Hurt(tmp_path / "s.db", tmp_path / "effects"), [f"r{n}" for n in range(runs)]
    with (
        decider(hurt, names, "approve", beside=1.6 / runs) as program,
        Victim(hurt, *names, how="start", chain="timed", pace=4 if live else 0) as victim,
    ):
        program.wait_for("ready")
        program.write("go")
        assert program.wait() == 0
        assert victim.wait() == (0 if live else 3)
    if not live:
        with Victim(hurt, *names, how="resume") as victim:
            assert victim.wait() == 0
    approved = told(program, "decided")
    assert refusals(program) <= {"E_APPROVAL_EXPIRED"}
    assert 0 < len(approved) < runs, "all on the same side of the moment: nothing was tried"
    found = ends(hurt, names)
    for run in names:
        mine, nobodys = ("approved", "approve", True, "completed"), ("timed_out", None, True, "skipped")
        assert found[run] == (mine if run in approved else nobodys), run
    assert_sound(hurt, dict.fromkeys(names))
