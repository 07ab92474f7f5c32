"""Expressions as tokens: numbers, words, quoted texts and operators, with their places in the text."""

from __future__ import annotations

import re
from typing import NamedTuple

_TOKEN = re.compile(
    r"""[ \t\r\n]*(?:
      (?P<number>[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)
    | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<text>'[^'\\]*(?:\\.[^'\\]*)*'|"[^"\\]*(?:\\.[^"\\]*)*")
    | (?P<operator>\*\*|//|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%<>~|&^@!().\[\]{},:=])
    )""",
    re.VERBOSE | re.DOTALL,
)
SPACE = " \t\r\n"


class Token(NamedTuple):
    """One token. `kind` is number, word, text or operator; of the last token close, end, bad or many."""

    kind: str
    text: str
    offset: int


def tokens_of(text: str, position: int, limit: int, *, closing: bool) -> list[Token]:
    """The tokens up to the end, or (closing) to a `}}` outside of any `{ … }`; the last one says why it ends there."""
    found: list[Token] = []
    braces = 0
    while len(found) < limit:
        match = _TOKEN.match(text, position)
        if match is None:
            left = text[position:].lstrip(SPACE)
            return [*found, Token("bad" if left else "end", left[:1], len(text) - len(left))]
        kind = match.lastgroup or ""
        token = Token(kind, match.group(kind), match.start(kind))
        if token.text == "}" and braces == 0:
            close = closing and text.startswith("}}", token.offset)
            return [*found, token._replace(kind="close" if close else "bad")]
        braces += (token.text == "{") - (token.text == "}")
        found.append(token)
        position = match.end()
    return [*found, Token("many", "", position)]


_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\\": "\\", "'": "'", '"': '"', "/": "/"}


def unescaped(text: str) -> str | None:
    r"""A written text without its backslashes; an unknown escape such as `\d` stays as it is, as in Jinja."""

    def plain(match: re.Match[str]) -> str:
        code = match.group(1)
        return chr(int(code[1:], 16)) if len(code) > 1 else _ESCAPES.get(code, match.group())

    value = _ESCAPE.sub(plain, text)
    if value.isascii():
        return value
    try:  # joins the halves of an emoji that JSON tools write as two escapes
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        return None
