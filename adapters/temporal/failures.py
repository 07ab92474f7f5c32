"""Errors between towpath and Temporal: what activities and workflows raise, and what their failures say."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory, FailureError

from towpath.errors import SecretMissing, StepNotRegistered, StoreFailed, TowpathError
from towpath.logs import guarded_logger
from towpath.redaction import redacted

from .messages import ERROR, FAILED, StepResult

_log = guarded_logger("towpath")

P = ParamSpec("P")
R = TypeVar("R")

_ATTEMPTS = 5  # for errors that usually disappear when the rows are read again
_STALE_ROWS = ("E_DB_CONFLICT", "E_TRANSITION")
_PERMANENT = ("E_DB_VALUE", "E_DB_REFERENCE", "E_DB_CORRUPT", "E_DB_NOT_SQLITE")


def as_application_errors(function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    """Map errors of an activity to Temporal's ApplicationError. Only transient errors are retried."""

    @wraps(function)
    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await function(*args, **kwargs)
        except ApplicationError:
            raise
        except StoreFailed as error:
            raise _application_error(error, error.code, non_retryable=not is_transient(error)) from None
        except SecretMissing as error:  # another worker may have the secret
            raise _application_error(error, error.code, non_retryable=False) from None
        except StepNotRegistered as error:  # another worker may have the function as it was when the run began
            raise _application_error(error, error.code, non_retryable=error.code != "E_STEP_ARGUMENTS") from None
        except TowpathError as error:
            raise _application_error(error, error.code) from None
        except Exception as error:
            _log.exception("an activity failed with an unexpected error")
            raise _application_error(error, type(error).__name__) from None

    return call


def _application_error(error: Exception, code: str, *, non_retryable: bool = True) -> ApplicationError:
    """The text of the error goes into the details, because codecs encode details but no messages."""
    return ApplicationError(code, ERROR, redacted(str(error)), type=code, non_retryable=non_retryable)


def is_transient(error: StoreFailed) -> bool:
    """Should the activity be retried? Disk errors are retried for as long as they last."""
    if error.code in _STALE_ROWS:
        return activity.info().attempt < _ATTEMPTS
    return error.retryable or (error.code.startswith(("E_DISK_", "E_DB_")) and error.code not in _PERMANENT)


def activity_result(result: StepResult, code: str, message: str) -> StepResult:
    """The result of a step's activity. A failed step fails its activity, so that Temporal's pages show it."""
    if result.status != FAILED:
        return result
    raise ApplicationError(
        code, FAILED, message, type=code, non_retryable=True, category=ApplicationErrorCategory.BENIGN
    )


def step_failure(code: str, message: str) -> ApplicationError:
    """The error with which the workflow of a failed step fails."""
    return ApplicationError(code, FAILED, message, type=code, non_retryable=True)


def is_step_failure(error: BaseException | None) -> bool:
    """Did a step fail, and is that recorded?"""
    return isinstance(error, ApplicationError) and bool(error.details) and error.details[0] == FAILED


def reason_of(error: BaseException | None) -> str:
    """The text of an error's innermost cause, at most 500 characters. Details hold the text, see above."""
    while isinstance(error, FailureError) and isinstance(error.cause, FailureError):
        error = error.cause
    if isinstance(error, ApplicationError) and len(error.details) > 1:
        return f"{error.message}: {error.details[1]}"[:500]
    return str(error)[:500]
