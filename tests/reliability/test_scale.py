"""Long and wide chains, and a step that blocks everything."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.reliability.chains import blocked, line, wide
from tests.reliability.invariants import Hurt, assert_sound
from tests.reliability.processes import Victim
from towpath import Chain
from towpath.adapters.wiring import open_engine

full = pytest.mark.full


async def _effort(hurt: Hurt, chain: Chain[..., Any], run: str, inputs: dict[str, Any], value: Any) -> float:
    """Processor seconds of a run: what others do on this machine does not count."""
    async with open_engine(hurt.store, durability="normal") as engine:
        chain.plan  # noqa: B018 - compiled on first use
        began = time.process_time()
        result = await engine.run(chain, run_id=run, inputs=inputs)
        took = time.process_time() - began
        assert result.value == value
        return took


def _growth(hurt: Hurt, small: int, large: int, *, is_wide: bool) -> float:
    """How much longer a step takes in a large chain than in a small one."""

    def a_step(size: int, run: str) -> float:
        numbers = list(range(size))
        inputs = {"numbers": numbers} if is_wide else {"effects": str(hurt.effects)}
        value = sum(numbers) * 2 if is_wide else size
        return anyio.run(_effort, hurt, wide if is_wide else line(size), f"{run}-{size}", inputs, value) / size

    a_step(50, "warm")
    growth = [a_step(large, f"large{i}") / a_step(small, f"small{i}") for i in range(2)]
    print(f"{large} steps cost {', '.join(f'{g:.2f}' for g in growth)} times as much each as {small}")
    return min(growth)


@pytest.mark.parametrize(
    ("small", "large", "is_wide"),
    [(250, 1_000, False), (2_500, 10_000, True), pytest.param(5_000, 50_000, True, marks=full)],
    ids=["1000-long", "10000-wide", "50000-wide"],
)
def test_R38_long_and_wide_chains_cost_the_same_a_step(tmp_path: Path, small: int, large: int, is_wide: bool) -> None:
    """No recursion error, and linear within a factor of two."""
    hurt = Hurt(tmp_path / "s.db", tmp_path / "effects")
    assert _growth(hurt, small, large, is_wide=is_wide) < 2
    assert_sound(hurt, {})


BLOCK = 3.0  # seconds


class _Heard(logging.Handler):
    """Log lines with the time they came."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[float, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.created, record.getMessage()))


@pytest.fixture
def heard() -> Any:
    """What towpath logs."""
    handler = _Heard()
    logging.getLogger("towpath").addHandler(handler)
    yield handler
    logging.getLogger("towpath").removeHandler(handler)


def test_R34_a_step_that_blocks_the_loop_is_named_while_it_does(tmp_path: Path, heard: _Heard) -> None:
    """The warning comes from a thread while the loop stands still, and names the step."""
    hurt = Hurt(tmp_path / "s.db", tmp_path / "effects")

    async def go() -> None:
        async with open_engine(hurt.store) as engine:
            await engine.run(blocked, run_id="r", inputs={"effects": str(hurt.effects), "pace": BLOCK})

    anyio.run(go)
    named = [at for at, line in heard.lines if "step tests.reliability.chains:blocking blocks the event loop" in line]
    assert len(named) == 1
    assert named[0] - hurt.effects.stat().st_mtime < BLOCK
    assert_sound(hurt, {"r": {"blocking": ("done", [])}})


@pytest.mark.parametrize(
    ("lease", "blocks", "taken"), [(30.0, BLOCK, False), pytest.param(1.0, 5.0, True, marks=full)], ids=["kept", "lost"]
)
def test_R34_the_lease_of_a_blocked_process_is_kept_or_lost_cleanly(
    tmp_path: Path, lease: float, blocks: float, taken: bool
) -> None:
    """A block shorter than the lease changes nothing; during a longer one another process may take over."""
    hurt = Hurt(tmp_path / "s.db", tmp_path / "effects")
    with Victim(hurt, how="resume", hold=True) as other:
        other.wait_for("ready")
        with Victim(hurt, chain="blocked", pace=blocks, lease=lease) as victim:
            while not hurt.effects.exists():
                time.sleep(0.01)
            time.sleep(lease + 0.5 if taken else 0.1)
            other.write("go")
            assert (other.wait(), other.error) == ((0, "") if taken else (4, "E_RUN_OWNED"))
            assert (victim.wait(), victim.error) == ((4, "E_FENCED") if taken else (0, ""))
    assert_sound(hurt, {"r": {"blocking": ("done", [])}})
