"""Reads a server's replies about a prompt: its state, its outputs, its errors. Pure.

Custom nodes write into replies too. What does not have the expected form is reported or ignored, and never trusted.
The expected forms are those of ComfyUI's `server.py` and `execution.py`, as measured on 0.33.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from towpath.errors import PromptFailed, ServerFailed

MESSAGE_LIMIT = 2_000  # characters of a node's own text
MAX_FILES = 20_000  # of one prompt
MAX_LINES = 100  # of problems that are kept from one reply
_OUT_OF_MEMORY = re.compile(r"out ?of ?memory", re.IGNORECASE)


class PromptState(StrEnum):
    """Where a prompt is. `unknown`: the server does not know it (any more)."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"

    @property
    def over(self) -> bool:
        return self in (PromptState.COMPLETED, PromptState.FAILED, PromptState.CANCELLED)


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file that a node made, as the server names it. `key` is the server's word (`images`, `gifs`, …).

    With `text`, the node returned this text instead of a file.
    """

    node: str
    key: str
    filename: Any
    subfolder: Any = ""
    folder: Any = "output"
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Outputs:
    """All outputs of a prompt, by node in the order of their ids. `odd` has a line for each that was not understood."""

    files: tuple[OutputFile, ...] = ()
    texts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    odd: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PromptRecord:
    """The server's record of a prompt that has ended."""

    state: PromptState
    outputs: dict[str, Any] = field(default_factory=dict)
    messages: tuple[tuple[str, dict[str, Any]], ...] = ()

    def message(self, kind: str) -> dict[str, Any] | None:
        """The data of the last message of that kind."""
        return next((data for name, data in reversed(self.messages) if name == kind), None)


def job_state(reply: Any, prompt_id: str) -> PromptState:
    """The state in a reply of `/api/jobs/{id}`; `unknown` if the reply is about another prompt."""
    if _text(reply, "id") not in ("", prompt_id):
        return PromptState.UNKNOWN
    words = {
        "pending": PromptState.PENDING,
        "in_progress": PromptState.RUNNING,
        "completed": PromptState.COMPLETED,
        "failed": PromptState.FAILED,
        "cancelled": PromptState.CANCELLED,
    }
    return words.get(_text(reply, "status"), PromptState.UNKNOWN)


def queue_state(reply: Any, prompt_id: str) -> PromptState:
    """The state of a prompt in a reply of `/queue`: running, pending, or unknown to it."""
    for key, state in (("queue_running", PromptState.RUNNING), ("queue_pending", PromptState.PENDING)):
        entries = reply.get(key) if isinstance(reply, dict) else None
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, list) and len(entry) > 1 and entry[1] == prompt_id:
                return state
    return PromptState.UNKNOWN


def history_record(reply: Any, prompt_id: str) -> PromptRecord | None:
    """The record of a prompt in a reply of `/history/{id}`; None if it has not ended, or is not known."""
    entry = reply.get(prompt_id) if isinstance(reply, dict) else None
    if not isinstance(entry, dict):
        return None
    status = entry.get("status")
    status = status if isinstance(status, dict) else {}
    messages = tuple(_messages(status.get("messages")))
    state = PromptState.COMPLETED
    if any(kind == "execution_interrupted" for kind, _ in messages):
        state = PromptState.CANCELLED
    elif status.get("status_str") == "error":
        state = PromptState.FAILED
    outputs = entry.get("outputs")
    return PromptRecord(state, outputs if isinstance(outputs, dict) else {}, messages)


def job_record(reply: Any) -> PromptRecord:
    """The record in a reply of `/api/jobs/{id}`, for a prompt that is no longer in the history."""
    outputs = reply.get("outputs") if isinstance(reply, dict) else None
    error = reply.get("execution_error") if isinstance(reply, dict) else None
    messages = (("execution_error", error),) if isinstance(error, dict) else ()
    return PromptRecord(job_state(reply, _text(reply, "id")), outputs if isinstance(outputs, dict) else {}, messages)


