"""Strict YAML: reads the text of a chain file as plain data, with the position of each value.

The author of a chain file may be a stranger, so less than all of YAML is allowed. Not allowed is YAML that grows
when it is read (aliases, merges, deep nesting), that runs code in other readers (tags), or that readers understand
differently (duplicate keys, keys that are not text). Refusing is cheap: the size is checked before decoding, depth
and nodes are counted while libyaml yields events, and positions are two arrays until the file is accepted.

Plain scalars follow the core schema (YAML 1.2.2, section 10.3.2): `no`, `12:30:45` and `2024-01-01` are text.
Two differences: digits with a leading zero are text (`0777` is 511 to some readers, 777 to others), and
`.nan`, `.inf` and integers beyond 64 bits are refused, because JSON and SQL cannot hold them.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from math import isfinite
from typing import Any, NoReturn, TypeAlias

import yaml
from yaml import events

from .errors import ChainInvalid, Place, Problem, shown

MAX_BYTES = 1_000_000
MAX_DEPTH = 50  # lists and mappings inside each other
MAX_NODES = 100_000  # values, lists, mappings and keys
MAX_PROBLEMS = 50  # people do not read more, and a hostile file could have 100,000

Keys: TypeAlias = tuple[str | int, ...]
Position: TypeAlias = tuple[int, int]

_LOADER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader

_WORDS: dict[str, object] = {"": None, "~": None}
for _word, _meaning in (("null", None), ("true", True), ("false", False)):
    _WORDS |= dict.fromkeys((_word, _word.title(), _word.upper()), _meaning)
_NOT_TEXT_FIRST = frozenset("+-.0123456789") | {word[:1] for word in _WORDS}
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_OCTAL_OR_HEX = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_ENDLESS = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]")

# All but c-printable of YAML 1.2.2, section 5.1. An escape in double quotes could still mean one of these.
_UNPRINTABLE = "\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x84\\x86-\\x9f\\ud800-\\udfff\\ufffe\\uffff"
_NEVER = re.compile(f"[{_UNPRINTABLE}]")
# Only YAML 1.1 has these line breaks: they would change keys and line numbers. A byte order mark is invisible.
_NOT_RAW = re.compile(f"[{_UNPRINTABLE}\\x85\\u2028\\u2029\\ufeff]")
# Thousands of %TAG lines keep libyaml busy for seconds (it compares each with all), so they are refused first.
_TAG_LINE = re.compile(r"(?<![^\n\r])%TAG\b")

# code: the problem, what is allowed, the cure
_SAYS = {
    "E_YAML_SIZE": ("the file is too large", f"{MAX_BYTES:,} bytes", ""),
    "E_YAML_ENCODING": ("the file is not UTF-8 text", "UTF-8", "save it as UTF-8"),
    "E_YAML_CHAR": ("a character that YAML does not allow", "printable text, tabs, line ends", "remove it"),
    "E_YAML_SYNTAX": ("not valid YAML", "", ""),
    "E_YAML_MULTIDOC": ("the file holds a second document", "one document", "give it a file of its own"),
    "E_YAML_TOP": ("a chain file must be a mapping", "keys and values", "begin with `name:` and `steps:`"),
    "E_YAML_DEPTH": ("the file is nested too deeply", f"{MAX_DEPTH} lists and mappings in each other", ""),
    "E_YAML_NODES": ("the file holds too much", f"{MAX_NODES:,} keys, values, lists and mappings", ""),
    "E_YAML_TAG": ("tags are not allowed", "text, numbers, true, false, null", "write the plain value"),
    "E_YAML_ALIAS": ("anchors and aliases are not allowed", "", "write the value out where it is needed"),
    "E_YAML_MERGE": ("merges (<<) are not allowed", "", "write the keys out where they are needed"),
    "E_YAML_KEY": ("a key must be text", "text", "put quotes around it"),
    "E_YAML_DUPLICATE_KEY": ("a key is written twice", "each key once", "remove or rename one of the two"),
    "E_FIELD_RANGE": ("the number is out of range", "finite numbers, integers from -2^63 to 2^64-1", ""),
}
_QUOTE_TEMPLATE = 'put quotes around a template: "{{ … }}"'
_QUOTE_TEXT = "put quotes around a text that begins with @ ` % or holds ': '"
_CLOSE_QUOTE = "close the quote"
_ESCAPE = r"write \\ for a backslash, or use single quotes"
_YAML_VERSION = "write %YAML 1.2, or leave the line out"
_CURES = {  # by the text at which the parser stopped
    "%YAML": _YAML_VERSION,
    "\t": "indent with spaces",
    **dict.fromkeys("@`%:", _QUOTE_TEXT),
}
_QUOTES = frozenset("'\"")
_QUOTED = re.compile(r"""'(?:[^']|'')*+'|"(?:[^"\\]|\\.)*+["]""", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Document:
    """A YAML file that was accepted: its data, and line and column (from 1) of each value and each key."""

    data: dict[str, object]
    source: str
    positions: Mapping[Keys, Position]
    key_positions: Mapping[Keys, Position]

    def place(self, path: Iterable[str | int], *, step: str = "", field: str = "") -> Place:
        """The place of the value at `path`, or of its nearest known ancestor."""
        known = tuple(path)
        while known not in self.positions:
            known = known[:-1]
        return Place(self.source, *self.positions[known], step, field)


