"""R35: random operations on the store against a model made of plain dicts; crashing and reopening among them."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, rule, run_state_machine_as_test

from tests.conformance.records import PLAN
from towpath import store as api
from towpath.errors import Fenced, InputInvalid, StoreFailed
from towpath.events import ChainEnded, ChainResumed, NewArtifact, StepDropped, StepEnded, StepReady
from towpath.model import ChainStatus, StepStatus
from towpath.ports import Lease, NewRun
from towpath.store import RunStore, fsck, open_store

T = TypeVar("T")

OPEN = ("queued", "executing", "waiting_approval")
FINAL = ("completed", "failed", "skipped", "cancelled", "cached")
FOLLOWS = {
    "queued": set[str](),
    "executing": set(OPEN),
    "waiting_approval": {"queued", "executing"},
    **{word: set(OPEN) for word in FINAL},
}
SENT = {
    "pending": {"failed"},
    "uploading": {"pending", "uploading", "failed"},
    "completed": {"pending", "uploading"},
    "failed": {"pending", "uploading"},
}
DATA = st.sampled_from([b"", b"a", b"b" * 100, b"c" * 16_384, b"d" * 16_385, b"e" * 70_000])
NAMES = st.sampled_from(["output", "mask", "9.images[0]"])


@dataclass
class Output:
    """What the model knows of one output of a workflow."""

    versions: dict[int, tuple[str, str]] = field(default_factory=dict)  # number: id, digest
    latest: int = 0
    highest: int = 0


@dataclass
class Row:
    chain: str
    status: str
    outputs: dict[str, Output] = field(default_factory=dict)
    transfers: dict[str, str] = field(default_factory=dict)


class StoreMachine(RuleBasedStateMachine):
    """Everything the store is told, told to dicts as well."""

    chains = Bundle("chains")
    rows = Bundle("rows")
    runs = Bundle("runs")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="towpath-machine-"))
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.left: list[AsyncExitStack] = []
        self.store: RunStore
        self.model_chains: dict[str, str] = {}
        self.model: dict[str, Row] = {}
        self.leases: dict[str, Lease] = {}
        self.place = 0

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        async def bounded() -> T:
            with anyio.fail_after(60):
                return await work

        return self.runner.run(bounded())

    # ---- opening, closing, crashing

    @initialize()
    def begin(self) -> None:
        self.do(self.open())

    async def open(self) -> None:
        self.stack = AsyncExitStack()
        path = self.folder / str(self.place) / "towpath.db"
        path.parent.mkdir(exist_ok=True)
        self.store = await self.stack.enter_async_context(open_store(path, durability="normal", lease_seconds=0))

    @rule()
    def reopen(self) -> None:
        self.do(self.stack.aclose())
        self.do(self.open())

    @rule(queued=st.integers(0, 3))
    def crash(self, queued: int) -> None:
        """What a killed process leaves: the files as they are. What was queued and not acknowledged is gone."""

        async def queue() -> None:
            for _ in range(queued):
                run = NewRun(self.store.new_id(), PLAN, {})
                task = asyncio.ensure_future(self.store.create_run(run))
                task.add_done_callback(lambda done: done.cancelled() or done.exception())
                tasks.append(task)

        tasks: list[asyncio.Task[bool]] = []
        self.do(queue())
        old, self.place = self.folder / str(self.place), self.place + 1
        shutil.copytree(old, self.folder / str(self.place), ignore=shutil.ignore_patterns("*-shm"))
        self.left.append(self.stack)
        self.do(self.open())

    # ---- the seed's functions

    @rule(target=chains)
    def create_chain(self) -> str:
        async def work() -> str:
            async with self.store.session() as session:
                return str((await api.create_chain(session, "demo", "running")).id)

        chain = self.do(work())
        self.model_chains[chain] = "running"
        return chain

    @rule(target=rows, chain=chains, word=st.sampled_from(OPEN[:2]))
    def create_workflow(self, chain: str, word: str) -> str:
        async def work() -> str:
            async with self.store.session() as session:
                key = self.store.new_id()
                made = await api.create_workflow(session, "w", chain_id=chain, step_id=key, status=word)
                return str(made.id)

        if chain not in self.model_chains:
            assert self.refused(work()) == "E_DB_REFERENCE"
            return ""
        row = self.do(work())
        self.model[row] = Row(chain, word)
        return row

    @rule(row=rows, word=st.sampled_from([*OPEN, *FINAL]))
    def set_status(self, row: str, word: str) -> None:
        async def work() -> Any:
            async with self.store.session() as session:
                return await api.update_workflow_status(session, row, word)

        known = self.model.get(row)
        if known is None:
            assert self.do(work()) is None
        elif word == "waiting_approval":
            return  # without a gate it would wait for ever, and fsck says so
        elif known.status in FOLLOWS[word] or known.status == word:
            assert self.do(work()).status == word
            known.status = word
        else:
            assert self.refused(work()) == "E_TRANSITION"

    @rule(row=rows, name=NAMES, data=DATA, latest=st.booleans(), child=st.booleans())
    def create_artifact(self, row: str, name: str, data: bytes, latest: bool, child: bool) -> None:
        known = self.model.get(row)
        output = known.outputs.get(name) if known else None
        parent = output.versions[output.latest][0] if output and output.versions and child else None

        async def work() -> Any:
            async with self.store.session() as session:
                return await api.create_artifact(
                    session, row, "x.bin", data=data, name=name, is_latest=latest, parent_artifact_id=parent
                )

        if known is None:
            assert self.refused(work()) == "E_DB_REFERENCE"
            return
        if parent is not None and known.chain in self.leases and known.status in ("queued", "executing"):
            assert self.refused(work()) == "E_ARTIFACT_BUSY"  # the run makes the next version itself
            return
        made = self.do(work())
        output = known.outputs.setdefault(name, Output())
        output.highest += 1
        assert made.version == output.highest
        if latest or not output.versions:
            output.latest = output.highest
        output.versions[output.highest] = (made.id, hashlib.sha256(data).hexdigest())

    @rule(row=rows, name=NAMES, pick=st.integers(0, 5))
    def delete_artifact(self, row: str, name: str, pick: int) -> None:
        output = self.output(row, name)
        if output is None:
            return
        number = sorted(output.versions)[pick % len(output.versions)]

        async def work() -> bool:
            async with self.store.session() as session:
                return await api.delete_artifact(session, output.versions[number][0])

        assert self.do(work())
        del output.versions[number]
        if output.latest == number:
            output.latest = max(output.versions, default=0)
        self.model[row].transfers.clear()  # those of this artifact went with it; the others are read again
        self.do(self.read_transfers(row))

    @rule(row=rows, name=NAMES, pick=st.integers(0, 5), flag=st.booleans())
    def set_latest(self, row: str, name: str, pick: int, flag: bool) -> None:
        output = self.output(row, name)
        if output is None:
            return
        number = sorted(output.versions)[pick % len(output.versions)]

        async def work() -> Any:
            async with self.store.session() as session:
                return await api.update_artifact_latest_flag(session, output.versions[number][0], flag)

        others = [n for n in output.versions if n != number]
        if not flag and output.latest == number and not others:
            assert self.refused(work()) == "E_ARTIFACT_LATEST"
            return
        self.do(work())
        if flag:
            output.latest = number
        elif output.latest == number:
            output.latest = max(others)

    @rule(row=rows, name=NAMES)
    def create_transfer(self, row: str, name: str) -> None:
        output = self.output(row, name)
        if output is None:
            return

        async def work() -> str:
            async with self.store.session() as session:
                artifact = output.versions[output.latest][0]
                return str((await api.create_transfer(session, artifact, row, self.store.new_id())).id)

        self.model[row].transfers[self.do(work())] = "pending"

    @rule(row=rows, word=st.sampled_from(list(SENT)))
    def send(self, row: str, word: str) -> None:
        known = self.model.get(row)
        for transfer, status in list(known.transfers.items()) if known else ():

            async def work(transfer: str = transfer) -> Any:
                async with self.store.session() as session:
                    return await api.update_transfer_status(session, transfer, word)

            if status in SENT[word] or status == word:
                assert self.do(work()).status == word
                known.transfers[transfer] = word
            else:
                assert self.refused(work()) == "E_TRANSITION"

    @rule(row=rows)
    def delete_workflow(self, row: str) -> None:
        async def work() -> bool:
            async with self.store.session() as session:
                return await api.delete_workflow(session, row)

        assert self.do(work()) == (self.model.pop(row, None) is not None)

    @rule(chain=consumes(chains))
    def delete_chain(self, chain: str) -> None:
        async def work() -> bool:
            async with self.store.session() as session:
                return await api.delete_chain(session, chain)

        assert self.do(work())
        self.forget(chain)

    @rule(row=rows, how=st.sampled_from(["error", "cancel", "caught"]))
    def half_a_session(self, row: str, how: str) -> None:
        """Nothing of it is there afterwards."""

        async def work() -> None:
            with anyio.CancelScope() as scope:
                async with self.store.session() as session:
                    chain = await api.create_chain(session, "half")
                    await api.create_workflow(session, "half", chain_id=chain.id, step_id="a")
                    if row in self.model:
                        await api.create_artifact(session, row, data=b"half", name="output")
                    if how == "error":
                        raise ZeroDivisionError
                    if how == "cancel":
                        scope.cancel()
                        await anyio.lowlevel.checkpoint()
                    with suppress(StoreFailed):
                        await api.create_workflow(session, "half", chain_id="nothing", step_id="a")

        with suppress(ZeroDivisionError, StoreFailed):
            self.do(work())

    # ---- runs

    @rule(target=runs)
    def create_run(self) -> str:
        async def work() -> Lease:
            run = self.store.new_id()
            assert await self.store.create_run(NewRun(run, PLAN, {}))
            assert not await self.store.create_run(NewRun(run, PLAN, {}))
            lease = await self.store.claim(run)
            await self.store.record(lease, [ChainResumed()])
            return lease

        lease = self.do(work())
        self.model_chains[lease.run_id] = "running"
        self.leases[lease.run_id] = lease
        return lease.run_id

    @rule(target=rows, run=runs, name=NAMES, data=DATA, word=st.sampled_from(["executing", "completed", "failed"]))
    def record_step(self, run: str, name: str, data: bytes, word: str) -> str:
        async def work(row: str) -> NewArtifact:
            kept = await self.store.files.keep(data, "x.bin")
            where = (kept.local_path, kept.inline)
            made = NewArtifact(
                self.store.new_id(), name, 1, kept.filename, kept.media_type, kept.size, kept.digest, *where
            )
            lease = self.leases[run]
            facts: list[Any] = [StepReady(row, row, None, "m", started=True, attempt=1)]
            if word != "executing":
                artifacts = (made,) if word == "completed" else ()
                value = {"$artifact": name} if artifacts else None
                facts.append(StepEnded(row, row, None, StepStatus(word), 1, value, artifacts))
            await self.store.record(lease, facts)
            return made

        if self.model_chains.get(run) != "running":
            return ""
        row = self.store.new_id()
        made = self.do(work(row))
        self.model[row] = Row(run, word)
        if word == "completed":
            self.model[row].outputs[name] = Output({1: (made.id, made.digest)}, 1, 1)
        return row

    @rule(run=runs)
    def take_over(self, run: str) -> None:
        """The old owner records nothing more."""

        async def work() -> Lease:
            old = self.leases[run]
            await self.store.release(old)
            new = await self.store.claim(run)
            with pytest.raises(Fenced):
                await self.store.record(old, [StepDropped("x", "x", None, "m", StepStatus.SKIPPED, "")])
            return new

        if self.model_chains.get(run) == "running":
            self.leases[run] = self.do(work())

    @rule(run=runs, status=st.sampled_from([ChainStatus.COMPLETED, ChainStatus.PARTIAL, ChainStatus.FAILED]))
    def end_run(self, run: str, status: ChainStatus) -> None:
        if any(row.chain == run and row.status in OPEN for row in self.model.values()):
            return
        if self.model_chains.get(run) == "running":
            self.do(self.store.record(self.leases[run], [ChainEnded(status)]))
            self.model_chains[run] = str(status)
        elif run in self.model_chains:
            fenced = self.model_chains[run] == "cancelled"  # by somebody who found it without an owner
            code = self.refused(self.store.record(self.leases[run], [ChainEnded(status)]))
            assert code == ("E_FENCED" if fenced else "E_TRANSITION")

    @rule(run=runs)
    def cancel_run(self, run: str) -> None:
        if self.model_chains.get(run) != "running":
            return

        async def work() -> None:
            await self.store.release(self.leases[run])
            assert await self.store.request(run, "cancel") == ChainStatus.CANCELLED

        self.do(work())
        self.model_chains[run] = "cancelled"
        for row in self.model.values():
            if row.chain == run and row.status in OPEN:
                row.status = "cancelled"

    # ---- comparing

    @rule()
    def compare(self) -> None:
        self.do(self.compared())

    def output(self, row: str, name: str) -> Output | None:
        known = self.model.get(row)
        output = known.outputs.get(name) if known else None
        return output if output and output.versions else None

    def forget(self, chain: str) -> None:
        del self.model_chains[chain]
        self.model = {row: known for row, known in self.model.items() if known.chain != chain}

    def refused(self, work: Coroutine[Any, Any, Any]) -> str:
        with pytest.raises((StoreFailed, Fenced, InputInvalid)) as caught:
            self.do(work)
        return caught.value.code

    async def read_transfers(self, row: str) -> None:
        async with self.store.session() as session:
            listed = await api.list_transfers(session, limit=10_000)
        known = self.model[row]
        known.transfers = {t.id: t.status for t in listed if t.source_workflow_id == row}

    async def compared(self) -> None:
        async with self.store.session() as session:
            chains = {c.id: c.status for c in await api.list_chains(session, limit=10_000)}
            rows = {w.id: w for w in await api.list_workflows(session, limit=10_000)}
            artifacts = await api.list_artifacts(session, limit=10_000)
            transfers = {t.id: t.status for t in await api.list_transfers(session, limit=10_000)}
        assert chains == self.model_chains
        assert {row: found.status for row, found in rows.items()} == {r: k.status for r, k in self.model.items()}
        assert transfers == {t: s for known in self.model.values() for t, s in known.transfers.items()}
        expected = {
            (row, name, number, ids[0], ids[1], number == output.latest)
            for row, known in self.model.items()
            for name, output in known.outputs.items()
            for number, ids in output.versions.items()
        }
        assert {(a.workflow_id, a.name, a.version, a.id, a.sha256, a.is_latest) for a in artifacts} == expected
        report = await fsck(self.store)
        assert report.problems == (), str(report)

    async def finish(self) -> None:
        await self.compared()
        report = await fsck(self.store, repair=True, grace=0)  # what was deleted leaves bytes behind, no more
        assert report.clean
        assert {problem.code for problem in report.problems} <= {"E_FSCK_ORPHAN"}
        await self.compared()
        await self.stack.aclose()
        for old in self.left:
            await old.aclose()

    def teardown(self) -> None:
        try:
            if hasattr(self, "store"):
                self.do(self.finish())
        finally:
            self.runner.close()
            shutil.rmtree(self.folder, ignore_errors=True)


def run_machine(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
            report_multiple_bugs=False,
        ),
    )


@pytest.mark.parametrize("quarter", range(4))
def test_R35_two_hundred_random_lives_of_a_store(quarter: int) -> None:
    run_machine(50, 20)


@pytest.mark.full
def test_R35_five_thousand_random_lives_of_a_store() -> None:
    run_machine(5000, 40)


CHILD = """
import anyio, os, random, sys
from pathlib import Path
from towpath.store import create_artifact, create_chain, create_workflow, delete_artifact, open_store
async def main():
    chance = random.Random(int(sys.argv[2]))
    async with open_store(Path(sys.argv[1]), durability="normal") as store:
        made = []
        for i in range(chance.randrange(1, 40)):
            async with store.session() as session:
                if made and chance.random() < 0.3:
                    gone = made.pop(chance.randrange(len(made)))
                    await delete_artifact(session, gone)
                    told = f"- {gone}"
                else:
                    chain = await create_chain(session, "demo")
                    row = await create_workflow(session, "w", chain_id=chain.id, step_id="a")
                    data = chance.randbytes(chance.choice([10, 20_000]))
                    made.append((await create_artifact(session, row.id, data=data)).id)
                    told = f"+ {made[-1]}"
            print(told, flush=True)
        async with store.session() as session:
            await create_chain(session, "never acknowledged")
            os._exit(9)
anyio.run(main)
"""


@pytest.mark.parametrize("seed", range(4))
def test_R35_a_child_that_exits_inside_a_transaction(tmp_path: Path, seed: int) -> None:
    file = tmp_path / "towpath.db"
    command = [sys.executable, "-c", CHILD, str(file), str(seed)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False, timeout=60)
    assert done.returncode == 9
    told: set[str] = set()
    for line in done.stdout.decode().splitlines():
        (told.add if line[0] == "+" else told.discard)(line[2:])

    async def check() -> None:
        async with open_store(file) as store:
            async with store.session() as session:
                assert {a.id for a in await api.list_artifacts(session, limit=1000)} == told
                assert not [c for c in await api.list_chains(session, limit=1000) if c.name != "demo"]
            report = await fsck(store)
            assert report.problems == (), str(report)

    anyio.run(check)
