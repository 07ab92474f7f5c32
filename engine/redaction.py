"""Redaction: removes secrets from texts that are stored or shown (errors, tracebacks, log lines, addresses).

It searches for two kinds. First, secrets that this process knows: values of environment variables with a secret's
name, and values of `Secret`, also as they are written in URLs, JSON, HTML and headers. Second, text with the form of
a secret (`password=…`, `Authorization: …`, a key block). One pass, in time linear in the text.
"""

from __future__ import annotations

import base64
import html
import json
import logging
import os
import re
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from operator import itemgetter
from typing import Any
from urllib.parse import quote, quote_plus

HIDDEN = "***"
SHORTEST = 6  # characters; a shorter secret would be part of many words
MOST_TEXT = 256 * 1024  # characters of one text; a longer one would block the loop
MOST_KNOWN = 1_000  # the newest values of `Secret` are remembered

_OVERLAP = 4096  # characters searched after a cut, so that a secret across it is found
_MOST_ENCODED = 16 * 1024  # characters; for a longer secret only the plain form is searched


def redacted(text: str, limit: int = MOST_TEXT, overlap: int = _OVERLAP) -> str:
    """The first `limit` characters of a text, with `***` in place of every secret that begins in them. A secret is
    found if it ends at most `overlap` characters after them.
    """
    text = str.__str__(text)  # a subclass may override it
    spans = secret_spans(text if len(text) <= limit else text[: limit + overlap])
    if not spans:
        return text[:limit]
    parts: list[str] = []
    done = 0
    for start, end in spans:
        if start >= limit:
            break
        parts += (text[done:start], HIDDEN)
        done = end
    return "".join([*parts, text[done:limit]])


def secret_spans(text: str) -> list[tuple[int, int]]:
    """Where secrets begin and end in a text: in order, each behind the one before it."""
    spans: list[tuple[int, int]] = []
    for start, end in sorted([*_known(text), *_shaped(text)]):
        if spans and start < spans[-1][1]:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((start, end))
    return spans


def redacted_data(data: Any) -> Any:
    """Data with the secrets in its texts redacted."""
    if isinstance(data, str):
        return redacted(data)
    if isinstance(data, dict):
        return {key: redacted_data(inner) for key, inner in data.items()}
    return [redacted_data(inner) for inner in data] if isinstance(data, list | tuple) else data


def redacted_end(texts: list[str], limit: int) -> str:
    """The last `limit` characters of texts that belong together, each of them whole where it is searched."""
    kept: list[str] = []
    left = limit
    for text in reversed(texts):
        if left <= 0:
            break
        clean = redacted(text)
        kept.append(clean[-left:])
        left -= len(clean)
    return "".join(reversed(kept))


# ---- what this process knows


class _Known:
    """The secrets that this process knows, in all their forms, found by their first characters. The cost of a search
    does not depend on how many there are, and adding or removing one costs only for that one.
    """

    def __init__(self) -> None:
        self.forms: dict[str, tuple[str, ...]] = {}  # by their first characters, the longest first
        self.open: set[str] = set()  # forms in base64: the characters after them depend on the secret too
        self._told: OrderedDict[str, None] = OrderedDict()
        self._environment: set[str] = set()
        self._seen: Mapping[Any, Any] = {}
        self._lock = threading.Lock()  # steps log from threads

    def remember(self, secret: str) -> None:
        """Search for this value from now on. If there are too many, the oldest one is forgotten."""
        if len(secret) < SHORTEST:
            return
        with self._lock:
            known = secret in self._told
            self._told[secret] = None
            self._told.move_to_end(secret)
            if not known:
                self._add(secret)
            if len(self._told) > MOST_KNOWN:
                oldest, _ = self._told.popitem(last=False)
                if oldest not in self._environment:
                    self._remove(oldest)

    def look_around(self) -> None:
        """Read the secrets in the environment again, if it has changed."""
        # Reading `os.environ` costs more than all other work for a log line; comparing its inner dict is fast.
        now: Mapping[Any, Any] = getattr(os.environ, "_data", os.environ)
        if now == self._seen:
            return
        with self._lock:
            self._seen = dict(now)
            found = {secret for name, value in os.environ.items() for secret in _values_of(name, value)}
            for secret in self._environment - found - self._told.keys():
                self._remove(secret)
            for secret in found - self._environment:
                self._add(secret)
            self._environment = found

    def _add(self, secret: str) -> None:
        plain, base64_forms = _forms_of(secret)
        self.open |= base64_forms
        for form in plain | base64_forms:
            start = form[:SHORTEST]
            self.forms[start] = tuple(sorted({*self.forms.get(start, ()), form}, key=len, reverse=True))

    def _remove(self, secret: str) -> None:
        plain, base64_forms = _forms_of(secret)
        self.open -= base64_forms
        for form in plain | base64_forms:
            start = form[:SHORTEST]
            self.forms[start] = tuple(other for other in self.forms.get(start, ()) if other != form)
            if not self.forms[start]:
                del self.forms[start]


