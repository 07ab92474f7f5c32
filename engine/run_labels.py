"""The id, the name and the tags of a run: what is allowed, and which keywords of `run` and `start` they are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from types import MappingProxyType
from typing import Any, NamedTuple
from unicodedata import category, normalize
from urllib.parse import unquote

from .errors import InputInvalid, Place
from .model import Plan

MAX_RUN_ID = 200
MAX_NAME = 200
MAX_TAGS = 32
MAX_KEY = 64
MAX_VALUE = 256

Tags = Mapping[str, str] | list[str] | tuple[str, ...] | Set[str]
"""Tags with their values, or only the keys of tags without a value."""


class RunLabel(NamedTuple):
    """The name that people gave a run, and its tags. Several runs may have the same."""

    name: str | None = None
    tags: Mapping[str, str] = MappingProxyType({})


UNLABELLED = RunLabel()

_POSITION = re.compile(r"last(~[0-9]*)?", re.IGNORECASE)
_ID = re.compile(r"[0-9a-f]{8}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_IN_KEYS = frozenset("_-.:/")


def is_position(text: str) -> bool:
    """Would a person read the text as `last` or `last~1`?"""
    return _POSITION.fullmatch("".join(normalize("NFKC", text).split())) is not None


def check_run_id(run_id: str) -> None:
    """Refuse an id that cannot be used on a command line, in an address, or as the name of a folder.

    Raises InputInvalid (E_RUN_ID).
    """
    readings = (run_id, unquote(run_id))  # also if it is decoded once too often, it means no other path
    apart = any(not text.isprintable() or "/" in text or "\\" in text or text[:1] == "." for text in readings)
    edges = not run_id[:1].isalnum() or run_id != run_id.strip() or run_id.endswith(".")
    if apart or edges or len(run_id) > MAX_RUN_ID or is_position(run_id):
        raise InputInvalid(
            "E_RUN_ID",
            "this run id is not allowed",
            found=run_id,
            allowed=f"1 to {MAX_RUN_ID} printable characters, a letter or digit first, no / and \\; not `last`",
        )


def told_apart(plan: Plan, inputs: Mapping[str, Any], keywords: Mapping[str, Any]) -> tuple[dict[str, Any], RunLabel]:
    """The inputs, and the label, among the keywords of a caller.

    `name` and `tags` are those of the run. But where the chain has an input of that name, the keyword is the input,
    unless `inputs` gives the input. A label in place of the name is always the label.
    Raises InputInvalid: E_RUN_NAME, E_RUN_TAGS.
    """
    given = {**inputs, **keywords}
    if "name" not in keywords and "tags" not in keywords:
        return given, UNLABELLED
    if isinstance(keywords.get("name"), RunLabel):
        return {**inputs, **{word: value for word, value in keywords.items() if word != "name"}}, keywords["name"]
    own = {spec.name for spec in plan.inputs} - {*inputs}
    label: dict[str, Any] = {word: keywords[word] for word in ("name", "tags") if word in keywords and word not in own}
    for word in label:
        del given[word]
        if word in inputs:
            given[word] = inputs[word]
    return given, label_of(**label)


def label_of(name: str | None = None, tags: Tags | None = None) -> RunLabel:
    """A checked label. Raises InputInvalid: E_RUN_NAME, E_RUN_TAGS."""
    if name is None and not tags:
        return UNLABELLED
    return RunLabel(None if name is None else checked_name(name), {} if tags is None else checked_tags(tags))


def relabelled(label: RunLabel, name: str | None, tags: Tags | None) -> RunLabel:
    """The label of a rerun: that of the run before, except for what is given. Raises as `label_of`."""
    return RunLabel(
        label.name if name is None else checked_name(name), label.tags if tags is None else checked_tags(tags)
    )


def checked_name(name: Any) -> str:
    """A name without blanks around it, in normal form C. Raises InputInvalid (E_RUN_NAME)."""
    text = _plain(name)
    if text is None or not 0 < len(text) <= MAX_NAME or text[0] == "-" or is_position(text) or _ID.fullmatch(text):
        raise InputInvalid(
            "E_RUN_NAME",
            "this name is not allowed for a run",
            place=Place(field="name"),
            found=name if isinstance(name, str) else type(name).__name__,
            allowed=f"1 to {MAX_NAME} printable characters, no - first; not `last`, and nothing that looks like an id",
        )
    return text


def checked_tags(tags: Any) -> dict[str, str]:
    """Tags in the order of their keys, in normal form C. A key without a value has the value "".

    Raises InputInvalid (E_RUN_TAGS).
    """
    if isinstance(tags, str | bytes) or not isinstance(tags, Iterable):
        raise _refused("tags are a mapping, or a list of keys", type(tags).__name__)
    pairs = [*tags.items()] if isinstance(tags, Mapping) else [(key, "") for key in tags]
    made = dict(_tag(key, value) for key, value in pairs)
    if len(made) < len(pairs):
        raise _refused("a tag is given twice", " ".join(str(key) for key, _ in pairs))
    if len(made) > MAX_TAGS:
        raise _refused("a run has too many tags", str(len(made)))
    return dict(sorted(made.items()))


def tag_key(text: str) -> str:
    """The key of a tag, checked. Raises InputInvalid (E_RUN_TAGS)."""
    key = _plain(text)
    if key is None or not 0 < len(key) <= MAX_KEY or not all(category(c)[0] in "LMN" or c in _IN_KEYS for c in key):
        raise _refused("this is no key of a tag", text if isinstance(text, str) else type(text).__name__)
    return key


def tag_value(key: str, value: Any) -> str:
    """The value of a tag, checked. Raises InputInvalid (E_RUN_TAGS)."""
    text = _plain(value)
    if text is None or len(text) > MAX_VALUE:
        found = value if isinstance(value, str) else type(value).__name__
        cure = "" if isinstance(value, str) else f"{key}=str(…)"
        raise _refused(f"this is no value of the tag {key}", found, cure)
    return text


def tag_asked(text: str) -> tuple[str, str | None]:
    """A tag as people write it: `key` or `key=value`. Raises InputInvalid (E_RUN_TAGS)."""
    key, separator, value = text.partition("=")
    checked = tag_key(key)
    return checked, tag_value(checked, value) if separator else None


def tags_written(texts: Iterable[str]) -> dict[str, str]:
    """Tags as people write them on the command line. Raises InputInvalid (E_RUN_TAGS), also for a key given twice."""
    pairs = [tag_asked(text) for text in texts]
    if len(dict(pairs)) < len(pairs):
        raise _refused("a tag is given twice", " ".join(key for key, _ in pairs))
    return checked_tags({key: value or "" for key, value in pairs})


def _tag(key: Any, value: Any) -> tuple[str, str]:
    checked = tag_key(key)
    return checked, tag_value(checked, value)


def _plain(text: Any) -> str | None:
    """Text without blanks around it, in normal form C; None for what is no text, or has characters without a sign."""
    if not isinstance(text, str):
        return None
    made = normalize("NFC", str(text)).strip()
    return made if made.isprintable() else None


def _refused(sentence: str, found: str, cure: str = "") -> InputInvalid:
    return InputInvalid(
        "E_RUN_TAGS",
        sentence,
        place=Place(field="tags"),
        found=found,
        allowed=(
            f"up to {MAX_TAGS} tags of text: keys of 1 to {MAX_KEY} letters, digits and _ - . : /, "
            f"values of up to {MAX_VALUE} printable characters"
        ),
        cure=cure,
    )