def _messages(found: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for message in found if isinstance(found, list) else ():
        if isinstance(message, list) and len(message) == 2 and isinstance(message[1], dict):
            yield str(message[0]), message[1]


def outputs_of(record: PromptRecord) -> Outputs:
    """Every file and every text in a record, under whatever key a node put it.

    Preview files (folder `temp`) are left out if there are other files.

    Raises ServerFailed (E_REPLY_TOO_LARGE) for more than 20,000 files.
    """
    files: list[OutputFile] = []
    texts: dict[str, list[str]] = {}
    odd: list[str] = []
    for node in sorted(record.outputs, key=node_order):
        kinds = record.outputs[node]
        if not isinstance(kinds, dict):
            odd.append(f"node {node}: {type(kinds).__name__} in place of its outputs")
            continue
        for key, items in kinds.items():
            _sort_items(node, key, items, files, texts, odd)
    if len(files) > MAX_FILES:
        allowed = f"{MAX_FILES} files"
        raise ServerFailed("E_REPLY_TOO_LARGE", f"a prompt names {len(files)} files", allowed=allowed, retryable=False)
    kept = [file for file in files if file.folder != "temp"]
    return Outputs(tuple(kept or files), {node: tuple(found) for node, found in texts.items()}, _first_lines(odd))


def _sort_items(
    node: str, key: str, items: Any, files: list[OutputFile], texts: dict[str, list[str]], odd: list[str]
) -> None:
    if not isinstance(items, list):
        items = [items]
    for item in items:
        if isinstance(item, dict) and "filename" in item:
            files.append(OutputFile(node, key, item["filename"], item.get("subfolder", ""), item.get("type", "output")))
        elif isinstance(item, str) and key == "text":
            texts.setdefault(node, []).append(item)
        elif isinstance(item, str) and key == "result" and item:
            files.append(_preview(node, key, item))
        elif item is not None and key not in ("animated", "result", "has_alpha"):
            odd.append(f"node {node}, {key}: {type(item).__name__}")


def _preview(node: str, key: str, path: str) -> OutputFile:
    """Preview nodes name a file by its path below the output folder."""
    subfolder, _, name = path.replace("\\", "/").rpartition("/")
    return OutputFile(node, key, name, subfolder)


def node_order(node: str) -> tuple[int, int, str]:
    """Node ids by number; others behind, by text."""
    return (0, int(node), "") if node.isascii() and node.isdigit() and len(node) < 18 else (1, 0, node)


def failed_prompt(record: PromptRecord, titles: dict[str, str]) -> PromptFailed:
    """Why a prompt did not complete. Retryable if it was interrupted, or if a node ran out of memory."""
    if record.state is PromptState.CANCELLED:
        at = record.message("execution_interrupted") or {}
        node = f" at {_node(at, titles)}" if at.get("node_id") else ""
        return PromptFailed("E_PROMPT_CANCELLED", f"the prompt was interrupted{node}", retryable=True)
    error = record.message("execution_error") or {}
    kind, message = _text(error, "exception_type"), _text(error, "exception_message").strip()
    line = f"{_node(error, titles)}: {kind}: {message}"[:MESSAGE_LIMIT]
    if _OUT_OF_MEMORY.search(kind) or _OUT_OF_MEMORY.search(message[:500]):
        return PromptFailed("E_NODE_MEMORY", f"out of memory: {line}", nodes=(line,), retryable=True)
    return PromptFailed("E_NODE_FAILED", line, nodes=(line,))


def refused_prompt(reply: Any, titles: dict[str, str]) -> PromptFailed:
    """Why a server refused a prompt: the reply of a 400."""
    error = reply.get("error") if isinstance(reply, dict) else None
    kind = _text(error, "type") or "unknown"
    lines = node_problems(reply.get("node_errors") if isinstance(reply, dict) else None, titles)
    message = _text(error, "message") or "no reason given"
    details = f"; {'; '.join(lines)}" if lines else f": {_text(error, 'details')}" if _text(error, "details") else ""
    return PromptFailed("E_PROMPT_INVALID", f"{kind}: {message}{details}"[:MESSAGE_LIMIT], nodes=lines)


def node_problems(errors: Any, titles: dict[str, str]) -> tuple[str, ...]:
    """`node_errors` of a reply, one line per problem."""
    lines: list[str] = []
    for node, found in errors.items() if isinstance(errors, dict) else ():
        problems = found.get("errors") if isinstance(found, dict) else None
        named = _named(str(node), _text(found, "class_type"), titles)
        for problem in problems if isinstance(problems, list) else ():
            details = _text(problem, "details")
            lines.append(f"{named}: {_text(problem, 'message')}" + (f" ({details})" if details else ""))
        if not problems:
            lines.append(f"{named}: refused")
    return tuple(line[:MESSAGE_LIMIT] for line in _first_lines(lines))


def _first_lines(lines: list[str]) -> tuple[str, ...]:
    """The first lines, and how many more there are."""
    more = [f"and {len(lines) - MAX_LINES} more"] if len(lines) > MAX_LINES else []
    return (*lines[:MAX_LINES], *more)


def _node(error: dict[str, Any], titles: dict[str, str]) -> str:
    return _named(str(error.get("node_id", "?")), _text(error, "node_type"), titles)


def _named(node: str, kind: str, titles: dict[str, str]) -> str:
    title = titles.get(node, "")
    words = f"{kind}" if title in ("", kind) else f"{title}, {kind}"
    return f"node {node} ({words})" if words else f"node {node}"


def _text(found: Any, key: str) -> str:
    value = found.get(key) if isinstance(found, dict) else None
    return value if isinstance(value, str) else ""
