"""Run it: python examples/approval.py

A poster is drawn, a person looks at it, and only then it is printed. Here the script decides in place of the person:
it rejects the first version, asks for another colour, and approves the second one. In real life the run waits, days if
need be, until a person uses `towpath approvals` and `towpath approve`, or the pages of `towpath serve`.
"""

import asyncio
from typing import Any

from towpath import Artifact, ChainStatus, File, chain, open_engine, step


@step
def draw(text: str, colour: str = "black") -> File:
    """A poster as SVG."""
    svg = f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 400 300">
<rect width="400" height="300" fill="{colour}"/>
<text x="200" y="160" font-size="40" text-anchor="middle">{text}</text>
</svg>
"""
    return File(svg.encode(), filename="poster.svg")


@step
def print_copies(poster: Artifact, copies: int) -> str:
    """Gets the approved version, and no other."""
    return f"printed {copies} copies of {poster.filename} version {poster.version}"


@chain
def poster(text: str, copies: int = 50) -> Any:
    """The gate is behind `draw`: a rejection draws again, at most twice."""
    drawn = draw(text).with_approval(on_rejected="regenerate", max_retries=2)
    return print_copies(drawn, copies)


async def main() -> None:
    """Run until the gate, decide, resume; twice."""
    async with open_engine("sqlite:///towpath.db") as engine:
        run = await engine.run(poster, wait=False, text="Open day")
        assert run.status is ChainStatus.PAUSED

        (gate,) = await engine.approvals(run.id)
        await engine.reject(gate, by="reviewer", reason="black on black", parameters={"colour": "gold"})
        run = await engine.resume(run.id)

        (gate,) = await engine.approvals(run.id)
        await engine.approve(gate, by="reviewer")
        run = await engine.resume(run.id)
        print(run.status, "-", run.value)


if __name__ == "__main__":
    asyncio.run(main())
