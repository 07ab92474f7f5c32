"""Work that is stopped in order: cancelled at every suspension, or by signals."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.reliability.chains import CHAINS
from tests.reliability.invariants import Hurt, Picture, assert_sound, recorded
from tests.reliability.processes import ROOT, Program
from tests.reliability.suspensions import cancelled_at
from towpath import ApprovalRefused, Engine, RunRefused
from towpath.adapters.wiring import open_engine

full = pytest.mark.full
Unbroken = Callable[..., Picture]
Act = Callable[[Engine, str], Awaitable[Any]]
Scene = tuple[str, Callable[[Hurt], Act], Callable[[Hurt], Act]]
"""A chain, what is done before, and what is cancelled."""

CHAIN_FILE = Path(__file__).with_name("chains.py")
EVERY = 10_000


def _run(chain: str) -> Callable[[Hurt], Act]:
    def bound(hurt: Hurt) -> Act:
        async def act(engine: Engine, run: str) -> None:
            await engine.run(CHAINS[chain], run_id=run, inputs={"effects": str(hurt.effects), "pace": 0.0})

        return act

    return bound


def _nothing(hurt: Hurt) -> Act:
    async def act(engine: Engine, run: str) -> None:
        pass

    return act


def _paused_at_gate(hurt: Hurt) -> Act:
    return _run("gated")(hurt)


def _approved(hurt: Hurt) -> Act:
    async def act(engine: Engine, run: str) -> None:
        await _run("gated")(hurt)(engine, run)
        await _approve(hurt)(engine, run)

    return act


def _approve(hurt: Hurt) -> Act:
    async def act(engine: Engine, run: str) -> None:
        for waiting in await engine.approvals(run):
            await engine.approve(waiting["id"], by="somebody")

    return act


def _resume(hurt: Hurt) -> Act:
    async def act(engine: Engine, run: str) -> None:
        await engine.resume(run, check=False)

    return act


def _cancel(hurt: Hurt) -> Act:
    async def act(engine: Engine, run: str) -> None:
        await engine.cancel(run)

    return act


def _look(hurt: Hurt) -> Act:
    async def act(engine: Engine, run: str) -> None:
        await (await engine.get(run)).status()
        found = await engine.snapshot(run)
        for artifact in found["source"].artifacts:
            await artifact.read_bytes()
            await artifact.path()
            async for _ in artifact.open():
                pass

    return act


def _started(chain: str) -> Callable[[Hurt], Act]:
    def bound(hurt: Hurt) -> Act:
        async def act(engine: Engine, run: str) -> None:
            await engine.start(CHAINS[chain], run_id=run, inputs={"effects": str(hurt.effects), "pace": 0.1})
            while chain == "gated" and not await engine.approvals(run):  # noqa: ASYNC110 - as a person would look
                await anyio.sleep(0.005)

        return act

    return bound


def _pause(hurt: Hurt) -> Act:
    async def act(engine: Engine, run: str) -> None:
        await engine.pause(run)

    return act


SCENES: dict[str, Scene] = {
    "run": ("short", _nothing, _run("short")),
    "resume": ("gated", _approved, _resume),
    "approve": ("gated", _paused_at_gate, _approve),
    "cancel": ("gated", _paused_at_gate, _cancel),
    "cancel-live": ("gated", _started("gated"), _cancel),
    "pause-live": ("short", _started("short"), _pause),
    "approve-live": ("gated", _started("gated"), _approve),
    "look": ("short", _run("short"), _look),
    "diamond": ("diamond", _nothing, _run("diamond")),
}


async def _recover(engine: Engine, hurt: Hurt, run: str, chain: str, *, give_up: bool) -> None:
    """Everything still works: the run is approved and resumed, or cancelled, to its end."""
    with anyio.fail_after(60):
        try:
            if give_up:
                await engine.cancel(run)
                await (await engine.get(run)).result(check=False)
                return
            if engine.adapter.working(run):
                await (await engine.get(run)).result(check=False)
            for waiting in await engine.approvals(run):
                try:
                    await engine.approve(waiting["id"], by="somebody")
                except ApprovalRefused as refused:
                    if refused.code != "E_APPROVAL_DECIDED":  # a cancelled caller's decision may still be recorded
                        raise
            await engine.resume(run, check=False)
        except RunRefused as refused:
            if refused.code == "E_RUN_MISSING":
                await _run(chain)(hurt)(engine, run)
            elif refused.code != "E_RUN_OVER":
                raise


async def _at_every_suspension(hurt: Hurt, scene: str, natively: bool, step: int) -> int:
    chain, before, operation = SCENES[scene]
    async with open_engine(hurt.store, durability="normal") as engine:
        tasks = len(asyncio.all_tasks())
        for n in range(1, EVERY, step):
            run = f"{scene}-{n}"
            await before(hurt)(engine, run)
            act = operation(hurt)
            happened = await cancelled_at(n, lambda: act(engine, run), natively=natively)  # noqa: B023
            await _recover(engine, hurt, run, chain, give_up=scene.startswith("cancel"))
            if not happened:
                break
        with anyio.move_on_after(60):
            while len(asyncio.all_tasks()) != tasks:  # noqa: ASYNC110 - nothing tells
                await anyio.sleep(0.01)
        assert len(asyncio.all_tasks()) == tasks, "I16: tasks are left"
    return n


@pytest.mark.parametrize("natively", [False, True], ids=["scope", "task"])
@pytest.mark.parametrize(
    ("scene", "step"),
    [
        ("run", 1),
        ("resume", 3),
        ("approve", 1),
        ("cancel", 1),
        ("look", 2),
        ("cancel-live", 1),
        ("pause-live", 1),
        ("approve-live", 1),
    ]
    + [pytest.param(scene, 1, marks=full) for scene in SCENES],
)
def test_R16_cancelled_at_every_suspension(
    tmp_path: Path, unbroken: Unbroken, scene: str, step: int, natively: bool
) -> None:
    """Whatever was cancelled wherever: the store is usable, sound, and the run goes on to the same end."""
    hurt = Hurt(tmp_path / "s.db", tmp_path / "effects")
    points = anyio.run(_at_every_suspension, hurt, scene, natively, step)
    print(f"{scene}: cancelled at {points} suspensions")
    assert points >= 3
    expected = None if SCENES[scene][0] == "gated" else unbroken(SCENES[scene][0])
    assert_sound(hurt, dict.fromkeys(recorded(hurt), expected))


def _towpath(hurt: Hurt, *verb: str) -> Program:
    command = [sys.executable, "-m", "towpath", *verb, "--store", str(hurt.store)]
    return Program(command, {"PYTHONUNBUFFERED": "1"}, folder=hurt.store.parent)


def _run_verb(hurt: Hurt, chain: str, pace: float) -> Program:
    inputs = ["--input", f"effects={hurt.effects}", "--input", f"pace={pace}"]
    return _towpath(hurt, "run", f"{CHAIN_FILE}:{chain}", "--run-id", "r", *inputs)


def _resume_verb(hurt: Hurt) -> None:
    with _towpath(hurt, "resume", "r", "--import", str(CHAIN_FILE)) as resumed:
        assert resumed.wait() == 0, (resumed.lines[-5:], resumed.errors[-5:])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_R39_a_signal_pauses_the_run(tmp_path: Path, unbroken: Unbroken, number: signal.Signals) -> None:
    """Once: exit 130, the run is left paused, `towpath resume` completes it."""
    hurt = Hurt(tmp_path / "s.db", tmp_path / "effects")
    with _run_verb(hurt, "diamond", 1.0) as cli:
        cli.wait_for("✓ source")
        cli.signal(number)
        assert cli.wait() == 130, (cli.lines[-5:], cli.errors[-5:])
    assert {run: str(status) for run, status in recorded(hurt).items()} == {"r": "paused"}
    assert any("towpath resume r" in line for line in cli.lines)
    _resume_verb(hurt)
    assert_sound(hurt, {"r": unbroken("diamond")})


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=full)])
def test_R39_a_second_signal_ends_at_once(tmp_path: Path, unbroken: Unbroken, number: signal.Signals) -> None:
    """Twice: exit 130 without waiting for a step that takes its time; the run can be resumed."""
    hurt = Hurt(tmp_path / "s.db", tmp_path / "effects")
    with _run_verb(hurt, "draining", 30.0) as cli:
        cli.wait_for("✓ first")
        while "r slow - 1\n" not in hurt.effects.read_text():
            time.sleep(0.02)
        cli.signal(number)
        while not any("again to end at once" in line for line in cli.errors):
            time.sleep(0.02)
        cli.signal(number)
        assert cli.wait() == 130
    assert "slow" in hurt.effects.read_text()
    _cancel_verb(hurt)
    assert_sound(hurt, {"r": None})


def _cancel_verb(hurt: Hurt) -> None:
    with _towpath(hurt, "cancel", "r") as cancelled:
        assert cancelled.wait() == 0, (cancelled.lines[-5:], cancelled.errors[-5:])


def test_R39_python_itself_may_stop_what_uses_the_engine(tmp_path: Path, unbroken: Unbroken) -> None:
    """Ctrl-C in a script without handlers of ours: asyncio cancels the main task, the run is left paused."""
    hurt = Hurt(tmp_path / "s.db", tmp_path / "effects")
    script = f"""
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start what runs in the background without one
import anyio
from tests.reliability.chains import diamond
from towpath import open_engine
async def main():
    async with open_engine({str(hurt.store)!r}) as engine:
        await engine.run(diamond, run_id="r", inputs={{"effects": {str(hurt.effects)!r}, "pace": 1.0}})
anyio.run(main)
"""
    with Program([sys.executable, "-c", script], folder=ROOT) as program:
        while not hurt.effects.exists() or "r left" not in hurt.effects.read_text():
            assert program.process.poll() is None
            time.sleep(0.02)
        program.signal(signal.SIGINT)
        assert program.wait() != 0
    assert {run: str(status) for run, status in recorded(hurt).items()} == {"r": "paused"}
    with _towpath(hurt, "resume", "r") as resumed:
        assert resumed.wait() == 0, (resumed.lines[-5:], resumed.errors[-5:])
    assert_sound(hurt, {"r": unbroken("diamond")})