def read_yaml(content: bytes, source: str) -> Document:
    """Read the bytes of a file; raises ChainInvalid with all problems in file order, 50 at most."""
    text = _decoded(content, source)
    if bad := _NOT_RAW.search(text):
        place = Place(source, *_position(text, bad.start()))
        escape = "" if _NEVER.match(bad[0]) else f', or write "\\u{ord(bad[0]):04X}" in double quotes'
        raise ChainInvalid([_problem("E_YAML_CHAR", place, f"U+{ord(bad[0]):04X}", cure=f"remove it{escape}")])
    if "%TAG" in text and (tag := _TAG_LINE.search(text)):
        raise ChainInvalid([_problem("E_YAML_TAG", Place(source, *_position(text, tag.start())), "%TAG")])
    reader = _Reader(text, source)
    data = reader.read()
    positions: dict[Keys, Position] = {}
    keys: dict[Keys, Position] = {}
    _spread(data, (), zip(reader.lines, reader.columns, strict=True), positions, keys)
    return Document(data, source, positions, keys)


def _problem(code: str, place: Place, found: str = "", *, message: str = "", cure: str = "") -> Problem:
    usual, allowed, usual_cure = _SAYS[code]
    return Problem(code, message or usual, place, shown(found), allowed, cure or usual_cure)


def _decoded(content: bytes, source: str) -> str:
    if len(content) > MAX_BYTES:
        raise ChainInvalid([_problem("E_YAML_SIZE", Place(source), f"{len(content):,} bytes")])
    zeros = [byte == 0 for byte in content[:4]]
    place, found = Place(source, 1, 1), "UTF-16"
    if content[:2] not in (b"\xff\xfe", b"\xfe\xff") and zeros not in ([False, True] * 2, [True, False] * 2):
        content = content.removeprefix(b"\xef\xbb\xbf")
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError as error:
            before = content[: error.start].decode("utf-8")
            place, found = Place(source, *_position(before, len(before))), f"0x{content[error.start]:02x}"
    raise ChainInvalid([_problem("E_YAML_ENCODING", place, found)])


def _position(text: str, index: int) -> Position:
    """Line and column of a character; a line ends with LF, CR or both, as in YAML 1.2."""
    breaks = text.count("\n", 0, index) + text.count("\r", 0, index) - text.count("\r\n", 0, index)
    return breaks + 1, index - max(text.rfind("\n", 0, index), text.rfind("\r", 0, index))


