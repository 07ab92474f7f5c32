"""What a node type is: its inputs, its outputs, what it does, and how GET /object_info tells of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.comfyui.server.contents import digest, fingerprint
from tests.comfyui.server.files import Folders

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif")
VIDEOS = (".mp4", ".webm", ".mkv", ".mov", ".gif")
SOUNDS = (".flac", ".wav", ".mp3", ".ogg")


@dataclass(frozen=True, slots=True)
class Slot:
    """One input: its type word, and what /object_info says of it."""

    type: str
    options: Mapping[str, Any] = field(default_factory=dict)
    choices: tuple[str, ...] | None = None  # a closed list
    files: tuple[str, ...] | None = None  # a list of the files in input that end so
    old: bool = False  # told in the older of the two dialects

    def listed(self, folders: Folders) -> list[str] | None:
        """The values allowed; None if it is not a list."""
        if self.files is not None:
            return folders.inputs(*self.files)
        return None if self.choices is None else list(self.choices)

    def told(self, folders: Folders) -> list[Any]:
        """As in /object_info: `[["a", "b"], {…}]` or `["COMBO", {"options": ["a", "b"], …}]`."""
        listed = self.listed(folders)
        if listed is None:
            return [self.type, dict(self.options)]
        if self.old:
            return [listed, dict(self.options)]
        return ["COMBO", {**self.options, "options": listed}]


class Interrupted(Exception):
    """Somebody interrupted the prompt while a node ran."""


class OutOfMemory(Exception):
    """Told to clients as torch.OutOfMemoryError."""


@dataclass(frozen=True, slots=True)
class Blocker:
    """A value that keeps the nodes behind it from running, with a message or without a word."""

    message: str | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """What a node gives: a value for each output, and what it shows (history and `executed` tell of it)."""

    values: tuple[Any, ...] = ()
    ui: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One run of one node."""

    class_type: str
    literal: Mapping[str, Any]  # inputs written in the prompt
    linked: Mapping[str, Any]  # values of other nodes, by input
    folders: Folders
    graph: Mapping[str, Any]
    extra: Mapping[str, Any]  # extra_data.extra_pnginfo
    tries: Counter[str]  # how often something was tried since the server started
    check: Callable[[], None]  # raises Interrupted if somebody wants that
    progress: Callable[[float, float], Awaitable[None]]
    show: Callable[[bytes], Awaitable[None]]  # a PNG over the websocket

    def get(self, name: str, default: Any = None) -> Any:
        """The value of an input, wherever it comes from."""
        return self.linked.get(name, self.literal.get(name, default))

    def images(self) -> tuple[bytes, ...]:
        """The batch under `images` or `image`."""
        found: tuple[bytes, ...] = self.get("images") or self.get("image") or ()
        return found

    def cause(self, index: int = 0) -> str:
        """What the content made here follows from."""
        sources = [digest(each) for value in self.linked.values() for each in _flat(value)]
        return fingerprint(self.class_type, self.literal, sources, index)


def _flat(value: Any) -> tuple[bytes | str, ...]:
    if isinstance(value, tuple):
        return value
    return (value if isinstance(value, bytes | str) else str(value),)


Slots = Mapping[str, Slot]
Run = Callable[[Call], Awaitable[Made]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node type."""

    run: Run
    required: Slots = field(default_factory=dict)
    optional: Slots = field(default_factory=dict)
    gives: tuple[str, ...] = ()
    output: bool = False  # an output node: something that a prompt can be run for
    any_inputs: bool = False  # takes inputs of every name

    def slots(self) -> Slots:
        """All inputs that have a name here."""
        return {**self.required, **self.optional}

    def told(self, name: str, folders: Folders) -> dict[str, Any]:
        """As in /object_info."""
        return {
            "input": {
                "required": {key: slot.told(folders) for key, slot in self.required.items()},
                "optional": {key: slot.told(folders) for key, slot in self.optional.items()},
                "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"} if self.output else {},
            },
            "input_order": {"required": list(self.required), "optional": list(self.optional)},
            "is_input_list": False,
            "output": list(self.gives),
            "output_is_list": [False] * len(self.gives),
            "output_name": list(self.gives),
            "name": name,
            "display_name": name,
            "description": "",
            "python_module": "nodes",
            "category": "stand-in",
            "output_node": self.output,
            "has_intermediate_output": False,
        }


# Short names, so that the tables of nodes read as tables.


def of(kind: str, **options: Any) -> Slot:
    """An input that is linked, such as IMAGE."""
    return Slot(kind, options)


def whole(default: int = 0, low: int = -(2**63), high: int = 2**64 - 1) -> Slot:
    """An integer."""
    return Slot("INT", {"default": default, "min": low, "max": high})


def real(default: float = 0.0, low: float = 0.0, high: float = 1e6) -> Slot:
    """A number."""
    return Slot("FLOAT", {"default": default, "min": low, "max": high, "step": 0.01})


def truth(default: bool = False) -> Slot:
    """True or false."""
    return Slot("BOOLEAN", {"default": default})


def text(default: str = "", multiline: bool = False) -> Slot:
    """Text."""
    return Slot("STRING", {"default": default, "multiline": multiline})


def choice(*choices: str, old: bool = False) -> Slot:
    """One of a closed list."""
    return Slot("COMBO", {"default": choices[0]}, choices, old=old)


def file(upload: str, endings: tuple[str, ...]) -> Slot:
    """A file of the input folder; `upload` is the option that tells so."""
    return Slot("COMBO", {upload: True}, files=endings, old=True)
