"""Texts lose their secrets where they are made: errors, log lines, failures of steps."""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.engine.test_redaction import ODD, PLAIN, known
from towpath import redaction
from towpath.attempt import failure
from towpath.context import StepContext
from towpath.errors import InputInvalid, Problem, StepFailed
from towpath.redaction import HIDDEN, LOGGERS, without_secrets

__all__ = ["known"]


@pytest.mark.parametrize("field", ["message", "found", "allowed", "cure"])
def test_no_text_of_an_error_holds_a_secret(field: str) -> None:
    """Whoever shows it: the exception, `--json`, a page, a webhook."""
    changed: dict[str, Any] = {field: f"is {PLAIN}"}
    problem = replace(Problem("E_X", "m"), **changed)
    assert PLAIN not in f"{problem} {problem!r} {problem.as_json()}"
    error = StepFailed(f"no {PLAIN}")
    assert PLAIN not in f"{error} {error!r} {error.args}"


def test_a_wrong_input_is_shown_without_what_a_variable_holds() -> None:
    """The value is the caller's; its text may be a password given by mistake."""
    error = InputInvalid("E_INPUT_TYPE", "input n", found=PLAIN)
    assert str(error).endswith("found: ***")
    assert PLAIN not in str(InputInvalid("E_INPUT_TYPE", "input n", found={"deep": [ODD, PLAIN]}))


def test_tracebacks_and_messages_of_steps() -> None:
    """Exception texts, their causes, notes and groups."""

    def fail() -> None:
        try:
            raise KeyError(f"first {PLAIN}")
        except KeyError as first:
            error = ValueError(f"GET https://h/?q={quote(ODD, safe='')} {'x' * 3000} {PLAIN}")
            error.add_note(f"note {PLAIN}")
            raise ExceptionGroup(f"all {PLAIN}", [error, OSError(2, PLAIN)]) from first

    with pytest.raises(ExceptionGroup) as raised:
        fail()
    outcome = failure(raised.value)
    assert outcome.error is not None
    told = outcome.error.message + outcome.error.traceback
    assert PLAIN not in told
    assert quote(ODD, safe="") not in told
    assert "note ***" in told


@pytest.mark.parametrize(
    "log",
    [
        lambda logger: logger.info("key is %s", PLAIN),
        lambda logger: logger.info(f"key is {PLAIN}"),
        lambda logger: logger.warning({"key": PLAIN}),  # a message that is no text
        lambda logger: logger.info("%(a)s", {"a": PLAIN}),  # arguments by name
        lambda logger: logger.info("at https://u:%s@h/", "pw1"),  # an address, put together by the logger
        lambda logger: logger.info("b %r", base64.b64encode(f"user:{PLAIN}".encode())),
        lambda logger: logger.error("it broke", exc_info=ValueError(PLAIN)),
        lambda logger: logger.log(5, "not kept") or logger.critical(PLAIN, stack_info=True),
    ],
)
@pytest.mark.parametrize("of_step", [True, False])
def test_log_lines(log: Callable[[logging.Logger], None], of_step: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Those of a step, which are kept, and those of towpath itself."""
    caplog.set_level(logging.DEBUG)
    context = StepContext("run", "step", None, 1)
    log(context.logger if of_step else logging.getLogger("towpath.http"))
    text = caplog.text
    if of_step:
        assert context.log is not None
        text += context.log.text()
    assert HIDDEN in text
    assert PLAIN not in text
    assert "pw1" not in text


WRONG_FORMAT = "%d of %s"


def test_a_log_call_with_a_wrong_format_does_what_python_does(capsys: pytest.CaptureFixture[str]) -> None:
    """It tells of the mistake on stderr, without the secret, and nothing fails."""
    logger = without_secrets(logging.Logger("one"))
    logger.addHandler(logging.StreamHandler())
    logger.info(WRONG_FORMAT, PLAIN)
    told = capsys.readouterr().err
    assert "Logging error" in told
    assert PLAIN not in told


def test_every_logger_of_ours_is_covered() -> None:
    """A filter counts for its own logger only, so that a new one must be in the list."""
    root = Path(redaction.__file__).resolve().parents[1]
    root = root if (root / "adapters").is_dir() else Path(__file__).resolve().parents[2]
    files = [file for part in ("engine", "store", "adapters") for file in (root / part).rglob("*.py")]
    named = {name for file in files for name in re.findall(r'getLogger\("(towpath[^"]*)"\)', file.read_text())}
    assert named
    assert named <= set(LOGGERS)
