"""How a step runs: the options of `@step`, checked. Chain files have the same keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypedDict, Unpack

from .errors import InputInvalid, shown, similar
from .model import ApprovalPolicy, Json, RetryPolicy
from .retry import MAX_ATTEMPTS, seconds
from .retry_rules import Predicate, exception_names, retry_predicate
from .tracing import user_place

MAX_CONCURRENCY = 100_000
LIMIT_NAMES = "up to 100 letters, digits, _ and -, not beginning with -"
_LIMIT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")


@dataclass(frozen=True, slots=True)
class StepOptions:
    """How a step runs; the same keys as in YAML. Times are seconds."""

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeout: float | None = None
    total_timeout: float | None = None
    approval: ApprovalPolicy | None = None
    on_item_failure: str = "fail"
    cheap: bool = False
    cache: Json = None
    secret: bool = False
    retry_on: tuple[str, ...] = ()
    retry_if: Predicate | None = None
    limit: str | None = None
    concurrency: int | None = None
    process: bool = False


class StepSettings(TypedDict, total=False):
    """The options of `@step` and of `with_options`. Times are seconds, or texts such as `"30m"`."""

    retries: int | None
    retry: RetryPolicy | dict[str, Any] | None
    timeout: float | str | None
    total_timeout: float | str | None
    requires_approval: bool
    approval: ApprovalPolicy | None
    on_item_failure: str
    cheap: bool
    cache: Json
    secret: bool
    retry_on: type[BaseException] | str | Iterable[type[BaseException] | str] | None
    retry_if: Callable[[BaseException], bool] | None
    limit: str | None
    concurrency: int | None
    process: bool


def step_options(base: StepOptions, also: tuple[str, ...] = (), /, **options: Unpack[StepSettings]) -> StepOptions:
    """`base` with some options changed, checked. `also` are names that the caller takes besides, for messages.

    Raises InputInvalid: E_FIELD_UNKNOWN, E_FIELD_TYPE, E_FIELD_RANGE, E_FIELD_MISSING.
    """
    changes: dict[str, Any] = {}
    given: dict[str, Any] = {**options}
    for key, value in given.items():
        try:
            _change(changes, base, key, value, also)
        except InputInvalid as error:
            error.problem = replace(error.problem, place=user_place(field=key))
            error.args = (str(error.problem),)
            raise
    settled = replace(base, **changes)
    if changes.get("retry_on") or changes.get("retry_if"):
        check_retried(settled.retry)
    return settled


def _change(changes: dict[str, Any], base: StepOptions, key: str, value: Any, also: tuple[str, ...]) -> None:
    if key == "retries":
        if value is not None:
            changes["retry"] = replace(base.retry, attempts=attempts(value, 1))
    elif key == "requires_approval":
        changes["approval"] = ApprovalPolicy() if _flag(key, value) else None
    elif key not in StepOptions.__slots__:
        known = (*also, *StepSettings.__annotations__)
        message = f"a step has no option {shown(key)}"
        raise InputInvalid("E_FIELD_UNKNOWN", message, allowed=" ".join(known), cure=similar(key, known))
    elif key != "retry" or value is not None:
        changes[key] = _CHECKS[key](value) if key in _CHECKS else value


def check_retried(policy: RetryPolicy) -> None:
    """Refuse `retry_on` and `retry_if` of a step that is never tried again. Raises InputInvalid (E_FIELD_MISSING)."""
    if policy.attempts == 1:
        message = "retry_on and retry_if say which failures are tried again, and this step has no retries"
        raise InputInvalid("E_FIELD_MISSING", message, allowed="retries: 1 or more", cure="add retries=3")


def limit_name(value: Any) -> str | None:
    """The name of a limit, checked. Raises InputInvalid (E_FIELD_TYPE)."""
    if value is not None and (not isinstance(value, str) or not _LIMIT.fullmatch(value)):
        raise InputInvalid("E_FIELD_TYPE", "limit cannot be this", found=value, allowed=f"a name: {LIMIT_NAMES}")
    return value


def step_concurrency(value: Any) -> int | None:
    """A number of simultaneous attempts, checked. Raises InputInvalid (E_FIELD_TYPE, E_FIELD_RANGE)."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputInvalid("E_FIELD_TYPE", "concurrency cannot be this", found=repr(value), allowed="a whole number")
    if not 1 <= value <= MAX_CONCURRENCY:
        allowed = f"1 to {MAX_CONCURRENCY}"
        raise InputInvalid("E_FIELD_RANGE", "concurrency is out of range", found=value, allowed=allowed)
    return value


def _policy(value: Any) -> RetryPolicy:
    if isinstance(value, RetryPolicy):
        return value
    if not isinstance(value, dict):
        cure = f"retries={value}" if isinstance(value, int) else 'retry={"attempts": 3, "delay": "2s"}'
        allowed = f"a RetryPolicy, or a dict of {' '.join(RetryPolicy.__slots__)}"
        raise InputInvalid("E_FIELD_TYPE", "retry cannot be this", found=value, allowed=allowed, cure=cure)
    return retry_policy(value)


def _kept_or_failed(value: Any) -> str:
    if value not in ("fail", "keep"):
        raise InputInvalid("E_FIELD_TYPE", "on_item_failure cannot be this", found=value, allowed="fail, keep")
    return str(value)


def _flag(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InputInvalid("E_FIELD_TYPE", f"{key} cannot be this", found=repr(value), allowed="True, False")
    return value


def _approval(value: Any) -> ApprovalPolicy | None:
    if value is not None and not isinstance(value, ApprovalPolicy):
        cure = "requires_approval=True"
        raise InputInvalid(
            "E_FIELD_TYPE", "approval cannot be this", found=repr(value), allowed="an ApprovalPolicy", cure=cure
        )
    return value


def _limited(value: Any) -> float | None:
    return None if value is None else seconds(value)


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "retry": _policy,
    "timeout": _limited,
    "total_timeout": _limited,
    "on_item_failure": _kept_or_failed,
    "retry_on": exception_names,
    "retry_if": retry_predicate,
    "limit": limit_name,
    "concurrency": step_concurrency,
    "process": partial(_flag, "process"),
    "cheap": partial(_flag, "cheap"),
    "secret": partial(_flag, "secret"),
    "approval": _approval,
}


def attempts(value: Any, more: int = 0) -> int:
    """A number of attempts, checked; `more` is 1 where the user gives the number of retries."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputInvalid(
            "E_FIELD_TYPE", "this is not a number of attempts", found=repr(value), allowed="a whole number"
        )
    if not 1 - more <= value <= MAX_ATTEMPTS:
        allowed = f"{1 - more} to {MAX_ATTEMPTS}"
        raise InputInvalid("E_FIELD_RANGE", "the number of attempts is out of range", found=value, allowed=allowed)
    return value + more


def retry_policy(fields: dict[str, Any]) -> RetryPolicy:
    """A retry policy from plain data (`attempts delay backoff max_delay jitter`)."""
    known = RetryPolicy.__slots__
    changes: dict[str, Any] = {}
    for key, value in fields.items():
        if key not in known:
            raise InputInvalid("E_FIELD_UNKNOWN", f"retry has no key {key}", allowed=" ".join(known))
        if key == "attempts":
            changes[key] = attempts(value)
        elif key in ("delay", "max_delay"):
            changes[key] = seconds(value) if value else 0.0
        elif key == "backoff" and not (isinstance(value, int | float) and 1 <= value <= 100):
            raise InputInvalid("E_FIELD_RANGE", "backoff is out of range", found=value, allowed="1 to 100")
        else:
            changes[key] = value
    return RetryPolicy(**changes)
