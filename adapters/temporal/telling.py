"""Errors of ours as Temporal knows them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from temporalio import activity
from temporalio.exceptions import ApplicationError

from towpath.errors import StoreFailed, TowpathError

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
            raise ApplicationError(str(error), type=error.code, non_retryable=not passes(error)) from error
        except TowpathError as error:
            raise ApplicationError(str(error), type=error.code, non_retryable=True) from error
        except Exception as error:
            raise ApplicationError(str(error), type=type(error).__name__, non_retryable=True) from error

    return call


def passes(error: StoreFailed) -> bool:
    """Is it worth another try? Trouble with the disk is waited out as long as it lasts."""
    if error.code in _BY_A_SECOND_LOOK:
        return activity.info().attempt < FEW
    return error.retryable or (error.code.startswith(("E_DISK_", "E_DB_")) and error.code not in _FOR_GOOD)
