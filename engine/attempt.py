"""One attempt of a step: run it, store the bytes of what it returns, or report why it failed.

Both adapters run steps through this module. It records nothing: it returns the outcome, whose bytes are durable.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator
from contextlib import nullcontext
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import anyio.to_thread
import msgspec
from msgspec import Struct

from . import rescue, user_code
from .artifact import Artifact, KeptFile
from .context import StepContext
from .errors import (
    ChainFailed,
    ExpressionFailed,
    FeatureMissing,
    InputInvalid,
    Place,
    StepFailed,
    StepTimedOut,
    StoreFailed,
    TowpathError,
    ValueRefused,
)
from .events import NewArtifact
from .json_form import MAX_VALUE
from .model import ErrorInfo, Json
from .ports import Files
from .redaction import redacted, redacted_end
from .retry_rules import RetryRule
from .secrets import MARK, sealed
from .step_calls import may_hold_objects
from .step_threads import earlier_attempts_end
from .user_code import StepRaised, files_kept, in_own_task
from .values import INLINE_VALUE, STORED_VALUE, Found, NewFile, is_plain, take_apart_with_secrets

TRACEBACK_LIMIT = 16 * 1024
_WITH_TRACEBACK = (StepFailed, ChainFailed)  # errors of ours that a step raises: the user's line is of interest
MOST_CAUSES = 1_000  # exceptions of a group that are read
TINY_TEXT = 1024  # characters of a text that fits into a row, whatever they are
MESSAGE_LIMIT = 2_000  # characters of an exception's own text
_TRACEBACK: Any = vars(BaseException)["__traceback__"]
_CAUSE: Any = vars(BaseException)["__cause__"]
_CONTEXT: Any = vars(BaseException)["__context__"]
_MEMBERS: Any = vars(BaseExceptionGroup)["exceptions"]
_OUR_FOLDERS = (str(Path(__file__).resolve().parent), str(Path(anyio.__file__).resolve().parent))


class Outcome(Struct, frozen=True, gc=False):
    """The outcome of an attempt. `value` is JSON with references; an `error` leaves the rest empty."""

    value: Json = None
    artifacts: tuple[NewArtifact, ...] = ()
    error: ErrorInfo | None = None
    retryable: bool = True

    @property
    def row_value(self) -> Json:
        """The value as the row holds it: the value itself, or a reference to the artifact `value`."""
        stored = any(a.name == "value" and a.metadata == {"value": True} for a in self.artifacts)
        return {STORED_VALUE: "value"} if stored else self.value


class Unsaved(NamedTuple):
    """A returned value in which objects must become files before it is taken apart."""

    value: object


class Reported(Exception):
    """The function raised in another process, which says what the outcome is."""

    def __init__(self, error: ErrorInfo, retryable: bool) -> None:
        super().__init__(error.message)
        self.error = error
        self.retryable = retryable


async def attempt(
    call: Callable[[], Awaitable[Any]],
    context: StepContext,
    files: Files,
    new_id: Callable[[], str],
    versions: dict[str, int],
    timeout: float | None,
    rule: RetryRule | None = None,
) -> Outcome:
    """Make one attempt by `call`. `versions` are the highest version numbers that its outputs have already. `rule` says
    which exceptions of the function are worth a retry, and whether a timeout is; without it, all are.

    A cancellation is raised. So is an error of the store's disk: it fails no step, and the run stays as recorded, to be
    resumed. All other errors, of the step or of towpath, become an outcome.
    """
    try:
        await earlier_attempts_end(context, user_code.GRACE)
        limit = None if timeout is None else anyio.move_on_after(timeout)
        with limit or nullcontext():
            return await _settled(partial(_tried, call, context, files, new_id, versions), files, rule)
        return timed_out(context, timeout or 0, rule)
    finally:
        context.end()


def timed_out(context: StepContext, timeout: float, rule: RetryRule | None) -> Outcome:
    """The outcome of an attempt that took longer than its limit, in seconds."""
    message = f"the attempt took longer than {timeout:g} s"
    return failure(StepTimedOut("E_STEP_TIMEOUT", message, place=_place(context)), rule)


async def _settled(outcome: Callable[[], Awaitable[Outcome]], files: Files, rule: RetryRule | None) -> Outcome:
    """The outcome, also where it cannot be had because of an error. Raises as `attempt`."""
    try:
        return await outcome()
    except StepRaised as raised:
        if disk_failed(raised.error) and await files.is_failing():
            raise raised.error from None
        return failure(_told_apart(raised.error), rule)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        return failure(_told_apart(error), rule)
    except Exception as error:
        if disk_failed(error):
            raise
        return failure(error)


async def _tried(
    call: Callable[[], Awaitable[Any]],
    context: StepContext,
    files: Files,
    new_id: Callable[[], str],
    versions: dict[str, int],
) -> Outcome:
    return await _kept_or_rescued(await call(), context, files, new_id, versions)


def outcome_now(
    value: object, error: BaseException | None, context: StepContext, rule: RetryRule | None
) -> Outcome | Found | Unsaved | BaseException:
    """The outcome of a call that returned `value` or raised `error`, if nothing must be written or awaited for it.

    Else what `outcome_later` makes it from: the value, its parts, or an error that may be the disk's.
    """
    if error is not None:
        return error if disk_failed(error) else failure(_told_apart(error), rule)
    if is_plain(value) and not context.saved and not context.asks_approval and fits_in_row(value):
        return Outcome(value)  # most steps
    if may_hold_objects(value):
        return Unsaved(value)
    try:
        parts = _parts(value, context)
        if parts.files or parts.secrets or context.saved or context.asks_approval or not fits_in_row(parts.data):
            return parts
    except StepRaised as raised:
        if isinstance(raised.error, ValueRefused):
            return Unsaved(value)  # parts of it may be kept
        return failure(_told_apart(raised.error), rule)
    except Exception as refused:
        return failure(refused)
    return Outcome(parts.data)


async def outcome_later(
    found: Found | Unsaved | BaseException,
    context: StepContext,
    files: Files,
    new_id: Callable[[], str],
    versions: dict[str, int],
    rule: RetryRule | None,
) -> Outcome:
    """The outcome of a call for which something must be written or awaited. Raises as `attempt`."""

    async def made() -> Outcome:
        if isinstance(found, BaseException):
            raise StepRaised(found)
        value = await files_kept(found.value, context) if isinstance(found, Unsaved) else found
        return await _kept_or_rescued(value, context, files, new_id, versions)

    return await _settled(made, files, rule)


async def _kept_or_rescued(
    value: object, context: StepContext, files: Files, new_id: Callable[[], str], versions: dict[str, int]
) -> Outcome:
    """The outcome of a returned value, or of its parts. If it is refused, what can be kept of it becomes artifacts of
    the failed attempt. No later step gets them.
    """
    refused: BaseException
    try:
        parts = value if isinstance(value, Found) else _parts(value, context)
        return await _outcome_of(parts, context, files, new_id, versions)
    except StepRaised as raised:
        refused = raised.error
        if not isinstance(refused, ValueRefused):
            raise
    except ValueRefused as error:
        refused = error
    try:
        kept = await _rescued(value, context, files, new_id, versions)
    except Exception:  # then the error alone is reported
        kept = ()
    outcome = failure(refused)
    assert outcome.error is not None
    names = f"; what could be kept is in: {', '.join(artifact.name for artifact in kept[:8])}" if kept else ""
    error_info = replace(outcome.error, message=outcome.error.message + names)
    return msgspec.structs.replace(outcome, error=error_info, artifacts=kept)


async def _rescued(
    value: object, context: StepContext, files: Files, new_id: Callable[[], str], versions: dict[str, int]
) -> tuple[NewArtifact, ...]:
    if isinstance(value, Found):
        data, found = rescue.named(value.data, value.files)
    else:
        data, found = rescue.parts_left(value, _place(context))
    found += rescue.named(None, context.saved)[1]
    if not rescue.holds_something(data, found):
        return ()
    if data is not None:
        text = msgspec.json.format(msgspec.json.encode(data))
        found.insert(0, NewFile(rescue.NAME, text, f"{context.step_id}-{rescue.NAME}.json", "application/json"))
    kept = []
    for file in {file.name: file for file in found}.values():
        try:
            stored = await _keep(file, context, files)
        except ValueRefused:  # this file is what was refused
            continue
        kept.append(_kept(file, stored, context, new_id, versions))
    _check_texts(kept, context)
    return tuple(kept)


def _parts(value: object, context: StepContext) -> Found:
    try:
        return take_apart_with_secrets(value, _place(context))
    except BaseException as error:  # methods of the value's own classes were called
        raise StepRaised(error) from None


async def _outcome_of(
    parts: Found, context: StepContext, files: Files, new_id: Callable[[], str], versions: dict[str, int]
) -> Outcome:
    keep = partial(_keep_parts, parts, context, files, new_id, versions)
    # Reading a stream runs code of the user, so it gets a task of its own, like the step.
    streams = any(isinstance(file.data, AsyncIterable) for file in parts.files)
    return await (in_own_task(keep, context.variables or copy_context()) if streams else keep())


def _told_apart(error: BaseException) -> BaseException:
    """A cancellation that nobody requested must not look like a requested one."""
    if not isinstance(error, asyncio.CancelledError):
        return error
    raised = RuntimeError(f"the step raised {type(error).__name__} without being cancelled")
    return raised.with_traceback(error.__traceback__)


def _check_texts(artifacts: list[NewArtifact], context: StepContext) -> None:
    """Refuse here what a database cannot hold, so that only this step fails."""
    for new in artifacts:
        try:
            msgspec.json.encode((new.name, new.filename, new.media_type, new.metadata))
        except (UnicodeEncodeError, TypeError) as error:
            place = Place(step=context.step_id, field="output")
            raise ValueRefused(
                "E_VALUE_TYPE", f"a file's name or type is not valid text: {error}", place=place, allowed="Unicode text"
            ) from None


async def keep_outcome(
    value: object, context: StepContext, files: Files, new_id: Callable[[], str], versions: dict[str, int]
) -> Outcome:
    """Store the files in a returned value durably. A large value becomes the artifact `value`, and so does any
    value without files at a gate.

    Raises:
        ValueRefused: E_VALUE_TYPE, E_VALUE_SIZE, E_VALUE_FILE, E_ARTIFACT_NAME_TWICE. StoreFailed: E_DISK_….
    """
    found = take_apart_with_secrets(value, _place(context))
    return await _keep_parts(found, context, files, new_id, versions)


async def _keep_parts(
    parts: Found,
    context: StepContext,
    files: Files,
    new_id: Callable[[], str],
    versions: dict[str, int],
) -> Outcome:
    data, found = parts.data, [*parts.files, *context.saved]
    for mark, secret in parts.secrets:
        mark[MARK] = await anyio.to_thread.run_sync(sealed, secret.reveal(), files.folder)
    stored = await keep_value(data, context, files, new_id, versions, always=context.asks_approval and not found)
    names = [file.name for file in found] + [artifact.name for artifact in stored]
    if len(names) != len(set(names)):
        twice = next(name for name in names if names.count(name) > 1)
        message = f"two files would both be called {twice}"
        raise ValueRefused("E_ARTIFACT_NAME_TWICE", message, place=_place(context))
    bytes_of = await _stored(found, context, files)
    kept = [_kept(file, one, context, new_id, versions) for file, one in zip(found, bytes_of, strict=True)]
    _check_texts(kept, context)
    return Outcome(data, (*kept, *stored))


async def _stored(found: list[NewFile], context: StepContext, files: Files) -> list[KeptFile]:
    """Store the bytes of files: several at a time, but streams, which run code of the user, one after the other.

    Raises the first error, in the order of the files, when no file is being written any more.
    """
    if len(found) < 2 or any(isinstance(file.data, AsyncIterable) for file in found):
        return [await _keep(file, context, files) for file in found]
    # A task that the user's code cancels leaves this error in its place.
    done: list[KeptFile | BaseException] = [asyncio.CancelledError()] * len(found)

    async def keep(number: int) -> None:
        try:
            done[number] = await _keep(found[number], context, files)
        except Exception as error:
            done[number] = error

    async with anyio.create_task_group() as tasks:
        for number in range(len(found)):
            tasks.start_soon(keep, number)
    return [_or_raise(one) for one in done]


def _or_raise(kept: KeptFile | BaseException) -> KeptFile:
    if isinstance(kept, BaseException):
        raise kept
    return kept


async def _keep(file: NewFile, context: StepContext, files: Files) -> KeptFile:
    if isinstance(file.data, Artifact):
        row = file.data.row
        return KeptFile(row.filename, row.media_type, row.size, row.digest, files.key_of(row))
    if isinstance(file.data, KeptFile):
        return file.data
    stem = context.step_id if file.name == "output" else f"{context.step_id}-{file.name}"
    filename = file.filename
    if filename is None and isinstance(file.data, Path) and file.data.suffix:
        filename = f"{stem}{file.data.suffix}"
    return await files.keep(file.data, filename, file.media_type, stem)


def _kept(
    file: NewFile, kept: KeptFile, context: StepContext, new_id: Callable[[], str], versions: dict[str, int]
) -> NewArtifact:
    metadata: Json = {"same_as": file.data.row.id} if isinstance(file.data, Artifact) else None
    return msgspec.structs.replace(_new(file.name, kept, context, new_id, versions, metadata), origin=file.origin)


async def keep_value(
    data: Json,
    context: StepContext,
    files: Files,
    new_id: Callable[[], str],
    versions: dict[str, int],
    *,
    always: bool = False,
) -> tuple[NewArtifact, ...]:
    """The artifact `value` for data too large for a row, or nothing. Raises ValueRefused (E_VALUE_SIZE)."""
    if not always and fits_in_row(data):
        return ()
    encoded = msgspec.json.encode(data)
    if len(encoded) > MAX_VALUE:
        raise ValueRefused(
            "E_VALUE_SIZE",
            "the returned value is too large to be stored as data",
            place=_place(context),
            found=f"{len(encoded)} bytes of JSON",
            allowed="64 MiB; return bytes or a path to keep a file of any size",
        )
    kept = await files.keep(encoded, f"{context.step_id}.json", "application/json")
    return (_new("value", kept, context, new_id, versions, {"value": True}),)


def fits_in_row(data: Json) -> bool:
    """Is the value small enough to be stored in the row itself?"""
    if data is None or isinstance(data, bool | int | float) or (isinstance(data, str) and len(data) < TINY_TEXT):
        return True
    return len(msgspec.json.encode(data)) <= INLINE_VALUE


def _new(
    name: str,
    kept: KeptFile,
    context: StepContext,
    new_id: Callable[[], str],
    versions: dict[str, int],
    metadata: Json = None,
) -> NewArtifact:
    return NewArtifact(
        id=new_id(),
        name=name,
        version=versions.get(name, 0) + 1,
        filename=kept.filename,
        media_type=kept.media_type,
        size=kept.size,
        digest=kept.digest,
        local_path=kept.local_path,
        inline=kept.inline,
        attempt=context.attempt,
        metadata=metadata,
    )


def disk_failed(error: BaseException) -> bool:
    """Did the store fail: a full or broken disk, or a damaged key for secrets? Then the step is not at fault, and a
    retry now does not help.
    """
    trouble = ("E_DISK_", "E_SECRET_KEY")
    return isinstance(error, StoreFailed) and error.code.startswith(trouble) and not error.retryable


def failure(error: BaseException, rule: RetryRule | None = None) -> Outcome:
    """The outcome of an attempt that raised. Errors of a user's code are retryable, as far as `rule` allows it.

    A group with one exception is reported as that exception, a larger one as its first, with the number of the others.
    It is not retried if any of its exceptions must not be. Never raises, whatever the methods of the exception do.
    """
    if isinstance(error, Reported):
        return Outcome(error=error.error, retryable=error.retryable)
    causes = list(_causes(error))
    first = causes[0]
    more = f" (and {len(causes) - 1} more)" if len(causes) > 1 else ""
    final = any(isinstance(cause, TowpathError) and not getattr(cause, "retryable", True) for cause in causes)
    allowed, why = (True, "") if final or rule is None else _judged(rule, error, causes)
    told = error if more else first
    shown = user_traceback(told) if not isinstance(first, TowpathError) or isinstance(first, _WITH_TRACEBACK) else ""
    info = _described(first, f"{type(error).__name__}: " if more else "", more + why)
    return Outcome(error=replace(info, traceback=shown), retryable=allowed and not final)


def _described(first: BaseException, group: str, more: str) -> ErrorInfo:
    name = _safe(lambda: type(first).__name__)
    try:
        ours = _ours(first, name, more)
    except Exception:  # a subclass whose __init__ does not call ours
        ours = None
    if ours is not None:
        return ours
    text = _safe(lambda: str(first))
    message = redacted(f"{group}{name}: {text}" if text else group + name, MESSAGE_LIMIT)
    return ErrorInfo("E_STEP_RAISED", message + more, name)


def _judged(rule: RetryRule, error: BaseException, causes: list[BaseException]) -> tuple[bool, str]:
    """Does the rule allow a retry? If its predicate raises, the answer is no, and the reason is in the message."""
    try:
        return rule.allows(error, causes), ""
    except KeyboardInterrupt:
        raise
    except BaseException as raised:
        name, text = type(raised).__name__, _safe(partial(str, raised))
        return False, redacted(f" (not tried again: retry_if raised {name}: {text}", MESSAGE_LIMIT) + ")"


def _ours(error: BaseException, name: str, more: str) -> ErrorInfo | None:
    if not isinstance(error, TowpathError):
        return None
    text = redacted(printable(_sentence(error))) or name
    return ErrorInfo(printable(str(error.code)) or "E_STEP_FAILED", text + more, name)


_WITH_CURES = (ValueRefused, InputInvalid, ExpressionFailed, FeatureMissing)


def _sentence(error: TowpathError) -> str:
    """The message of an error. Of a value that does not fit also what was found, what is allowed, and the cure: a row
    has no other place for these.
    """
    problem = error.problem
    if not isinstance(error, _WITH_CURES):
        return str(problem.message)
    where = f"{problem.place.field}: " if problem.place.field not in problem.message else ""
    more = (("found", problem.found), ("cure", problem.cure), ("allowed", problem.allowed))
    return where + "; ".join([problem.message, *(f"{label}: {text}" for label, text in more if text)])


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exceptions in a group, also in groups inside it; else the exception itself."""
    todo, found, left = [error], False, MOST_CAUSES
    while todo and left:
        at, left = todo.pop(0), left - 1
        if isinstance(at, BaseExceptionGroup):
            todo[:0] = _MEMBERS.__get__(at)[:MOST_CAUSES]  # not by attribute: a subclass may return anything
        else:
            found = True
            yield at
    if not found:
        yield error


