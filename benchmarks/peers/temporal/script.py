import asyncio
from pathlib import Path

from benchmarks.peers.temporal.flow import QUEUE, Flow, dev_server, worker


async def main() -> None:
    server = await dev_server(Path.cwd())
    async with worker(server):
        found = await server.client.execute_workflow(Flow.run, args=["W1", 3], id="one", task_queue=QUEUE)
    await server.shutdown()
    print(found + 39)


asyncio.run(main())