def remember(secret: str) -> None:
    """Remember a secret until the process ends, or until too many newer ones follow."""
    _KNOWN.remember(secret)


def is_plain_word(text: str) -> bool:
    """Can people write this without knowing the secret: a word, a name, a code, a path without digits?"""
    return len(text) < _LONGEST_WORD and _WORDS.fullmatch(text) is not None


_LONGEST_WORD = 24
_WORDS = re.compile(r"[_.:/]?(?:[A-Z]?[a-z]+|[A-Z]+)(?:[_.:/]?(?:[A-Z]?[a-z]{2,}+|[A-Z]{2,}+))*+")


def named_like_a_secret(name: str) -> bool:
    """Is this the name of an environment variable that holds a secret?"""
    return _rank_of(name) in (_SURE, _LIKELY)


def secrets_of_environment() -> dict[str, str]:
    """The values of the environment variables that are named like secrets, by name."""
    return {name: value for name, value in os.environ.items() if _values_of(name, value) == (value,)}


def _known(text: str) -> Iterator[tuple[int, int]]:
    _KNOWN.look_around()
    if not _KNOWN.forms:
        return
    yield from _known_as_written(text)
    if _ESCAPE.search(text):
        plain = _Undone(text)
        for start, end in _known_as_written(plain.text):
            first = plain.place(start)
            yield first, first + len(text[first : plain.place(end)].rstrip())  # the end of its line is no part of it


def _known_as_written(text: str) -> Iterator[tuple[int, int]]:
    forms = _KNOWN.forms
    # First a list of positions: that is twice as fast as comparing forms at each of them.
    for start in [i for i in range(len(text) - SHORTEST + 1) if text[i : i + SHORTEST] in forms]:
        for form in forms.get(text[start : start + SHORTEST], ()):
            if text.startswith(form, start):
                yield start, _padded(text, start + len(form)) if form in _KNOWN.open else start + len(form)
                break


# How languages and formats escape a character, also when escaped several times: percent signs, backslashes,
# entities; and line breaks with the blanks around them, which are removed.
_ESCAPE = re.compile(
    r"(?=[%\\\\&\s])"  # most characters are none of these
    r"(?:(?P<percent>(?:%(?:25)*[0-9a-f]{2})++)"
    r"|(?P<units>(?:\\++(?-i:u)[0-9a-f]{4})++)"
    r"|(?P<bytes>(?:\\++x[0-9a-f]{2})++)"
    r"|\\++(?-i:U)(?P<point>[0-9a-f]{8})"
    r"|(?P<line>\\++[nr]\s*+|(?<!\s)[^\S\r\n]*+[\r\n]\s*+)"
    r"|\\++(?P<char>[^\\])?"
    r"|(?P<entity>&(?:amp;)*(?:\#\d{1,7}|\#x[0-9a-f]{1,6}|[a-z]{2,6});))",
    re.IGNORECASE,
)


