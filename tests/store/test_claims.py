"""Claims that come at the same moment: one owner, and none that is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import anyio
import pytest

from towpath import RunRefused, chain, step
from towpath.events import ChainResumed
from towpath.new_run import new_run
from towpath.ports import Lease
from towpath.store.runs import open_store

pytestmark = pytest.mark.anyio


@step
async def work(n: int) -> int:
    return n


@chain
def one():
    return work(1)


async def test_of_claims_at_the_same_moment_one_succeeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also between two stores of one process: the second claim comes before the first caller is told."""
    async with open_store(tmp_path / "s.db") as store, open_store(tmp_path / "s.db") as other:
        await store.create_run(await new_run(store, "run", one.plan, {}))
        write, written, tell = store.database.write, anyio.Event(), anyio.Event()

        async def told_late(script: Any, *arguments: Any) -> Any:
            answer = await write(script, *arguments)
            written.set()
            await tell.wait()
            return answer

        monkeypatch.setattr(store.database, "write", told_late)
        first = asyncio.create_task(store.claim("run"))
        await written.wait()
        with pytest.raises(RunRefused, match="E_RUN_OWNED"):
            await other.claim("run")
        tell.set()
        assert await first == Lease("run", 1)


@pytest.mark.parametrize("turns", range(0, 40, 4))
async def test_a_claim_whose_caller_has_gone_holds_nothing(tmp_path: Path, turns: int) -> None:
    async with open_store(tmp_path / "s.db", durability="normal") as store:
        await store.create_run(await new_run(store, "run", one.plan, {}))
        claim = asyncio.create_task(store.claim("run"))
        for _ in range(turns):
            await asyncio.sleep(0)
        claim.cancel()
        told = await asyncio.gather(claim, return_exceptions=True)
        if isinstance(told[0], Lease):  # it was faster
            return
        with anyio.fail_after(10):
            assert (await store.claim("run")).run_id == "run"


async def test_a_run_whose_birth_is_still_queued_is_not_lost(tmp_path: Path) -> None:
    """Leases are renewed every few seconds, also while new runs wait for their commit."""
    async with open_store(tmp_path / "s.db") as store:
        lease, _, birth = store.newborn(await new_run(store, store.new_id(), one.plan, {}))
        assert await store.renew([lease]) == []
        recorded = anyio.Event()
        store.record_born(birth, [ChainResumed()], lambda _: recorded.set())
        await recorded.wait()
        assert await store.renew([lease]) == []
        assert await store.renew([Lease(lease.run_id, lease.epoch + 1)]) == [lease.run_id]