def _spread(
    value: object,
    path: Keys,
    numbered: Iterator[Position],
    positions: dict[Keys, Position],
    keys: dict[Keys, Position],
) -> None:
    """Assign a position to every path: this visits the data in the order in which the nodes were counted."""
    positions[path] = next(numbered)
    if isinstance(value, dict):
        for key, inner in value.items():
            keys[*path, key] = next(numbered)
            _spread(inner, (*path, key), numbered, positions, keys)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _spread(inner, (*path, index), numbered, positions, keys)


@lru_cache(maxsize=1024)  # small: it only helps with long lists of the same few numbers
def _core(text: str) -> object:
    """The value of a plain scalar in the core schema. 2**64 stands for every integer that is too long."""
    if _DECIMAL.fullmatch(text):
        # int() refuses more than 4,300 digits with an error of its own
        return int(text) if len(text) <= 21 else 2**64
    if text in _WORDS:
        return _WORDS[text]
    if _LEADING_ZERO.match(text):
        return text
    if _OCTAL_OR_HEX.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    return float(text.replace(".", "")) if _ENDLESS.fullmatch(text) else text


def _in_range(value: object) -> bool:
    """Can JSON hold it? Not NaN, infinity, or an integer beyond 64 bits."""
    if isinstance(value, int):
        return -(2**63) <= value < 2**64
    return not isinstance(value, float) or isfinite(value)


class _Key(Enum):
    """What a mapping has in place of a key."""

    AWAITED = "the next node is a key"
    REFUSED = "the key was refused: its value is checked and dropped"
    MERGE = "the key was <<: aliases in its value are not reported again"


@dataclass(slots=True)
class _Frame:
    """A list or mapping that is still open."""

    value: dict[str, object] | list[object]
    name: str | int  # its key or index in the frame around it
    key: str | _Key | None  # None in a list
    in_merge: bool
    key_lines: dict[str, int]  # where each key was first written

    def put(self, value: object) -> None:
        if isinstance(self.value, list):
            self.value.append(value)
        elif self.key is _Key.AWAITED:  # the value is itself a key, which was refused
            self.key = _Key.REFUSED
        else:
            if isinstance(self.key, str):
                self.value[self.key] = value
            self.key = _Key.AWAITED


_NO_KEYS: dict[str, int] = {}  # for all lists