class _Undone:
    """A text with its escapes replaced by what they mean, and the old position of each of its characters."""

    def __init__(self, text: str) -> None:
        self._places: list[tuple[int, int]] = []  # pairs: position in the new and in the old text
        parts: list[str] = []
        done = size = 0
        for found in _ESCAPE.finditer(text):
            self._places.append((size, done))
            parts.append(text[done : found.start()])
            size += found.start() - done
            done = found.end()
            characters = _meant_by(found)
            units = [_units_of(found.lastgroup, character) for character in characters]
            wide, taken = sum(units), 0
            for character, unit in zip(characters, units, strict=True):
                self._places.append((size, found.start() + taken * (done - found.start()) // wide))
                parts.append(character)
                size, taken = size + 1, taken + unit
        self._places.append((size, done))
        parts.append(text[done:])
        self.text = "".join(parts)

    def place(self, at: int) -> int:
        """The position in the old text of a character of the new one."""
        new, old = self._places[bisect_right(self._places, at, key=itemgetter(0)) - 1]
        return old + at - new


def _meant_by(found: re.Match[str]) -> str:
    """The characters that an escape, or several in a row, mean."""
    kind = found.lastgroup
    if kind in ("percent", "bytes"):
        return _from_bytes(bytes.fromhex("".join(_PAIR.findall(found[0]))))
    if kind == "units":
        units = bytes.fromhex("".join(_UNIT.findall(found[0])))
        return units.decode("utf-16-be", "surrogatepass")
    if kind == "point":
        return chr(min(int(found["point"], 16), 0x10FFFF))
    if kind == "entity":
        return html.unescape(_AMPERSANDS.sub("&", found[0]))
    return found["char"] or ""


def _units_of(kind: str | None, character: str) -> int:
    """How many escapes in a row stand for this character."""
    if kind == "units":
        return 2 if ord(character) > 0xFFFF else 1
    return len(character.encode("utf-8", "surrogatepass")) if kind in ("percent", "bytes") else 1


_PAIR = re.compile("(?:%(?:25)*|x)([0-9a-f]{2})", re.IGNORECASE)
_UNIT = re.compile("u([0-9a-f]{4})", re.IGNORECASE)
_AMPERSANDS = re.compile("&(?:amp;)+(?=.)", re.IGNORECASE)


def _from_bytes(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


_BASE64 = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_=")


def _padded(text: str, end: int) -> int:
    last = min(end + 3, len(text))
    while end < last and text[end] in _BASE64:
        end += 1
    return end


def _forms_of(secret: str) -> tuple[set[str], set[str]]:
    """How a secret may be written: plainly, and in base64."""
    encoded = set(_in_base64(secret)) if len(secret) <= _MOST_ENCODED else set()
    return {form for form in _written(secret) if len(form) >= SHORTEST}, encoded


_SAFE = ("", "/", "/:", "!~*'()", "!$&'()*+,;=", "!$&'()*+,;=:@", "!$&'()*+,;=:@/")  # not escaped by some client


def _written(secret: str) -> set[str]:
    """A secret as it is written plainly, in URLs, in JSON (also JSON inside JSON), in Python, HTML, a shell, in hex."""
    if len(secret) > _MOST_ENCODED:
        return {secret}
    raw = secret.encode("utf-8", "surrogatepass")
    percent = {quote(raw, safe=safe) for safe in _SAFE} | {quote_plus(raw)}
    percent |= {_PERCENT.sub(lambda found: found[0].lower(), form) for form in percent}
    escaped = {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    escaped |= {form.replace("/", "\\/") for form in escaped} | {json.dumps(form)[1:-1] for form in escaped}
    python = {repr(secret)[1:-1], repr(raw)[2:-1], secret.replace("\\", "\\\\").replace("'", "\\'")}
    page = {html.escape(secret), html.escape(secret, quote=False)}
    page |= {form.replace("&#x27;", "&#39;").replace("&quot;", "&#34;") for form in page}
    shell = {secret.replace("'", "'\"'\"'"), secret.replace("'", "'\\''")}
    plain = _Undone(secret).text  # a secret may contain text that looks like an escape, or line breaks
    return {secret, plain, raw.hex(), raw.hex().upper(), *percent, *escaped, *python, *page, *shell}


_PERCENT = re.compile("%[0-9A-F]{2}")


def _in_base64(secret: str) -> Iterator[str]:
    """A secret in base64 at each offset: only the characters that depend on nothing else."""
    raw = secret.encode("utf-8", "surrogatepass")
    for before, dropped in ((0, 0), (1, 2), (2, 3)):
        whole = (before + len(raw)) * 8 // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(bytes(before) + raw).decode()[dropped:whole]


# ---- names of environment variables

_SURE, _LIKELY, _ADDRESS = 1, 2, 3
_SURE_WORDS = frozenset(
    "TOKEN SECRET SECRETS PASSWORD PASSWORDS PASSWD PASSPHRASE PASSCODE PGPASS APIKEY APIKEYS CREDENTIAL CREDENTIALS "
    "CREDS PAT JWT BEARER SECRETKEY ACCESSKEY PRIVATEKEY".split()
)
_LIKELY_WORDS = frozenset(
    "KEY KEYS PASS PWD AUTH AUTHORIZATION PRIVATE TOKENS DSN WEBHOOK WEBHOOKS COOKIE COOKIES SESSION SESSIONID SALT "
    "SIGNATURE OTP PIN".split()
)
_SURE_ENDINGS = ("APIKEY", "PASSWORD", "PASSWD", "SECRET", "TOKEN", "SECRETKEY", "ACCESSKEY", "PGPASSWORD")
# Variables with these words tell something about a secret; their value is not one.
_ABOUT = frozenset(
    "SOCK SOCKET FILE FILES PATH DIR FOLDER NAME USER USERNAME TYPE METHOD MODE ENABLED DISABLED VERSION TTL TIMEOUT "
    "EXPIRY EXPIRES PID LAYOUT COUNT SIZE LENGTH LIMIT HOST PORT ALGORITHM PROVIDER ENDPOINT MANAGER BACKEND".split()
)
_NO_SECRETS = frozenset("PWD OLDPWD".split())
_PLAIN_WORDS = frozenset("true false null none enabled disabled required optional default".split())
_PLAIN = re.compile(r"[a-z_.:/-]*|[A-Z_.:/-]*|[\d.,:_-]*")  # a word, a place, a number


@lru_cache(maxsize=4096)
def _rank_of(name: str) -> int:
    """How surely the name of a variable means a secret; 0 if it does not."""
    words = [word for word in re.split(r"[^A-Z0-9]+", name.upper()) if word]
    if not words or name in _NO_SECRETS or words[-1] in _ABOUT or words[-1].endswith("FILE") or "PUBLIC" in words:
        return 0
    if _SURE_WORDS & set(words) or any(word.endswith(_SURE_ENDINGS) for word in words):
        return _SURE
    if _LIKELY_WORDS & set(words) or any(word.startswith(("AUTH", "PGPASS")) for word in words if word != "AUTHOR"):
        return _LIKELY
    return _ADDRESS if words[-1] in ("URL", "URI", "BROKER", "CONNECTION", "STRING", "PROXY") else 0


def _values_of(name: str, value: str) -> tuple[str, ...]:
    """The secret part of a variable's value: all of it, the password of an address, or nothing."""
    rank = _rank_of(name)
    if rank == 0 or len(value) < SHORTEST or value.lower() in _PLAIN_WORDS or _is_path(value):
        return ()
    address = _compiled(_ADDRESS_WITH_LOGIN)
    if rank == _ADDRESS or (rank == _LIKELY and address.search(value)):
        return tuple(found[1] for found in address.finditer(value) if len(found[1]) >= SHORTEST)
    return () if rank == _LIKELY and _PLAIN.fullmatch(value) else (value,)


def _is_path(value: str) -> bool:
    return value.startswith(("/", "~/", "./")) and os.path.exists(os.path.expanduser(value))


# ---- what looks like a secret


@dataclass(frozen=True, slots=True)
class _Shape:
    """Text with the form of a secret. Where one of the `anchors` (lowercase) is found, the pattern is tried, and its
    group `value` is the secret. Without `needs` in the text, nothing is tried. If the pattern fails in a run of
    characters (`run`), it fails at every other anchor in that run too.
    """

    anchors: tuple[str, ...]
    pattern: str
    needs: str = ""
    run: str = ""


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """Compiled when it is first needed: most processes never meet most shapes."""
    return re.compile(pattern, re.IGNORECASE)


_ENDING = r"s?(?:[_-]?(?:id|value|key|\d{1,3}))?"
_SEPARATOR = r"(?:\\{0,3}[\"'\]]{0,2}\s{0,3}(?::|=>?|%3d)\s{0,3}|[\"']\s?,\s?)(?:b(?=[\"']))?"
_SCHEMES = r"(?:(?:bearer|basic|digest|token|negotiate|apikey)\s{1,3})?"
_A_NAME = r"(?!\{\{|\$\{|\$\(|env:)"  # the name of a place that has the secret
_QUOTED_OR_BARE = (
    r"(?P<quote>\\{0,3}[\"'])?"
    + _SCHEMES
    + _A_NAME
    + r"(?P<value>(?(quote)[^\"'\n]{1,4096}|[^\s\"'&,;<>)}\]]{1,4096}))"
)
_VALUE = _ENDING + _SEPARATOR + _QUOTED_OR_BARE
_PASSWORDS = r"(?:pass(?:word|wd|phrase|code)|pass(?==)|pwd)"
_OTHERS = r"(?:secret|token|credential|authorization|signature|sig(?==))"
# Checked first, because it is short: after the word, thousands of characters may have to be searched.
_KEYS = (
    "api access secret private auth account subscription encryption signing master shared license session client "
    "service storage"
)
_KEY_OF = "(?:" + "|".join(f"(?<={word})|(?<={word}[_-])" for word in _KEYS.split()) + ")"
_NOT_IN_A_WORD = "(?<![A-Za-z0-9])"
# A port is not a password. The host begins after the last @ of an address.
_ADDRESS_WITH_LOGIN = (
    r"://[^\s/:@\[\]\"'<>]{0,128}:(?!\d{1,5}(?:[/?#\s]|$))"
    r"(?P<value>[^\s\"'<>@]{0,300}+(?:@[^\s\"'<>@]{0,300}+){0,3}?)@(?![^\s\"'<>@]{0,300}+@)"
)
_SHAPES = (
    _Shape(("://",), _ADDRESS_WITH_LOGIN, needs="@"),
    _Shape((":",), r":(?P<value>[^\s:@\"'/]{1,256})@(?=(?:tcp|tcp6|unix|udp)\()", needs="@"),
    _Shape(
        ("pass", "pwd", "secret", "token", "credential", "authorization", "signature", "sig="),
        f"(?:(?P<sure>{_PASSWORDS})|{_OTHERS}){_VALUE}",
    ),
    _Shape(
        ("key",),
        f"{_KEY_OF}key{_VALUE}",
    ),
    _Shape(
        ("--",),
        rf"--[\w-]{{0,24}}?(?P<sure>{_PASSWORDS}|{_OTHERS}|api[_-]?key)[\"']?,?\s{{1,3}}[\"']?"
        rf"{_A_NAME}(?P<value>[^\s\"'-][^\s\"']{{0,4095}})",
    ),
    _Shape(("bearer", "basic"), r"(?:bearer|basic)\s{1,3}(?P<value>[A-Za-z0-9._~+/=-]{8,8192})"),
    _Shape(("cookie",), r"cookie[\"']?\s{0,3}(?::|,\s?b?[\"'])\s{0,3}[\"']?(?P<value>[^\r\n\"']{1,8192})"),
    _Shape(
        ("private key-----",),
        r"private key-----(?!\*)(?P<value>(?:[^-]|-(?!-)){0,32768}(?:-----end [a-z ]{0,40}-----)?)",
    ),
    _Shape(
        ("gh", "glpat-", "sk", "rk_", "xox", "hf_", "npm_", "pypi-", "shpat_", "dop_v1_", "whsec_"),
        _NOT_IN_A_WORD
        + r"(?P<value>(?-i:gh[pousr]_|github_pat_|glpat-|sk-|[sr]k_(?:live|test)_|xox[abeprs]-|hf_|npm_|pypi-|shpat_"
        r"|dop_v1_|whsec_)[A-Za-z0-9_-]{16,512})",
    ),
    _Shape(
        ("akia", "asia", "aiza", "sg.", "eyj"),
        _NOT_IN_A_WORD + r"(?P<value>(?-i:(?:AKIA|ASIA)[A-Z0-9]{16}\b|AIza[A-Za-z0-9_-]{35}"
        r"|SG\.[A-Za-z0-9_-]{16,64}\.[A-Za-z0-9_-]{16,64}"
        r"|eyJ[A-Za-z0-9_-]{8,4096}\.[A-Za-z0-9_-]{8,8192}(?:\.[A-Za-z0-9_-]{0,1024})?))",
        run=r"[A-Za-z0-9_-]*",
    ),
    _Shape(("hooks.slack.com/",), r"hooks.slack.com/(?:services|workflows)/(?P<value>[\w/-]{8,256})"),
    _Shape(("/api/webhooks/",), r"/api/webhooks/(?P<value>\d{5,30}/[\w-]{8,256})"),
)
# Words that often follow such a name in a sentence or a schema.
_ORDINARY = frozenset(
    "true false null none yes no on off str string text int number bool bytes secret token password required missing "
    "invalid expected wrong empty unknown expired given set unset is are was not and or for to must needs has with in "
    "the a an of from".split()
)


def _shaped(text: str) -> Iterator[tuple[int, int]]:
    small = text.lower()
    if len(small) != len(text):  # some letters become longer in lowercase
        small = "".join(c.lower() if c.isascii() else c for c in text)
    for shape in _SHAPES:
        if shape.needs and shape.needs not in small:
            continue
        for anchor in shape.anchors:
            at = small.find(anchor)
            while at >= 0:
                found = _match(shape, text, at)
                if found is not None:
                    yield found.span("value")
                at = small.find(anchor, _behind(shape, anchor, text, at) if found is None else max(found.end(), at + 1))


def _behind(shape: _Shape, anchor: str, text: str, at: int) -> int:
    """Where to search for the anchor again, if the pattern failed at this place."""
    run = _compiled(shape.run).match(text, at) if shape.run else None
    return max(at + len(anchor), 0 if run is None else run.end())


def _match(shape: _Shape, text: str, at: int) -> re.Match[str] | None:
    found = _compiled(shape.pattern).match(text, at)
    return None if found is None or _is_ordinary(found) else found


def _is_ordinary(found: re.Match[str]) -> bool:
    """Is this a word of a sentence, and not a secret?"""
    value, named = found["value"], found.groupdict()
    word = value.rstrip(".,:!?`)")
    if word.lower() in _ORDINARY:
        return True
    if "quote" not in named or named["quote"] or named.get("sure"):
        return False
    in_sentence = found[0][: -len(value)][-1].isspace()
    return (in_sentence and word.isalpha() and len(word) < 16) or value.replace(".", "").isdigit()


_KNOWN = _Known()


# ---- log records


class _Redacting(logging.Filter):
    """Redacts the secrets in a log record before any handler gets it. Lets every record pass."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            record.msg, record.args = redacted(record.getMessage()), None
        except Exception:  # the format does not fit: the handler reports that, as always
            record.msg = redacted(str(record.msg))
            if isinstance(record.args, tuple):
                record.args = tuple(redacted(arg) if isinstance(arg, str) else arg for arg in record.args)
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = redacted(record.exc_text)
        if record.stack_info:
            record.stack_info = redacted(record.stack_info)
        return True


def without_secrets(logger: logging.Logger) -> logging.Logger:
    """The logger, with a filter that redacts everything it logs."""
    logger.addFilter(_REDACTING)
    return logger


_REDACTING = _Redacting()
# A filter does not apply to records of child loggers, so each of our loggers has it.
LOGGERS = (
    "towpath",
    "towpath.steps",
    "towpath.http",
    "towpath.activities",
    "towpath.comfyui",
    "towpath.comfyui.frames",
)
for _name in LOGGERS:
    without_secrets(logging.getLogger(_name))
