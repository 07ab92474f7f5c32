"""How often processes died on a step, told from the audit trail."""

from __future__ import annotations

from pathlib import Path

import pytest

from towpath import chain, step
from towpath.events import AttemptReleased, ChainPaused, ChainResumed, StepReady, StepRetried, StepStarted
from towpath.model import ErrorInfo
from towpath.new_run import new_run
from towpath.store.crashes import RELEASED, lost_attempts
from towpath.store.runs import open_store

pytestmark = pytest.mark.anyio


def lines(*told: str) -> list[dict[str, str | None]]:
    """`a+` is a start of row a, `a!Word` a line about it, `!Word` one about the run."""
    found: list[dict[str, str | None]] = []
    for line in told:
        row, _, kind = line.partition("!")
        starts = line.endswith("+")
        found.append({"workflow_id": line[:-1] if starts else row or None, "type": "StepStarted" if starts else kind})
    return found


@pytest.mark.parametrize(
    ("told", "lost"),
    [
        ((), {}),
        (("a+",), {"a": 1}),
        (("a+", "a+", "a+"), {"a": 3}),
        (("a+", "b+", "a+"), {"a": 2, "b": 1}),
        (("a+", "a+", "a!StepRetried", "a+"), {"a": 1}),  # it failed by itself: another attempt, counted anew
        (("a+", "a+", "a!DecisionApplied"), {}),  # a person had it made again
        (("a+", "b+", "a!AttemptReleased", "b+"), {"b": 2}),  # its worker stopped in good order
        (("a+", "b+", "!ChainPaused", "b+"), {"b": 1}),  # Ctrl-C, or a pause, is nobody's death
        (("a+", "a+", f"!{RELEASED}", "a+"), {"a": 1}),  # the process could not go on, and lived
    ],
)
def test_a_start_without_an_end_is_a_death(told: tuple[str, ...], lost: dict[str, int]) -> None:
    """Whatever says that an attempt ended, or was let go, starts the count anew."""
    assert lost_attempts(lines(*told)) == lost


@step
async def work(n: int) -> int:
    return n


@chain
def one():
    return work(1)


async def test_the_audit_trail_is_read_as_it_is_written(tmp_path: Path) -> None:
    """Through the store: two deaths, a release that is told once, a pause, and an owner that came too late."""
    async with open_store(tmp_path / "s.db", durability="normal") as store:
        await store.create_run(await new_run(store, "run", one.plan, {}))
        lease = await store.claim("run")
        ready = StepReady("row", "work", None, "m:work", True, 1)
        await store.record(lease, [ChainResumed(), ready])
        await store.record(lease, [StepStarted("row", "work", None, 2)])
        assert await store.lost_attempts("run") == {"row": 2}
        await store.release(lease)
        await store.release(lease)
        assert await store.lost_attempts("run") == {}
        assert [e["type"] for e in await store.events("run")].count(RELEASED) == 1
        again = await store.claim("run")
        await store.record(again, [StepStarted("row", "work", None, 3)])
        await store.release(lease)  # the first owner, late: not its run any more
        assert await store.lost_attempts("run") == {"row": 1}
        await store.record(again, [AttemptReleased("row", "work", None, 3), StepStarted("row", "work", None, 4)])
        assert await store.lost_attempts("run") == {"row": 1}
        await store.record(again, [StepRetried("row", "work", None, 4, ErrorInfo("E_STEP_RAISED", "no"), 0.0)])
        assert await store.lost_attempts("run") == {}
        await store.record(again, [StepStarted("row", "work", None, 5), ChainPaused("interrupted")])
        assert await store.lost_attempts("run") == {}


async def test_an_owner_that_lives_did_not_die(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stood still for longer than its lease, or works on in another store object: the start it made is no death."""
    async with open_store(tmp_path / "s.db", durability="normal", lease_seconds=0.05) as store:
        await store.create_run(await new_run(store, "run", one.plan, {}))
        first = await store.claim("run")
        await store.record(first, [ChainResumed(), StepReady("row", "work", None, "m:work", True, 1)])
        monkeypatch.setattr("towpath.store.runs._owned_here", set())  # as another process would see it
        again = await store.claim("run")
        assert await store.lost_attempts("run") == {}
        await store.record(again, [StepStarted("row", "work", None, 2)])
        monkeypatch.setattr("towpath.store.runs._owned_here", set())
        monkeypatch.setattr("towpath.store.owners.Owner.dead", True)
        await store.claim("run")
        assert await store.lost_attempts("run") == {"row": 1}
