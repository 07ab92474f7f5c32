"""Errors of ours as Temporal knows them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from temporalio import activity
from temporalio.exceptions import ApplicationError

from towpath.errors import SecretMissing, StoreFailed, TowpathError
from towpath.logs import guarded_logger
from towpath.redaction import redacted

from .messages import ERROR

_log = guarded_logger("towpath")

P = ParamSpec("P")
R = TypeVar("R")

FEW = 5  # tries of what a second look at the rows usually mends
_BY_A_SECOND_LOOK = ("E_DB_CONFLICT", "E_TRANSITION")
_FOR_GOOD = ("E_DB_VALUE", "E_DB_REFERENCE", "E_DB_CORRUPT", "E_DB_NOT_SQLITE")


def told(function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    """Errors of ours as Temporal knows them: trouble that may pass is tried again, anything else is not."""

    @wraps(function)
    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await function(*args, **kwargs)
        except ApplicationError:
            raise
        except StoreFailed as error:
            raise _application(error, error.code, non_retryable=not passes(error)) from None
        except SecretMissing as error:  # another worker may have it
            raise _application(error, error.code, non_retryable=False) from None
        except TowpathError as error:
            raise _application(error, error.code) from None
        except Exception as error:
            _log.exception("a mistake in an activity")
            raise _application(error, type(error).__name__) from None

    return call


def _application(error: Exception, code: str, *, non_retryable: bool = True) -> ApplicationError:
    """The error's text goes into the details: messages and causes are plain in a history, whatever codec there is."""
    return ApplicationError(code, ERROR, redacted(str(error)), type=code, non_retryable=non_retryable)


def passes(error: StoreFailed) -> bool:
    """Is it worth another try? Trouble with the disk is waited out as long as it lasts."""
    if error.code in _BY_A_SECOND_LOOK:
        return activity.info().attempt < FEW
    return error.retryable or (error.code.startswith(("E_DISK_", "E_DB_")) and error.code not in _FOR_GOOD)
