"""`context()` where no step runs."""

from __future__ import annotations

import contextvars
import threading

import pytest

from towpath import StepContext, context


def raised_in(thread_of: contextvars.Context | None) -> str:
    """What `context()` says in a new thread, which gets these variables or none; "" if it works."""
    said: list[str] = []

    def ask() -> None:
        try:
            context()
            said.append("")
        except RuntimeError as error:
            said.append(str(error))

    thread = threading.Thread(target=ask if thread_of is None else lambda: thread_of.run(ask))
    thread.start()
    thread.join(20)
    return said[0]


def test_a_thread_of_the_step_is_told_how_to_get_the_context() -> None:
    """Python gives a new thread no context variables. The cure that is named works."""
    with pytest.raises(RuntimeError, match="works only while a step runs"):
        context()
    assert "contextvars.copy_context().run(function)" in raised_in(None)
    variables = contextvars.copy_context()
    variables.run(StepContext("run", "step", None, 1).enter)
    assert raised_in(variables) == ""