def _safe(text: Callable[[], str]) -> str:
    """The text of an exception, cut and printable; or a note that it has none."""
    try:
        return printable(str(text())[: 2 * MESSAGE_LIMIT])
    except BaseException as error:
        return f"<no text: its __str__ raised {type(error).__name__}>"


def printable(text: str) -> str:
    """The text with lone surrogates written as escapes: no database and no terminal accepts them."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def user_traceback(error: BaseException) -> str:
    """The last 16 KiB of the traceback, without towpath's own frames."""
    try:
        if not _is_finite(error):
            raise ValueError
        kept = traceback.TracebackException.from_exception(error)
        _drop_our_frames(kept)
        lines = [
            line if len(line) <= MESSAGE_LIMIT else f"{redacted(line, MESSAGE_LIMIT)}…\n" for line in kept.format()
        ]
    except Exception:  # an exception whose attributes raise when they are read
        lines = traceback.format_tb(_TRACEBACK.__get__(error))
    text = printable(redacted_end(lines, TRACEBACK_LIMIT))
    return text.encode()[-TRACEBACK_LIMIT:].decode(errors="ignore")


def _is_finite(error: BaseException) -> bool:
    """Are the causes and members of an error a finite chain? A user's class may return anything for them."""
    todo, seen = [error], set[int]()
    while todo:
        at = todo.pop()
        if id(at) in seen:
            continue
        seen.add(id(at))
        if len(seen) > MOST_CAUSES:
            return False
        if isinstance(at, BaseExceptionGroup):
            if type(at).exceptions is not _MEMBERS:
                return False
            todo += at.exceptions
        todo += [one for one in (_CAUSE.__get__(at), _CONTEXT.__get__(at)) if one is not None]
    return True


def _drop_our_frames(kept: traceback.TracebackException) -> None:
    seen: list[traceback.TracebackException | None] = [kept]
    while seen:
        at = seen.pop()
        if at is None:
            continue
        frames = [f for f in at.stack if not str(Path(f.filename).resolve()).startswith(_OUR_FOLDERS)]
        at.stack = traceback.StackSummary.from_list(frames)
        seen += [at.__cause__, at.__context__, *(at.exceptions or ())]


def _place(context: StepContext) -> Place:
    item = "" if context.item is None else f"[{context.item}]"
    return Place(step=f"{context.step_id}{item}")