class _Reader:
    """Builds the data of one document from parser events and collects what is wrong with it."""

    def __init__(self, text: str, source: str) -> None:
        self.text, self.source = text, source
        self.lines, self.columns = array("L"), array("L")  # the position of every node, in file order
        self.problems: list[Problem] = []
        self.top: list[object] = []  # a list whose only item is the document
        self.frames = [_Frame(self.top, "", None, False, _NO_KEYS)]
        self.anchors: dict[str, Place] = {}
        self.aliases: set[str] = set()
        self.ended_with_dots = False

    def read(self) -> dict[str, object]:
        handlers = {
            events.ScalarEvent: self._scalar,
            events.SequenceStartEvent: self._open,
            events.MappingStartEvent: self._open,
            events.SequenceEndEvent: self._close,
            events.MappingEndEvent: self._close,
            events.AliasEvent: self._alias,
            events.DocumentStartEvent: self._document,
            events.DocumentEndEvent: self._document_end,
        }
        for event in self._events():
            if handler := handlers.get(type(event)):
                handler(event)
        self._report_anchors()
        data = self.top[0] if self.top else None
        if isinstance(data, dict) and not self.problems:
            return data
        if not isinstance(data, dict):
            first = (self.lines[0], self.columns[0]) if self.lines else (1, 1)
            found = {list: "a list", type(None): "nothing"}.get(type(data), "a single value")
            self._add("E_YAML_TOP", found, place=Place(self.source, *first))
        raise self._verdict()

    def _events(self) -> Iterator[Any]:
        try:
            yield from yaml.parse(self.text, Loader=_LOADER)
        except yaml.MarkedYAMLError as error:
            self._syntax(error)
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            # Only for PyYAML's own parser: it does not check escapes such as "\UFFFFFFFF".
            self._stop("E_YAML_SYNTAX", message=f"not valid YAML: {shown(str(error))}")

    def _node(self, event: Any, tag: str | None, anchor: str | None) -> None:
        mark = event.start_mark
        self.lines.append(mark.line + 1)
        self.columns.append(mark.column + 1)
        if len(self.lines) > MAX_NODES:
            self._stop("E_YAML_NODES")
        if tag is not None:
            self._add("E_YAML_TAG", tag)
        if anchor is not None and anchor not in self.anchors:
            self.anchors[anchor] = self._last()
            if len(self.anchors) > MAX_PROBLEMS:
                self._report_anchors()
                raise self._verdict()

    def _alias(self, event: Any) -> None:
        name, frame = event.anchor, self.frames[-1]
        self.aliases.add(name)
        self._node(event, None, None)
        if not frame.in_merge and frame.key is not _Key.MERGE:
            self._add("E_YAML_ALIAS", f"*{name}")
        frame.put(None)

    def _report_anchors(self) -> None:
        for name, place in self.anchors.items():
            if name not in self.aliases:  # an anchor with aliases was reported with them
                self._add("E_YAML_ALIAS", f"&{name}", place=place)

    def _scalar(self, event: Any) -> None:
        self._node(event, event.tag, event.anchor)
        text, frame = event.value, self.frames[-1]
        if event.style == '"' and (bad := _NEVER.search(text)):
            self._add("E_YAML_CHAR", f"an escape for U+{ord(bad[0]):04X}")
        value = text if event.style or text[:1] not in _NOT_TEXT_FIRST else _core(text)
        if frame.key is _Key.AWAITED:
            self._key(frame, text, value)
            return
        if value is not text and not _in_range(value):
            self._add("E_FIELD_RANGE", text)
        frame.put(value)

    def _key(self, frame: _Frame, text: str, value: object) -> None:
        frame.key = _Key.REFUSED
        if text == "<<":  # quoted too: some readers then merge, others do not
            frame.key = _Key.MERGE
            self._add("E_YAML_MERGE")
        elif not isinstance(value, str):
            self._add("E_YAML_KEY", text, cure=f'put quotes around it: "{shown(text)}"')
        elif first := frame.key_lines.get(text):
            lines = f"on line {first} and on line {self.lines[-1]}"
            self._add("E_YAML_DUPLICATE_KEY", message=f"the key {shown(text)!r} is written twice, {lines}")
        else:
            frame.key = text
            frame.key_lines[text] = self.lines[-1]

    def _open(self, event: Any) -> None:
        self._node(event, event.tag, event.anchor)
        frame = self.frames[-1]
        if len(self.frames) > MAX_DEPTH:
            self._stop("E_YAML_DEPTH")
        if frame.key is _Key.AWAITED:
            template = self.text[event.start_mark.index - 1 : event.start_mark.index + 1] == "{{"
            self._add("E_YAML_KEY", "a list or mapping", cure=_QUOTE_TEMPLATE if template else "write text")
        merged = frame.in_merge or frame.key is _Key.MERGE
        if type(event) is events.MappingStartEvent:
            opened = _Frame({}, self._name(), _Key.AWAITED, merged, {})
        else:
            opened = _Frame([], self._name(), None, merged, _NO_KEYS)
        frame.put(opened.value)
        self.frames.append(opened)

    def _close(self, _event: Any) -> None:
        self.frames.pop()

    def _document_end(self, event: Any) -> None:
        self.ended_with_dots = event.explicit

    def _document(self, event: Any) -> None:
        place = Place(self.source, event.start_mark.line + 1, event.start_mark.column + 1)
        if self.top:
            self._stop("E_YAML_MULTIDOC", place=place)
        if event.version not in (None, (1, 1), (1, 2)):  # PyYAML's own parser takes any 1.x
            self._stop("E_YAML_SYNTAX", place=place, cure=_YAML_VERSION)

    def _syntax(self, error: yaml.MarkedYAMLError) -> NoReturn:
        """Report a parser's error by its positions: the words of its message differ between parsers and releases."""
        mark: Any = error.problem_mark
        context: Any = error.context_mark
        at, opened = (m.index if m else len(self.text) for m in (mark, context))
        if too_deep := self._nested_before(at) or self._nested_before(opened):
            self._stop("E_YAML_DEPTH", place=too_deep)
        quoted = self.text[opened : opened + 1] in _QUOTES and not _QUOTED.match(self.text, opened, at)
        unclosed = quoted and at >= len(self.text)
        if unclosed:
            mark = context  # a quote that is never closed: show where it opens, not the end of the file
        place = Place(self.source, mark.line + 1, mark.column + 1) if mark else self._last()
        if "!" in (self.text[at : at + 1], self.text[opened : opened + 1]):
            self._stop("E_YAML_TAG", place=place)
        if self.ended_with_dots:
            self._stop("E_YAML_MULTIDOC", place=place)
        message = f"not valid YAML: {error.problem}"
        if context:
            message += f" ({error.context} that starts on line {context.line + 1})"
        cure = (_CLOSE_QUOTE if unclosed else _ESCAPE) if quoted else self._cure_at(at)
        self._stop("E_YAML_SYNTAX", place=place, message=message, cure=cure)

    def _nested_before(self, end: int) -> Place | None:
        """Where the text before an error is nested too deeply; None if it is not.

        Parsers read ahead: they can fail at a deep text (for its depth, or for what follows) before they yield its
        first event. The text before the error is valid, so parsing that text alone yields its events.
        """
        depth = 0
        event: Any
        try:
            for event in yaml.parse(self.text[:end], Loader=_LOADER):
                depth += isinstance(event, events.CollectionStartEvent)
                depth -= isinstance(event, events.CollectionEndEvent)
                if depth > MAX_DEPTH:
                    return Place(self.source, event.start_mark.line + 1, event.start_mark.column + 1)
        except (yaml.YAMLError, ValueError, OverflowError):
            pass  # expected: the text was cut
        return None

    def _cure_at(self, index: int) -> str:
        """The cure, by the character at which the parser stopped."""
        line = self.text[self.text.rfind("\n", 0, index) + 1 : index + 2]
        if "{{" in line:
            return _QUOTE_TEMPLATE
        return next((cure for start, cure in _CURES.items() if self.text.startswith(start, index)), "")

    def _name(self) -> str | int:
        """Key or index of the node that is being read; empty for a key, and for nodes inside a refused key."""
        frame = self.frames[-1]
        if isinstance(frame.value, list):
            return len(frame.value)
        return frame.key if isinstance(frame.key, str) else ""

    def _last(self) -> Place:
        """The position of the node that was read last, and the path to it as users write it."""
        names = [*(frame.name for frame in self.frames[2:]), self._name()] if len(self.frames) > 1 else []
        path = "".join(f"[{name}]" if isinstance(name, int) else f".{name}" for name in names if name != "")
        position = (self.lines[-1], self.columns[-1]) if self.lines else (1, 1)
        return Place(self.source, *position, field=shown(path.removeprefix(".")))

    def _add(self, code: str, found: str = "", *, place: Place | None = None, **words: str) -> None:
        self.problems.append(_problem(code, place or self._last(), found, **words))
        if len(self.problems) == MAX_PROBLEMS:
            raise self._verdict()

    def _stop(self, code: str, *, place: Place | None = None, **words: str) -> NoReturn:
        self._add(code, place=place, **words)
        raise self._verdict()

    def _verdict(self) -> ChainInvalid:
        """All problems in file order. That the top level is not a mapping comes last."""

        def order(problem: Problem) -> tuple[bool, int, int]:
            return problem.code == "E_YAML_TOP", problem.place.line, problem.place.column

        return ChainInvalid(sorted(self.problems, key=order))
