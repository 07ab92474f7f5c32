"""The content of a file on a page: lines of text, or JSON as a tree. Limited in size and depth."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

import anyio
import msgspec

from towpath.adapters.http.downloads import value_shown
from towpath.errors import StoreFailed
from towpath.model import ArtifactRow, Json
from towpath.ports import Files
from towpath.values import REFERENCE

from .previews import PEEK_LIMIT, TEXT_LIMIT, Preview, preview_of, show_of

MOST_LINES = 3_000
MOST_NODES = 2_000
DEEPEST = 40
OPEN_DEPTH = 2
LEAF_LIMIT = 2_000  # characters of one value
CHECKED = 8 * 1024 * 1024  # bytes; a file up to this size is checked completely before a page shows it
PEEKED = 60  # texts in a list whose first lines are shown
PEEK = 600  # characters of it
_TROUBLE = {
    "E_BLOB_CORRUPT": "Its bytes differ from the bytes that were kept.",
    "E_BLOB_MISSING": "Its bytes are missing.",
}
_CURE = "`towpath fsck` lists all damage. Run the step again to make the file again."


@dataclass(frozen=True, slots=True)
class Branch:
    """A place in a JSON document. `children` is None for a plain value."""

    key: str
    text: str
    children: tuple[Branch, ...] | None = None
    open: bool = False


@dataclass(frozen=True, slots=True)
class Content:
    """What a page shows of a file: `lines`, `tree` or neither. `whole` is the complete text, if it is short enough."""

    lines: tuple[str, ...] | None = None
    tree: Branch | None = None
    cut: bool = False
    whole: str | None = None
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Shown:
    """A version with its content."""

    file: Preview
    content: Content


async def content_of(files: Files, row: ArtifactRow) -> Content:
    """The content of a text or JSON file; empty for any other file. A damaged file has `trouble`."""
    show = show_of(row.media_type)
    readable = show in ("text", "json")
    try:
        if not readable or row.size > TEXT_LIMIT:
            await _check(files, row)
        data = await _beginning(files, row) if readable else b""
    except StoreFailed as error:
        return Content(trouble=f"{_TROUBLE.get(error.code, '')} {_CURE} {error.code}".strip())
    if not readable:
        return Content()
    cut = len(data) >= TEXT_LIMIT and row.size > len(data)
    text = data.decode("utf-8", "replace")
    whole = None if cut or "\ufffd" in text else text
    if show == "json" and not cut:
        tree = tree_of(data)
        if tree is not None:
            return Content(tree=tree, whole=whole)
    lines = text.splitlines()
    return Content(tuple(lines[:MOST_LINES]), cut=cut or len(lines) > MOST_LINES, whole=whole)


async def _check(files: Files, row: ArtifactRow) -> None:
    """Raises StoreFailed for a damaged file. Of a large file only the size is checked."""
    where = None if row.size <= CHECKED else await files.place(row)
    if where is None:
        await files.read_bytes(row)
        return
    try:
        found = (await anyio.Path(where).stat()).st_size
    except OSError:
        raise StoreFailed("E_BLOB_MISSING", "the bytes of this file are missing") from None
    if found != row.size:
        raise StoreFailed("E_BLOB_CORRUPT", f"only {found:,} of {row.size:,} bytes are left")


async def _beginning(files: Files, row: ArtifactRow) -> bytes:
    shown = await value_shown(files, row)
    if shown is not None:
        return shown[:TEXT_LIMIT]
    if row.size <= TEXT_LIMIT:
        return await files.read_bytes(row)
    found = b""
    async with aclosing(files.open(row)) as chunks:  # type: ignore[type-var]
        async for chunk in chunks:
            found += chunk
            if len(found) >= TEXT_LIMIT:
                break
    return found[:TEXT_LIMIT]


def tree_of(data: bytes) -> Branch | None:
    """JSON as a tree that can be folded; None if it is not JSON, or too large."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    budget = [MOST_NODES]
    tree = _branch("", value, 0, budget)
    return tree if budget[0] >= 0 else None


def _branch(key: str, value: Json, depth: int, budget: list[int]) -> Branch:
    budget[0] -= 1
    if isinstance(value, dict) and isinstance(value.get(REFERENCE), str):
        return Branch(key, f"the file {value[REFERENCE][:LEAF_LIMIT]}")
    if budget[0] < 0 or depth > DEEPEST or not isinstance(value, dict | list) or not value:
        text = msgspec.json.encode(value).decode()
        return Branch(key, text if len(text) <= LEAF_LIMIT else f"{text[:LEAF_LIMIT]}…")
    pairs = list(value.items()) if isinstance(value, dict) else [(str(i), v) for i, v in enumerate(value)]
    word = ("key", "keys") if isinstance(value, dict) else ("item", "items")
    children = tuple(_branch(str(name), inner, depth + 1, budget) for name, inner in pairs)
    return Branch(key, f"{len(pairs)} {word[len(pairs) != 1]}", children, depth < OPEN_DEPTH and len(pairs) <= 100)


async def with_peeks(files: Files, rows: Sequence[ArtifactRow]) -> list[Preview]:
    """Previews of versions. The first small texts among them get their first lines."""
    found: list[Preview] = []
    left = PEEKED
    for row in rows:
        file = preview_of(row)
        if file.show in ("text", "json") and file.size <= PEEK_LIMIT and left:
            left -= 1
            file = replace(file, peek=await _peek(files, row))
        found.append(file)
    return found


async def _peek(files: Files, row: ArtifactRow) -> str:
    try:
        data = await value_shown(files, row) or await files.read_bytes(row)
    except StoreFailed:
        return ""
    return data[: PEEK * 4].decode("utf-8", "replace")[:PEEK]
