"""The syntax of expressions: what is allowed in `{{ … }}` and in a condition, and which values it names.

A small parser in front of MiniJinja. It refuses everything that is not a bounded expression over known
names (statements, calls, `*`, `**`, `%`, unknown filters), reports all of it at once, and writes the rest
down again as MiniJinja source in which

- a static path such as `frame.output.image` is `_r(0)`: a call that fetches reference 0 when it is needed,
  or `_s(0)` where it may be missing (`is defined`, `default(…)`),
- an operator for which MiniJinja is not strict (`1 > 'x'` is false there) or has no limit (`~` over large texts)
  is a call of a function in `expressions.py`.

Limits: 10,000 characters, 1,000 tokens, 50 brackets deep. This module never raises, and never recurses deeper than
its own limit: problems are returned as `Fault`s, which have a code for each use.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple, NoReturn

from .errors import shown
from .expression_tokens import SPACE, Token, tokens_of, unescaped

SIZE_LIMIT = 10_000  # characters of a text that holds expressions
TOKEN_LIMIT = 1_000  # in all expressions of one text
DIGIT_LIMIT = 38  # of a number that is written out, so that it fits MiniJinja's 128 bits
BRACKET_LIMIT = 50
FAULT_LIMIT = 50  # problems that are reported for one text
NESTING_LIMIT = 100  # calls of `_Parser.expression` inside each other; each costs three Python frames
SOURCE_LIMIT = 120  # nesting of the written source; MiniJinja's own parser stops at 150

PARTS = ("status", "output", "parameters", "error")
FILTERS = {  # how many arguments each takes, at least and at most
    "default": (1, 2), "join": (0, 1), "length": (0, 0), "lower": (0, 0), "upper": (0, 0), "trim": (0, 1),
    "first": (0, 0), "last": (0, 0), "tojson": (0, 0), "round": (0, 1), "int": (0, 1), "float": (0, 1),
    "string": (0, 0),
}  # fmt: skip

# What is wrong: the code that a template and the code that a condition has for it.
SYNTAX = ("E_TEMPLATE_SYNTAX", "E_COND_SYNTAX")
FORM = ("E_TEMPLATE_EXPR", "E_COND_SYNTAX")
OPERATOR = ("E_TEMPLATE_EXPR", "E_COND_OPERATOR")
CALL = ("E_TEMPLATE_EXPR", "E_COND_CALL")
FILTER = ("E_TEMPLATE_FILTER", "E_COND_CALL")
NAME = ("E_TEMPLATE_NAME", "E_COND_NAME")
SIZE = ("E_TEMPLATE_SIZE", "E_COND_SIZE")
DEPTH = ("E_TEMPLATE_DEPTH", "E_COND_DEPTH")
STATEMENT = ("E_TEMPLATE_STATEMENT", "E_COND_SYNTAX")
EMPTY = ("E_TEMPLATE_SYNTAX", "E_COND_EMPTY")


@dataclass(frozen=True, slots=True)
class Reference:
    """One static path. `root` is inputs, step, item or index; `step` and `part` are only set for a step."""

    root: str
    step: str
    part: str
    keys: tuple[str | int, ...]

    def __str__(self) -> str:
        """The path as a user writes it: `a.output.files[0]["my key"]`."""
        name = self.step or self.root
        words = [name if re.fullmatch(r"\w+", name) else f"steps[{json.dumps(name)}]"]
        for key in (self.part, *self.keys) if self.part else self.keys:
            plain = isinstance(key, str) and re.fullmatch(r"[A-Za-z]\w*", key)
            words.append(f".{key}" if plain else f"[{json.dumps(key)}]")
        return "".join(words)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a text; `offset` counts characters from its beginning."""

    codes: tuple[str, str]
    message: str
    offset: int
    found: str = ""
    allowed: str = ""
    cure: str = ""


@dataclass(frozen=True, slots=True)
class Mention:
    """A reference where it is written. `explicit`: it is surely meant as a step (`steps.a`, `a.status`)."""

    reference: Reference
    offset: int
    explicit: bool


@dataclass(frozen=True, slots=True)
class Expression:
    """One parsed expression.

    `lone` is set when it is nothing but a path, `otherwise` then holds the constant of a `default(…)`
    behind it, if there is one. These two never need MiniJinja.
    """

    source: str
    references: tuple[Reference, ...]
    mentions: tuple[Mention, ...]
    lone: Reference | None
    otherwise: tuple[object, ...]


