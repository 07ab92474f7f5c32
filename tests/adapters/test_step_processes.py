"""Processes for steps that are stopped at every moment of their lives."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

from tests.conformance import process_steps
from towpath.adapters import child_process
from towpath.adapters.child_process import ChildProcess, request_for
from towpath.context import StepContext
from towpath.errors import StepProcessFailed


def test_a_process_is_stopped_while_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    child, context = ChildProcess(), StepContext("run", "step", None, 1)
    starting, stopped, started = threading.Event(), threading.Event(), []
    start = child_process._spawn.Process.start

    def slow(process: Any) -> None:
        starting.set()
        assert stopped.wait(10)
        start(process)
        started.append(process)

    monkeypatch.setattr(child_process._spawn.Process, "start", slow)
    outcomes: list[object] = []
    request = request_for(process_steps.where, {"n": 1}, context, ())
    thread = threading.Thread(target=lambda: outcomes.append(child.answer(request, context)))
    thread.start()
    assert starting.wait(10)
    child.stop()
    stopped.set()
    thread.join(10)
    assert isinstance(outcomes[0], StepProcessFailed)
    assert not started[0].is_alive()


def test_a_fork_of_the_program_ends_no_process_of_its_parent() -> None:
    """The end of a process ends the processes of its engine, and no others."""
    child, context = ChildProcess(), StepContext("run", "step", None, 1)
    try:
        first = child.answer(request_for(process_steps.where, {"n": 1}, context, ()), context)
        forked = os.fork()
        if forked == 0:
            try:
                child_process._end_all()
            finally:
                os._exit(0)
        os.waitpid(forked, 0)
        assert child.answer(request_for(process_steps.where, {"n": 1}, context, ()), context) == first
    finally:
        child.kill()
