from pathlib import Path

import restate

from benchmarks.peers.restate.service import Restate

service = restate.Service("bench")


async def add(value: int) -> int:
    return value + 1


@service.handler()
async def three(ctx: restate.Context, value: int) -> int:
    for name in ("a", "b", "c"):
        value = await ctx.run_typed(name, add, restate.RunOptions(), value)
    return value


server = Restate(restate.app([service]), Path.cwd())
print(server.call("/bench/three", 39))
server.stop()
