"""A process to be hurt that runs a chain of ComfyUI steps: `python -m tests.reliability.comfyui_victim FOLDER HOW …`.

With `--die POINT` it kills itself with SIGKILL the `--at`th time it comes to that point: nothing is cleaned up, as
if the power of this process alone was cut. It prints `ack STEP STATUS` when that was recorded, and `end STATUS`.
"""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio

from towpath.adapters.comfyui import workflow_run
from towpath.adapters.comfyui.client import ComfyClient
from towpath.adapters.comfyui.downloads import bring_all
from towpath.adapters.wiring import open_engine
from towpath.chain_file import load_chain_from_dict
from towpath.events import Fact, PromptSent, StepEnded

RUN = "r"
POINTS = ("sending", "sent", "recorded", "queued", "done", "downloaded")

STEPS = [
    {"id": "picture", "workflow": "picture"},
    {
        "id": "edit",
        "workflow": "edit",
        "depends_on": ["picture"],
        "parameters": {"1.image": "{{ picture.output.image }}"},
        "server": "two",
    },
    {
        "id": "again",
        "workflow": "edit",
        "depends_on": ["edit"],
        "parameters": {"1.image": "{{ edit.output.image }}"},
        "server": "one",
    },
]


class Death:
    """Comes at the n-th time that the process is at a point."""

    def __init__(self, point: str, at: int) -> None:
        self.point = point
        self.left = at

    def comes(self, point: str) -> None:
        """Die here if it is time."""
        if point and point == self.point:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def around(self, function: Callable[..., Any], before: str = "", after: str = "") -> Callable[..., Any]:
        """The function, with a point before and a point after it."""

        async def deadly(*given: Any, **named: Any) -> Any:
            self.comes(before)
            result = await function(*given, **named)
            self.comes(after)
            return result

        return deadly

    def lurk(self) -> None:
        """Take its places in the door to ComfyUI."""
        ComfyClient.upload = self.around(ComfyClient.upload, "sending", "sent")  # type: ignore[method-assign]
        ComfyClient.submit = self.around(ComfyClient.submit, "", "queued")  # type: ignore[method-assign]
        workflow_run.bring_all = self.around(bring_all, "done", "downloaded")  # type: ignore[attr-defined]

    def told(self, _: str, fact: Fact) -> None:
        """A fact was recorded."""
        if isinstance(fact, StepEnded):
            os.write(1, f"ack {fact.step} {fact.status}\n".encode())
        elif isinstance(fact, PromptSent):
            self.comes("recorded")


async def main(options: argparse.Namespace) -> None:
    """Run or resume the chain."""
    death = Death(options.die, options.at)
    death.lurk()
    servers = [{"name": name, "url": url} for name, url in (("one", options.one), ("two", options.two))]
    folder: Path = options.folder
    os.chdir(folder)
    async with open_engine(
        folder / "hurt.db", servers=servers, workflows=folder / "workflows", listener=death.told
    ) as engine:
        os.write(1, b"ready\n")
        if options.how == "resume":
            run = await engine.resume(RUN, check=False)
        else:
            run = await engine.run(load_chain_from_dict({"name": "hurt", "steps": STEPS}), run_id=RUN, check=False)
        os.write(1, f"end {run.status}\n".encode())


def arguments() -> argparse.Namespace:
    """What the tests may ask for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("how", choices=("run", "resume"))
    parser.add_argument("--one", required=True)
    parser.add_argument("--two", required=True)
    parser.add_argument("--die", choices=("", *POINTS), default="")
    parser.add_argument("--at", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    anyio.run(main, arguments())
