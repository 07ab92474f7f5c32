"""Errors of ours as Temporal knows them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from temporalio.exceptions import ApplicationError

from towpath.errors import StoreFailed, TowpathError

P = ParamSpec("P")
R = TypeVar("R")


def told(function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    """Errors of ours as Temporal knows them: trouble that may pass is tried again, anything else is not."""

    @wraps(function)
    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await function(*args, **kwargs)
        except ApplicationError:
            raise
        except StoreFailed as error:
            passes = error.retryable or error.code.startswith(("E_DISK_", "E_DB_"))
            raise ApplicationError(str(error), type=error.code, non_retryable=not passes) from error
        except TowpathError as error:
            raise ApplicationError(str(error), type=error.code, non_retryable=True) from error
        except Exception as error:
            raise ApplicationError(str(error), type=type(error).__name__, non_retryable=True) from error

    return call
