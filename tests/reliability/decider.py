"""A process that decides: `python -m tests.reliability.decider --store FILE --act approve --run ID …`.

It prints `ready`, waits for a line, and decides the gates of all runs at the same time, as soon as they ask or
at a moment beside the end of their time. For each it prints what was recorded: `decided RUN`, `refused RUN CODE`.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import anyio
import anyio.to_thread

from tests.reliability.victim import say
from towpath import ApprovalRefused, Engine
from towpath.adapters.wiring import open_engine


def arguments() -> argparse.Namespace:
    """What the tests may ask for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", required=True)
    parser.add_argument("--run", action="append", required=True)
    parser.add_argument("--act", choices=["approve", "reject"], default="approve")
    parser.add_argument("--step", help="the gate of this step, where a run has several")
    parser.add_argument("--beside", type=float, help="seconds between decisions of neighbouring runs, around the end")
    return parser.parse_args()


async def asked(engine: Engine, run_id: str, step: str | None) -> list[Any]:
    """The gates of a run, or of one of its steps."""
    return [gate for gate in await engine.list_approvals(chain_id=run_id) if step in (None, gate.step_id)]


async def decide(engine: Engine, options: argparse.Namespace, number: int, run_id: str) -> None:
    """One gate, once."""
    while not (gates := await asked(engine, run_id, options.step)):  # noqa: ASYNC110 - as a person would look
        await anyio.sleep(0.01)
    (gate,) = gates
    if options.beside is not None:
        moment = gate.expires_at / 1e6 + options.beside * (number - len(options.run) / 2)
        await anyio.sleep(max(0.0, moment - time.time()))
    try:
        await getattr(engine, options.act)(gate.id, by=options.act)
    except ApprovalRefused as refused:
        say(f"refused {run_id} {refused.code}")
    else:
        say(f"decided {run_id}")


async def main(options: argparse.Namespace) -> None:
    """Open the store, wait, decide."""
    async with open_engine(options.store) as engine:
        say("ready")
        await anyio.to_thread.run_sync(sys.stdin.readline)
        async with anyio.create_task_group() as tasks:
            for number, run_id in enumerate(options.run):
                tasks.start_soon(decide, engine, options, number, run_id)


if __name__ == "__main__":
    anyio.run(main, arguments())