class Parsed(NamedTuple):
    """A parsed text: plain pieces and expressions in order, and its problems."""

    parts: tuple[str | Expression, ...]
    faults: tuple[Fault, ...]


OPENING = re.compile(r"\{[{%#]")


@lru_cache(maxsize=1024)
def parse_text(text: str) -> Parsed:
    """Parse a template that holds `{{`, `{%` or `{#`; the caller has checked its size."""
    faults: list[Fault] = []
    parts: list[str | Expression] = []
    position, budget = 0, TOKEN_LIMIT
    while opening := OPENING.search(text, position):
        start = opening.start()
        parts.append(text[position:start])
        if opening.group() == "{{":
            tokens = tokens_of(text, start + 2, budget, closing=True)
            parts.append(_Parser(tokens, faults, start, closing=True).whole())
            budget -= len(tokens)
            position = tokens[-1].offset + 2 if tokens[-1].kind == "close" else -1
        else:
            position = _skip_statement(text, opening.group(), start, faults)
        if position < 0 or len(faults) > FAULT_LIMIT:
            return Parsed((), tuple(faults))
    parts.append(text[position:])
    return Parsed(tuple(p for p in parts if p != ""), tuple(faults))


@lru_cache(maxsize=1024)
def parse_bare(text: str) -> Parsed:
    """Parse a condition: one expression, with or without one `{{ … }}` around the whole of it."""
    faults: list[Fault] = []
    body = text.rstrip(SPACE)
    start = len(body) - len(body.lstrip(SPACE))
    if body.startswith("{{", start) and body.endswith("}}") and len(body) - start >= len("{{}}"):
        start, body = start + 2, body[:-2]
    if not body[start:].strip(SPACE):
        fault = Fault(EMPTY, "the condition is empty", 0, cure="write a comparison, or leave the key out")
        return Parsed((), (fault,))
    tokens = tokens_of(body, start, TOKEN_LIMIT, closing=False)
    return Parsed((_Parser(tokens, faults, start).whole(),), tuple(faults))


def _skip_statement(text: str, opening: str, start: int, faults: list[Fault]) -> int:
    """Report `{% … %}` or `{# … #}`; the position behind it, or -1 if it is not closed."""
    codes, name = (STATEMENT, "statements are") if opening == "{%" else (SYNTAX, "comments are")
    cure = "only {{ … }} is replaced; compute it in a step, or write {{ '" + opening + "' }} for the text"
    faults.append(Fault(codes, f"{name} not part of a template", start, shown(text[start:]), "{{ … }}", cure))
    end = text.find("%}" if opening == "{%" else "#}", start + 2)
    return end + 2 if end >= 0 else -1


# How tightly an operator binds: MiniJinja's own order, so that its source needs only the user's brackets.
_IF, _OR, _AND, _NOT, _COMPARE, _SUM, _TEXT, _PRODUCT, _FILTER, _UNARY, _POSTFIX = range(1, 12)
_POWERS = {
    "if": _IF, "or": _OR, "||": _OR, "and": _AND, "&&": _AND, "in": _COMPARE, "not": _COMPARE,
    "==": _COMPARE, "!=": _COMPARE, "<": _COMPARE, "<=": _COMPARE, ">": _COMPARE, ">=": _COMPARE,
    "+": _SUM, "-": _SUM, "~": _TEXT, "/": _PRODUCT, "//": _PRODUCT, "|": _FILTER, "is": _FILTER,
    ".": _POSTFIX, "[": _POSTFIX, "(": _POSTFIX,
    "*": _PRODUCT, "**": _PRODUCT, "%": _PRODUCT, "<<": _PRODUCT, ">>": _PRODUCT, "&": _PRODUCT,
    "^": _PRODUCT, "@": _PRODUCT,
}  # fmt: skip
_KNOWN = {"or", "and", "+", "-", "~", "/", "//"}
_ELSEWHERE = "compute it in a step"
_CURES = {"&&": "write `and`", "||": "write `or`"}
_OPERATORS = "allowed: and or not in == != < <= > >= + - / // ~, a if c else b, is defined, filters"
_FILTERS = "allowed: " + " ".join(FILTERS)
_CONSTANTS = {"true": True, "True": True, "false": False, "False": False, "none": None, "None": None}
_WORDS = {"and", "or", "not", "in", "is", "if", "else"}


