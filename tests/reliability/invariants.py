"""What must hold whatever was done to a store (research/reliability.md 2.2). Every test ends here."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from tests.raw_sql import raw
from tests.reliability.chains import CHAINS
from towpath import Artifact, ChainStatus, Engine, Run, TowpathError
from towpath.adapters.wiring import open_engine
from towpath.store.fsck import fsck

Picture = dict[str, Any]
"""Values and files of a run by step, with ids and times left out."""

ENDINGS = {"StepCompleted", "StepFailed", "StepSkipped", "StepCancelled", "StepCached"}


@dataclass(frozen=True, slots=True)
class Ack:
    """A line that a victim printed after the fact was recorded."""

    run: str
    step: str
    item: str
    attempt: int
    status: str


@dataclass(slots=True)
class Hurt:
    """A store that was hurt, and what is known of it from outside."""

    store: Path
    effects: Path
    acks: set[Ack] = field(default_factory=set)
    over: dict[str, str] = field(default_factory=dict)

    def hear(self, lines: Iterable[str]) -> None:
        """Take a victim's word."""
        for line in lines:
            word, *rest = line.split()
            if word == "ack" and len(rest) == 5:
                self.acks.add(Ack(rest[0], rest[1], rest[2], int(rest[3]), rest[4]))
            elif word == "over" and len(rest) == 2:
                self.over[rest[0]] = rest[1]

    def hear_only(self, lines: Iterable[str]) -> None:
        """Forget what was heard, and take these lines for all that was said."""
        self.acks.clear()
        self.over.clear()
        self.hear(lines)

    def attempts(self) -> Counter[tuple[str, str, str, int]]:
        """How often each attempt of each step really ran."""
        if not self.effects.exists():
            return Counter()
        lines = [line.split() for line in self.effects.read_text().splitlines()]
        return Counter((run, step, item, int(attempt)) for run, step, item, attempt in lines)


def finish(hurt: Hurt) -> None:
    """Go on, in this process, with every run that is not over."""

    async def go() -> None:
        async with open_engine(hurt.store) as engine:
            for row in await _rows(engine, "SELECT id, status FROM chains ORDER BY id"):
                if not ChainStatus(row["status"]).final:
                    await engine.resume(row["id"], check=False)

    anyio.run(go)


def recorded(hurt: Hurt) -> dict[str, ChainStatus]:
    """The runs that are recorded, and their status."""

    async def look() -> dict[str, ChainStatus]:
        async with open_engine(hurt.store) as engine:
            return {
                row["id"]: ChainStatus(row["status"]) for row in await _rows(engine, "SELECT id, status FROM chains")
            }

    return anyio.run(look)


def problems(hurt: Hurt, expected: Mapping[str, Picture | None]) -> list[str]:
    """Everything that is wrong with a hurt store. `expected` gives what its runs must have come to; None: anything."""
    before = set(threading.enumerate())
    try:
        found = anyio.run(_problems, hurt, expected)
    except TowpathError as error:
        found = [f"the store cannot be opened: {error}"]
    left = set(threading.enumerate()) - before
    for thread in left:
        thread.join(2)
    return found + [f"I16 a thread is left: {thread.name}" for thread in left if thread.is_alive()]


def assert_sound(hurt: Hurt, expected: Mapping[str, Picture | None]) -> None:
    """Fail with the list of what is wrong."""
    found = problems(hurt, expected)
    assert not found, "\n".join(found)


async def _problems(hurt: Hurt, expected: Mapping[str, Picture | None]) -> list[str]:
    async with open_engine(hurt.store) as engine:
        found = [*await _promises(engine, hurt), *await _events(engine), *await _damage(engine)]
        for run, picture in expected.items():
            found += await _outcome(engine, run, picture)
    return found


async def _rows(engine: Engine, sql: str) -> list[dict[str, Any]]:
    return await raw(engine.store, sql)  # type: ignore[arg-type]


async def _promises(engine: Engine, hurt: Hurt) -> list[str]:
    """I1 and I2: what was acknowledged is recorded, and nothing ran behind the store's back."""
    sql = "SELECT chain_id, step_id, item_index, attempt, status FROM workflows WHERE chain_id IS NOT NULL"
    rows = {
        (r["chain_id"], r["step_id"], "-" if r["item_index"] is None else str(r["item_index"])): r
        for r in await _rows(engine, sql)
    }
    chains = {r["id"]: r["status"] for r in await _rows(engine, "SELECT id, status FROM chains")}
    found = [f"I1 lost: {ack}" for ack in hurt.acks if not _kept(ack, rows.get((ack.run, ack.step, ack.item)))]
    found += [f"I1 lost: {run} {said}" for run, said in hurt.over.items() if chains.get(run) != said]
    for (run, step, item, attempt), times in hurt.attempts().items():
        row = rows.get((run, step, item))
        if times > 1:
            found.append(f"I2 attempt {attempt} of {run} {step} {item} ran {times} times")
        if row is None or attempt > row["attempt"]:
            found.append(f"I2 attempt {attempt} of {run} {step} {item} ran, recorded is {row}")
    return found


def _kept(ack: Ack, row: dict[str, Any] | None) -> bool:
    if row is None:
        return False
    if ack.status in ("executing", "waiting_approval"):
        return bool(row["attempt"] >= ack.attempt)
    return (row["status"], row["attempt"]) == (ack.status, ack.attempt)


async def _events(engine: Engine) -> list[str]:
    """I12: a row ends once, and nothing happens to it afterwards."""
    found = []
    ended: set[str] = set()
    for event in await _rows(engine, "SELECT workflow_id, type, data FROM events ORDER BY seq"):
        row, kind = event["workflow_id"], event["type"]
        if row is None or not kind.startswith("Step"):
            continue
        if row in ended:
            found.append(f"I12 {kind} after the end of row {row}")
        if kind in ENDINGS:
            ended.add(row)
    return found


async def _damage(engine: Engine) -> list[str]:
    """What `towpath fsck` finds."""
    report = await fsck(engine.store)  # type: ignore[arg-type]
    return [f"fsck: {problem}" for problem in report.problems]


async def _outcome(engine: Engine, run_id: str, picture: Picture | None) -> list[str]:
    """I11: the run came to what an unbroken one comes to."""
    run = await engine.snapshot(run_id)
    if picture is None:
        return [] if run.status.final else [f"run {run_id} is not over: {run.status}"]
    if run.status is not ChainStatus.COMPLETED:
        return [f"run {run_id} is {run.status}: {run.error}"]
    found = picture_of(run)
    return [
        f"I11 {run_id} {step}: {found.get(step)}, not {picture[step]}"
        for step in picture
        if found.get(step) != picture[step]
    ]


def picture_of(run: Run) -> Picture:
    """A run's values and files by step, ids and times left out."""
    return {
        step.id: (_shape(step.value), sorted((a.name, a.version, a.filename, a.digest) for a in step.artifacts))
        for step in run.steps
    }


def _shape(value: Any) -> Any:
    if isinstance(value, Artifact):
        return (value.name, value.digest, value.size)
    if isinstance(value, dict):
        return {key: _shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_shape(inner) for inner in value]
    return value


def unbroken_picture(folder: Path, chain: str, inputs: Mapping[str, int]) -> Picture:
    """Run a chain that nobody hurts."""

    async def go() -> Picture:
        async with open_engine(folder / "unbroken.db", durability="normal") as engine:
            given = {"effects": str(folder / "effects"), "pace": 0.0, **inputs}
            run = await engine.run(CHAINS[chain], inputs=given)
            return picture_of(run.raise_for_status())

    return anyio.run(go)
