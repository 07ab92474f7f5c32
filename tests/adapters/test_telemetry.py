"""OpenTelemetry spans on the local adapter: the suite of all adapters, and what a program without them pays."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.spans import *  # noqa: F403

pytestmark = pytest.mark.anyio


def test_a_program_without_telemetry_does_not_load_it(tmp_path: Path) -> None:
    """Though it is installed."""
    code = """
        import asyncio, sys
        from towpath import chain, open_engine, step

        @step
        async def one() -> int:
            return 1

        @chain
        def c():
            return one()

        async def main():
            async with open_engine(sys.argv[1]) as engine:
                return (await engine.run(c)).value

        assert asyncio.run(main()) == 1
        print([name for name in sys.modules if name.startswith("opentelemetry")])
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "t.db")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_listener_in_trouble_stops_no_run() -> None:
    """Spans are made of facts that are recorded already: an error of theirs is logged, and that is all."""
    from towpath.adapters.telemetry import Spans
    from towpath.events import ChainResumed

    spans: Any = Spans()
    spans._tracer = None
    spans.on_fact("r", ChainResumed())