class _Stop(Exception):
    pass


@dataclass(slots=True)
class _Piece:
    """A part of an expression, already written as MiniJinja source (a path only once it is used)."""

    source: str
    offset: int
    depth: int = 0  # nesting of `source`
    power: int = _POSTFIX  # of its outermost operator
    closed: bool = True  # needs no brackets anywhere
    path: tuple[str | int, ...] = ()
    literal: tuple[object, ...] = ()  # the value of a number, text, true, false or none
    constant: bool = False  # written out; lists and mappings too
    run: tuple[str, ...] = ()  # arguments of a function that takes a whole chain, as in a + b - c
    found: str = ""  # source that gives a missing value instead of failing
    otherwise: tuple[object, ...] = ()  # the constant of `path|default(constant)`


@dataclass(slots=True)
class _Parser:
    """Precedence climbing over one list of tokens; `faults` collects what is wrong."""

    tokens: list[Token]
    faults: list[Fault]
    start: int
    closing: bool = False  # the expression must end with }}
    at: int = 0
    brackets: int = 0
    nesting: int = 0
    references: dict[Reference, int] = field(default_factory=dict)
    mentions: list[Mention] = field(default_factory=list)

    def whole(self) -> Expression:
        """Parse all tokens as one expression."""
        piece, last = _Piece("none", self.start), self.tokens[-1]
        try:
            if last.kind == "many":
                self.stop(SIZE, f"there are more than {TOKEN_LIMIT} words and signs", last.offset, "", _ELSEWHERE)
            if last is self.tokens[0] and last.kind == "close":
                self.stop(SYNTAX, "there is nothing between {{ and }}", self.start, "{{ }}")
            if self.closing and self.peek.text == "-" and self.peek.offset == self.start + 2:
                self.stop(SYNTAX, "{{- is not known", self.start, "{{-", "write {{ - for a negative value")
            piece = self.expression(_IF)
            self.use(piece)
            if self.peek.kind != ("close" if self.closing else "end"):
                self.unexpected()
            if piece.depth > SOURCE_LIMIT:
                self.too_deep()
        except _Stop:
            pass
        lone = next(iter(self.references), None) if piece.path or piece.otherwise else None
        references, mentions = tuple(self.references), tuple(self.mentions)
        return Expression(piece.source, references, mentions, lone, piece.otherwise)

    # -- tokens and faults

    @property
    def peek(self) -> Token:
        return self.tokens[self.at]

    def take(self) -> Token:
        """The next token; the last one is never passed."""
        token = self.tokens[self.at]
        self.at = min(self.at + 1, len(self.tokens) - 1)
        return token

    def accept(self, text: str) -> bool:
        """Take the next token if it is this operator or word."""
        if self.peek.text != text or self.peek.kind not in {"operator", "word"}:
            return False
        self.at += 1
        return True

    def expect(self, text: str) -> None:
        if not self.accept(text):
            self.unexpected(f"allowed: {text}")

    def fault(self, codes: tuple[str, str], message: str, offset: int, found: str = "", more: str = "") -> None:
        """Record what is wrong; `more` is either `allowed: …` or a cure."""
        allowed, cure = (more.removeprefix("allowed: "), "") if more.startswith("allowed: ") else ("", more)
        self.faults.append(Fault(codes, message, offset, shown(found), allowed, cure))

    def stop(self, codes: tuple[str, str], message: str, offset: int, found: str = "", more: str = "") -> NoReturn:
        """Record what is wrong and give this expression up."""
        self.fault(codes, message, offset, found, more)
        raise _Stop

    def unexpected(self, more: str = _OPERATORS) -> NoReturn:
        """Stop at a token that is not allowed at its place."""
        token = self.peek
        if token.kind == "end" and self.closing:
            self.stop(SYNTAX, "{{ is never closed", self.start, "{{", "close it with }}")
        if token.kind in {"end", "close"}:
            self.stop(SYNTAX, "the expression ends too early", token.offset, token.text, more)
        if token.kind == "bad" and token.text in {"'", '"'}:
            self.stop(SYNTAX, "a text is not closed", token.offset, token.text)
        more = "compare with ==" if token.text == "=" else more
        self.stop(SYNTAX, "this cannot stand here", token.offset, token.text, more)

    def too_deep(self) -> NoReturn:
        message = f"the expression is nested too deeply (at most {BRACKET_LIMIT} brackets)"
        self.stop(DEPTH, message, self.peek.offset, "", _ELSEWHERE)

    def open(self) -> None:
        self.brackets += 1
        if self.brackets > BRACKET_LIMIT:
            self.too_deep()

    # -- values

    def expression(self, minimum: int) -> _Piece:
        """A value and the operators behind it that bind at least as tightly as `minimum`."""
        self.nesting += 1
        if self.nesting > NESTING_LIMIT:
            self.too_deep()
        left = self.prefix(minimum)
        while True:
            token = self.peek
            power = _POWERS.get(token.text, 0) if token.kind in {"operator", "word"} else 0
            if token.kind == "word" and token.text not in _WORDS:
                self.fault(OPERATOR, "this word is not an operator", token.offset, token.text, _OPERATORS)
                self.stop(SYNTAX, "two values stand side by side", token.offset, token.text)
            if power < minimum:
                self.nesting -= 1
                return left
            left = self.infix(left, self.take(), power)

    def prefix(self, minimum: int) -> _Piece:
        token = self.peek
        if token.kind in {"number", "text"}:
            self.take()
            return self.number(token) if token.kind == "number" else self.text(token)
        if token.kind == "word" and (token.text not in _WORDS or (token.text == "not" and minimum <= _NOT)):
            return self.word(self.take())
        readers = {"(": self.bracketed, "[": self.list_literal, "{": self.dict_literal}
        readers |= {"-": self.negative, "!": self.negative}
        if token.kind != "operator" or token.text not in readers:
            self.unexpected("allowed: a value")
        self.open()
        piece = readers[token.text](self.take())
        self.brackets -= 1
        return piece

    def word(self, token: Token) -> _Piece:
        if token.text == "not":
            self.open()
            inner = self.expression(_NOT)
            self.brackets -= 1
            return self.native(_NOT, "not", inner, cost=1)
        if token.text in _CONSTANTS:
            return _literal(_CONSTANTS[token.text], token.offset)
        if token.text.startswith("_"):
            self.hidden(token.text, token.offset)
        return _Piece("", token.offset, path=(token.text,))

    def hidden(self, name: str, offset: int) -> None:
        self.fault(NAME, "names that begin with _ cannot be reached", offset, name)

    def number(self, token: Token) -> _Piece:
        value = float(token.text) if len(token.text) <= DIGIT_LIMIT else float("inf")
        if value == float("inf"):
            self.stop(SYNTAX, "the number is too large", token.offset, token.text, "allowed: 38 digits, 1e308")
        return _literal(int(token.text) if token.text.isdigit() else value, token.offset)

    def text(self, token: Token) -> _Piece:
        value = unescaped(token.text[1:-1])
        if value is None:
            self.stop(SYNTAX, "the text holds half of a surrogate pair", token.offset, token.text)
        return _literal(value, token.offset)

    def bracketed(self, _: Token) -> _Piece:
        piece = self.expression(_IF)
        self.expect(")")
        if piece.path or piece.closed:
            # a + (b + c): a chain in brackets is one value; it ends with the bracket.
            piece.run, piece.power = (), _POSTFIX
            return piece
        return _Piece(f"({piece.source})", piece.offset, piece.depth + 2)

    def negative(self, sign: Token) -> _Piece:
        if sign.text == "!":
            self.fault(OPERATOR, "this operator is not known", sign.offset, "!", "write `not`")
        inner = self.expression(_UNARY)
        value = inner.literal[0] if inner.literal else None
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return _literal(-value, sign.offset)
        return self.call("_arithmetic", [inner], ["0", "'-'", self.use(inner)])

    def values(self, end: str) -> list[_Piece]:
        """Values up to `end`, with commas between them."""
        found: list[_Piece] = []
        while not self.accept(end):
            found.append(self.expression(_IF))
            if self.peek.text != end:
                self.expect(",")
        return found

    def list_literal(self, opening: Token) -> _Piece:
        items = self.values("]")
        source = ", ".join([self.use(i) for i in items])
        return _Piece(f"[{source}]", opening.offset, 2 + _deepest(items), constant=True)

    def dict_literal(self, opening: Token) -> _Piece:
        pieces: list[_Piece] = []
        pairs: list[str] = []
        while not self.accept("}"):
            key = self.expression(_IF)
            if not (key.literal and isinstance(key.literal[0], str)):
                self.fault(FORM, "a key of a mapping is a text", key.offset, more='write {"key": value}')
            self.expect(":")
            value = self.expression(_IF)
            pieces += [key, value]
            pairs.append(f"{self.use(key)}: {self.use(value)}")
            if self.peek.text != "}":
                self.expect(",")
        return _Piece(f"{{{', '.join(pairs)}}}", opening.offset, 2 + _deepest(pieces), constant=True)

    # -- operators

    def infix(self, left: _Piece, token: Token, power: int) -> _Piece:
        if power in {_POSTFIX, _FILTER}:
            readers = {"(": self.called, ".": self.named, "[": self.subscripted, "|": self.filtered}
            return readers.get(token.text, self.tested)(left, token)
        if power == _IF:
            condition = self.expression(_OR)
            self.expect("else")
            return self.native(_IF, left, "if", condition, "else", self.expression(_IF))
        if power == _COMPARE:
            return self.compared(left, token)
        if token.text not in _KNOWN:
            cure = _CURES.get(token.text, _ELSEWHERE)
            self.fault(OPERATOR, "this operator is not known", token.offset, token.text, cure)
        right = self.expression(power + 1)
        if power in {_OR, _AND}:
            return self.native(power, left, token.text, right)
        return self.chained(left, token, right, power)

    def chained(self, left: _Piece, token: Token, right: _Piece, power: int) -> _Piece:
        """`a + b - c` as one call: nested, a long sum would end at the limit of MiniJinja's parser."""
        going_on = bool(left.run) and left.power == power
        run = left.run if going_on else (self.use(left),)
        sign = () if power == _TEXT else (f"'{token.text}'",)
        run = (*run, *sign, self.use(right))
        depth = max(left.depth if going_on else left.depth + 1, right.depth + 1)
        name = "_text" if power == _TEXT else "_arithmetic"
        return _Piece(f"{name}({', '.join(run)})", left.offset, depth, power, run=run)

    def compared(self, left: _Piece, token: Token) -> _Piece:
        negated = token.text == "not"
        if negated:
            self.expect("in")
        right = self.expression(_COMPARE + 1)
        if left.power == _COMPARE:
            self.fault(FORM, "comparisons cannot be chained", token.offset, token.text, "write a < b and b < c")
        if token.text in {"==", "!="}:
            return self.native(_COMPARE, left, token.text, right)
        if token.text in {"in", "not"}:
            piece = self.call("_absent" if negated else "_present", [left, right])
        else:
            piece = self.call("_order", [left, right], [self.use(left), f"'{token.text}'", self.use(right)])
        piece.power = _COMPARE
        return piece

    def arguments(self, end: str) -> list[_Piece]:
        self.open()
        found = self.values(end)
        self.brackets -= 1
        return found

    def called(self, left: _Piece, token: Token) -> _Piece:
        self.fault(CALL, "nothing can be called here", token.offset, "(", _FILTERS)
        return self.call("_never", [left, *self.arguments(")")])

    def named(self, left: _Piece, token: Token) -> _Piece:
        word = self.peek
        if word.kind != "word":
            self.unexpected('allowed: a name, or ["…"]')
        if left.constant:
            self.fault(SYNTAX, "a value that is written out has no names in it", token.offset, word.text)
        self.take()
        return self.reach(left, _literal(word.text, word.offset))

    def subscripted(self, left: _Piece, token: Token) -> _Piece:
        self.open()
        key = self.expression(_IF)
        if self.peek.text == ":":
            self.stop(FORM, "slices are not known", token.offset, ":", "allowed: [number] or [text]")
        self.expect("]")
        self.brackets -= 1
        return self.reach(left, key)

    def reach(self, left: _Piece, key: _Piece) -> _Piece:
        """`left[key]`, which makes a path longer when the key is known now."""
        value = key.literal[0] if key.literal else None
        if key.constant and (not isinstance(value, (str, int)) or isinstance(value, bool)):
            self.fault(FORM, "a key is a text or a whole number", key.offset, key.source)
        elif isinstance(value, str) and value.startswith("_"):
            self.hidden(value, key.offset)
        if left.path and isinstance(value, (str, int)):
            return _Piece("", left.offset, path=(*left.path, value))
        piece = self.call("_item", [left, key])
        piece.found = f"_find({self.soft(left)}, {self.use(key)})"
        return piece

    def filtered(self, left: _Piece, token: Token) -> _Piece:
        if self.peek.kind != "word":
            self.fault(OPERATOR, "| is followed by a filter", token.offset, "|", _FILTERS)
            return self.call("_never", [left, self.expression(_UNARY)])
        name = self.take()
        given = self.arguments(")") if self.accept("(") else []
        least, most = FILTERS.get(name.text, (0, len(given)))
        if name.text not in FILTERS:
            self.fault(FILTER, "this filter is not known", name.offset, name.text, _FILTERS)
        elif not least <= len(given) <= most:
            self.fault(FILTER, f"the filter takes {least} to {most} arguments", name.offset, name.text)
        elif name.text == "default":
            piece = self.call("_default", [left, *given], [self.soft(p) for p in (left, *given)])
            piece.otherwise = given[0].literal if left.path and len(given) == 1 else ()
            return piece
        return self.call(f"_{name.text}", [left, *given])

    def tested(self, left: _Piece, token: Token) -> _Piece:
        negated = self.accept("not")
        test = self.peek
        if test.kind != "word":
            self.unexpected("allowed: is defined, is not defined")
        self.take()
        if test.text != "defined":
            self.fault(FILTER, "this test is not known", test.offset, test.text, "allowed: is [not] defined")
        elif not (left.path or left.found):
            self.fault(FORM, "only a path can be undefined", token.offset, "is", "write a.output.x is defined")
        return self.call("_undefined" if negated else "_defined", [left], [self.soft(left)])

    # -- writing

    def call(self, function: str, pieces: Sequence[_Piece], sources: Sequence[str] | None = None) -> _Piece:
        """A call of one of the functions in `expressions.py`."""
        sources = sources or [self.use(p) for p in pieces]
        return _Piece(f"{function}({', '.join(sources)})", pieces[0].offset, 1 + _deepest(pieces))

    def native(self, power: int, *parts: _Piece | str, cost: int = 0) -> _Piece:
        """An operator that MiniJinja evaluates. It needs no brackets, because it binds the same in both languages."""
        source = " ".join([p if isinstance(p, str) else self.use(p) for p in parts])
        pieces = [p for p in parts if isinstance(p, _Piece)]
        return _Piece(source, pieces[0].offset, cost + _deepest(pieces), power, closed=False)

    def soft(self, piece: _Piece) -> str:
        """Source that gives a missing value where that of `use` fails because there is no such path."""
        return self.use(piece).replace("_r", "_s", 1) if piece.path else piece.found or piece.source

    def use(self, piece: _Piece) -> str:
        """The source of a piece; if it is a path, it becomes a reference now."""
        if piece.path and not piece.source:
            reference = self.reference(piece)
            place = self.references.setdefault(reference, len(self.references)) if reference else -1
            piece.source, piece.depth = f"_r({place})", 1
        return piece.source

    def reference(self, piece: _Piece) -> Reference | None:
        root, *rest = piece.path
        explicit = root == "steps"
        if root in {"inputs", "steps"} and not (rest and isinstance(rest[0], str)):
            message = f"{root} needs a name behind it that is written out"
            self.fault(NAME, message, piece.offset, str(root), f"write {root}.<name>")
            return None
        if root in {"inputs", "item", "index"}:
            found = Reference(str(root), "", "", tuple(rest))
        else:
            step, *rest = rest if explicit else piece.path
            part = str(rest.pop(0)) if rest and rest[0] in PARTS else ""
            explicit = explicit or part != ""
            found = Reference("step", str(step), part or "output", tuple(rest))
        self.mentions.append(Mention(found, piece.offset, explicit))
        return found


def _deepest(pieces: Sequence[_Piece]) -> int:
    return max((p.depth for p in pieces), default=0)


def _literal(value: object, offset: int) -> _Piece:
    source = json.dumps(value) if isinstance(value, str) else repr(value).lower()
    return _Piece(source, offset, literal=(value,), constant=True)
