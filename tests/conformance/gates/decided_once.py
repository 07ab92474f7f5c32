"""H5: a gate is decided once."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import anyio
import pytest

from tests.conformance.gates.pictures import facts_about, painted
from tests.conformance.runs import DONE, SKIPPED, OpenEngine, pending, settled
from towpath import ApprovalRefused, Engine


async def test_H5_a_second_decision_is_told_of_the_first(open_engine: OpenEngine, folder: str) -> None:
    """Who, when and what; nothing changes."""
    async with open_engine() as engine:
        run = await engine.run(painted(), folder=folder)
        gate = await pending(engine, run)
        before = datetime.now(UTC)
        await engine.reject(gate.id, by="anna", action="skip", reason="no")
        for again in (engine.approve, engine.reject):
            with pytest.raises(ApprovalRefused) as late:
                await again(gate.id, by="ben")
            assert late.value.code == "E_APPROVAL_DECIDED"
            said = late.value.problem.message
            assert "rejected by anna already" in said
            assert f"{before:%Y-%m-%d %H:}" in said or before.minute == 59
            assert "skip" in said
        assert len(await facts_about(engine, run.id, "DecisionRecorded")) == 1
        run = await engine.resume(run.id)
        assert (await settled(engine, run))["paint"] == SKIPPED


async def test_H5_many_decisions_at_once(open_engine: OpenEngine, folder: str) -> None:
    """Two engines, ten decisions: one wins, the others are refused, and the run does what the winner said."""
    async with open_engine() as engine, open_engine() as other:
        for attempt in range(5):
            run = await engine.run(painted(on_rejected="skip"), folder=folder)
            gate = await pending(engine, run)
            won: list[str] = []
            codes: set[str] = set()

            async def decide(
                who: Engine, what: str, n: int, gate: Any = gate, won: list[str] = won, codes: set[str] = codes
            ) -> None:
                try:
                    await getattr(who, what)(gate, by=f"{what} {n}")
                    won.append(f"{what} {n}")
                except ApprovalRefused as refused:
                    codes.add(refused.code)

            async with anyio.create_task_group() as tasks:
                for n in range(5):
                    first, second = ("approve", "reject") if (n + attempt) % 2 else ("reject", "approve")
                    tasks.start_soon(decide, engine, first, n)
                    tasks.start_soon(decide, other, second, n)
            assert (len(won), codes) == (1, {"E_APPROVAL_DECIDED"})
            assert (await engine.get_approval(gate.id)).decided_by == won[0]
            run = await engine.resume(run.id)
            expected = DONE if won[0].startswith("approve") else SKIPPED
            assert (await settled(engine, run))["paint"] == expected
