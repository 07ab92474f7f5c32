"""A process to be hurt: `python -m tests.reliability.victim --store FILE --effects FILE --run ID …`.

It prints, unbuffered and only after the fact was recorded: `ready`, `ack RUN STEP ITEM ATTEMPT STATUS`,
`over RUN STATUS`, `end RUN STATUS`, `error CODE`, `interrupted`. It leaves with 0, 3 (paused), 4 (an error
of towpath) or 130.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import resource
import sys
from collections.abc import Sequence

import anyio
import anyio.to_thread

from tests.reliability.chains import CHAINS
from towpath import ChainStatus, Engine, Run, TowpathError
from towpath.adapters.cli import INTERRUPTED
from towpath.adapters.cli.options import interruptible
from towpath.adapters.wiring import open_engine
from towpath.events import ChainEnded, Fact, StepEnded


def say(line: str) -> None:
    """One line in one write."""
    os.write(1, f"{line}\n".encode())


def told(run_id: str, fact: Fact) -> None:
    """Acknowledge what was recorded."""
    if isinstance(fact, StepEnded):
        say(f"ack {run_id} {fact.step} {'-' if fact.item is None else fact.item} {fact.attempt} {fact.status}")
    elif isinstance(fact, ChainEnded):
        say(f"over {run_id} {fact.status}")


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """What the tests may ask for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", required=True)
    parser.add_argument("--effects", required=True)
    parser.add_argument("--run", action="append", required=True)
    parser.add_argument("--how", choices=["run", "resume", "start"], default="run")
    parser.add_argument("--chain", choices=CHAINS, default="diamond")
    parser.add_argument("--pace", type=float)
    parser.add_argument("--size", type=int)
    parser.add_argument("--lease", type=float, default=30.0)
    parser.add_argument("--busy", type=float, default=30.0)
    parser.add_argument("--hold", action="store_true", help="wait for a line on stdin once the store is open")
    parser.add_argument("--fsize", type=int, help="RLIMIT_FSIZE")
    return parser.parse_args(given)


async def go(engine: Engine, options: argparse.Namespace, run_id: str) -> Run:
    """Run or resume one run."""
    if options.how == "resume":
        return await engine.resume(run_id, check=False)
    inputs = {"effects": options.effects, "pace": options.pace, "size": options.size}
    given = {name: value for name, value in inputs.items() if value is not None}
    return await engine.run(CHAINS[options.chain], run_id=run_id, inputs=given, check=False)


async def together(engine: Engine, options: argparse.Namespace) -> int:
    """All runs at the same time; the code of the worst."""
    codes: list[int] = []

    async def one(run_id: str) -> None:
        run = await go(engine, options, run_id)
        say(f"end {run_id} {run.status}")
        codes.append({ChainStatus.COMPLETED: 0, ChainStatus.PAUSED: 3}.get(run.status, 1))

    async with anyio.create_task_group() as tasks:
        for run_id in options.run:
            if options.how == "start":
                tasks.start_soon(one, run_id)
            else:
                await one(run_id)
    return max(codes)


async def main(options: argparse.Namespace) -> int:
    """Open the store, work, tell."""
    async with open_engine(
        options.store, lease_seconds=options.lease, busy_timeout=options.busy, listener=told
    ) as engine:
        say("ready")
        if options.hold:
            await anyio.to_thread.run_sync(sys.stdin.readline)
        code = INTERRUPTED
        with anyio.CancelScope() as scope, interruptible(scope) as came:
            code = await together(engine, options)
        if came:
            say("interrupted")
            return INTERRUPTED
        return code


def told_error(error: BaseException) -> int:
    """Name an error of towpath by its code; let every other one through."""
    if isinstance(error, BaseExceptionGroup):
        return max(told_error(inner) for inner in error.exceptions)
    if not isinstance(error, TowpathError):
        raise error
    say(f"error {error.code} {error.problem.message}")
    return 4


if __name__ == "__main__":
    faulthandler.enable()
    asked = arguments()
    if asked.fsize is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (asked.fsize, asked.fsize))
    try:
        left_with = anyio.run(main, asked)
    except (TowpathError, BaseExceptionGroup) as raised:
        left_with = told_error(raised)
    sys.exit(left_with)
