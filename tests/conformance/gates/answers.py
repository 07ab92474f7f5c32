"""H4: every answer at a gate, live and after a restart."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from tests.conformance.chain_steps import let_go
from tests.conformance.gates.pictures import painted, versions_of
from tests.conformance.runs import DONE, FAILED, SKIPPED, WAITS, OpenEngine, is_now, pending, rows, settled, until
from towpath import Engine

Came = tuple[str | None, str | None, str | None, str]
STOPPED: Came = (FAILED, SKIPPED, SKIPPED, "failed")
DROPPED: Came = (SKIPPED, SKIPPED, DONE, "completed")
PASSED: Came = (DONE, DONE, DONE, "completed")
AGAIN: Came = (WAITS, None, None, "paused")
ANSWERS: dict[str, tuple[dict[str, Any], str | None, Came]] = {
    "approve": ({}, "approve", PASSED),
    "approve-skip": ({"on_rejected": "skip"}, "approve", PASSED),
    "approve-regenerate": ({"on_rejected": "regenerate", "max_retries": 1}, "approve", PASSED),
    "stop": ({}, "reject", STOPPED),
    "skip": ({"on_rejected": "skip"}, "reject", DROPPED),
    "regenerate": ({"on_rejected": "regenerate", "max_retries": 1}, "reject", AGAIN),
    "regenerate-never": ({"on_rejected": "regenerate"}, "reject", STOPPED),
    "regenerate-by-name": ({"max_retries": 1}, "regenerate", AGAIN),
    "stop-by-name": ({"on_rejected": "skip"}, "stop", STOPPED),
    "skip-by-name": ({"on_rejected": "regenerate", "max_retries": 1}, "skip", DROPPED),
    "late-approve": ({"timeout_action": "auto_approve"}, None, PASSED),
    "late-approve-skip": ({"timeout_action": "auto_approve", "on_rejected": "skip"}, None, PASSED),
    "late-approve-regenerate": (
        {"timeout_action": "auto_approve", "on_rejected": "regenerate", "max_retries": 2},
        None,
        PASSED,
    ),
    "late-stop": ({}, None, STOPPED),
    "late-skip": ({"on_rejected": "skip"}, None, DROPPED),
    "late-regenerate": ({"on_rejected": "regenerate", "max_retries": 2}, None, STOPPED),
}


@pytest.mark.parametrize("live", [True, False], ids=["live", "resumed"])
@pytest.mark.parametrize("name", ANSWERS)
async def test_H4_every_answer(open_engine: OpenEngine, folder: str, name: str, live: bool) -> None:
    """Statuses of the step, of what needs it, of what looks at its status, and of the chain, live or at the resume."""
    policy, answer, expected = ANSWERS[name]
    if answer is None:
        policy = {**policy, "timeout": 0.3 if live else 1.0}

    async def act(engine: Engine, run_id: str) -> None:
        gate = await pending(engine, run_id)
        if answer == "approve":
            await engine.approve(gate.id, by="anna")
        elif answer == "reject":
            await engine.reject(gate.id, by="anna", reason="too blue")
        else:
            await engine.reject(gate.id, by="anna", reason="too blue", action=answer)

    async with open_engine() as engine:
        if live:
            handle = await engine.start(painted(beside=True, **policy), folder=folder)
            if answer is not None:
                await until(lambda: is_now(engine, handle.id, "paint", WAITS))
                await act(engine, handle.id)
            await until(lambda: _acted_on(engine, handle.id))
            let_go(folder, "beside")
            run = await handle.result(check=False)
        else:
            run = await engine.run(painted(**policy), folder=folder)
            assert run.status == "paused"
            if answer is None:
                await anyio.sleep(1.05)
            else:
                await act(engine, run.id)
            run = await engine.resume(run.id, check=False)
        statuses = await settled(engine, run)
        assert (*(statuses.get(s) for s in ("paint", "first_line", "after")), run.status) == expected
        gate = (await engine.list_approvals(chain_id=run.id))[0]
        word = "timed_out" if answer is None else "approved" if answer == "approve" else "rejected"
        assert (gate.status, gate.decided_by, gate.delivered) == (word, None if answer is None else "anna", True)
        said = {PASSED: "auto_approved" if answer is None else "approved"}.get(expected, "rejected")
        assert (await versions_of(engine, run.id, "paint"))[0][:2] == (1, said)
        if expected is STOPPED:
            assert run["paint"].error is not None
            assert run["paint"].error.code == "E_REJECTED"
            assert ("no decision in time" if answer is None else "by anna: too blue") in run["paint"].error.message
        if expected is DROPPED:
            row = (await rows(engine, run))["paint"]
            assert (row.error_code, "rejected" in row.error_message) == (None, True)
        if expected is AGAIN:
            assert await versions_of(engine, run.id, "paint") == [(1, "rejected", False), (2, "pending", True)]


async def _acted_on(engine: Engine, run_id: str) -> bool:
    return any(gate.delivered for gate in await engine.list_approvals(chain_id=run_id))
