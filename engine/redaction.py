"""Secrets do not get into what is kept or shown of texts: errors, tracebacks, log lines, addresses.

Two things are looked for: secrets that this process knows (values of environment variables that are named like
secrets, values of `Secret`), also in the forms that they take inside URLs, JSON, HTML and headers; and what
looks like a secret by itself (`password=…`, `Authorization: …`, a key block). One pass, linear in the text.
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
SHORTEST = 6  # characters; a shorter secret would be found in every second word
MOST_TEXT = 256 * 1024  # characters of one text; people do not read more, and a longer one would block the loop
MOST_KNOWN = 1_000  # values of `Secret` that are remembered, the newest

_OVERLAP = 4096  # characters looked at behind a cut, so that a secret that lies across it is found
_MOST_ENCODED = 16 * 1024  # characters; of a longer secret only the plain form is looked for


def redacted(text: str, limit: int = MOST_TEXT, overlap: int = _OVERLAP) -> str:
    """The first `limit` characters of a text, with `***` in place of every secret that begins in them and ends
    `overlap` characters behind them at the latest.
    """
    text = str.__str__(text)  # whatever a subclass makes of itself
    looked_at = text if len(text) <= limit else text[: limit + overlap]
    spans = sorted([*_known(looked_at), *_shaped(looked_at)])
    if not spans:
        return text[:limit]
    parts: list[str] = []
    done = 0
    for start, end in spans:
        if start >= limit:
            break
        if start >= done:
            parts += (text[done:start], HIDDEN)
        done = max(done, end)
    return "".join([*parts, text[done:limit]])


def redacted_data(data: Any) -> Any:
    """Data without secrets in its texts."""
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
    """Secrets in all their forms, found by their first characters: what a search costs does not depend on
    how many there are, and one more or less costs only itself.
    """

    def __init__(self) -> None:
        self.forms: dict[str, tuple[str, ...]] = {}  # by their first characters, the longest first
        self.open: set[str] = set()  # forms in base64: characters behind them still depend on the secret
        self._told: OrderedDict[str, None] = OrderedDict()
        self._environment: set[str] = set()
        self._seen: Mapping[Any, Any] = {}
        self._lock = threading.Lock()  # steps log from threads

    def remember(self, secret: str) -> None:
        """Look for this value from now on. The oldest are forgotten when there are too many."""
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
        """Take over what changed in the environment."""
        # Reading it whole would cost more than all the rest of a log line; what is behind it compares fast.
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
    """Tell the redaction a secret; it is known for as long as the process lives, unless too many are."""
    _KNOWN.remember(secret)


def is_plain_word(text: str) -> bool:
    """Is this what others may say without knowing the secret: a word, a name, a code, a path without digits?"""
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
            yield plain.place(start), plain.place(end)


def _known_as_written(text: str) -> Iterator[tuple[int, int]]:
    forms = _KNOWN.forms
    # A list of places is twice as fast as asking at each of them what to do.
    for start in [i for i in range(len(text) - SHORTEST + 1) if text[i : i + SHORTEST] in forms]:
        for form in forms.get(text[start : start + SHORTEST], ()):
            if text.startswith(form, start):
                yield start, _padded(text, start + len(form)) if form in _KNOWN.open else start + len(form)
                break


# What languages, formats and formatters put in the place of a character, however often one was applied on the other:
# percent signs, backslashes, entities; and line breaks with the blanks around them, which stand for nothing.
_ESCAPE = re.compile(
    r"(?=[%\\\\&\s])"  # most characters are none of it
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
    """A text without its escapes, and the position of each of its characters in the text."""

    def __init__(self, text: str) -> None:
        self._places: list[tuple[int, int]] = []  # in the new text and in the old one; from there on they go together
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
    """How many of the escapes in a row stand for this character."""
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
    """A secret as it may be written, plainly and in base64."""
    encoded = set(_in_base64(secret)) if len(secret) <= _MOST_ENCODED else set()
    return {form for form in _written(secret) if len(form) >= SHORTEST}, encoded


_SAFE = ("", "/", "/:", "!~*'()", "!$&'()*+,;=", "!$&'()*+,;=:@", "!$&'()*+,;=:@/")  # what clients leave as it is


def _written(secret: str) -> set[str]:
    """A secret as it is written plainly, in URLs, in JSON (also inside of JSON), in Python, HTML, a shell, in hex."""
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
    plain = _Undone(secret).text  # one that holds what looks like an escape, or lines
    return {secret, plain, raw.hex(), raw.hex().upper(), *percent, *escaped, *python, *page, *shell}


_PERCENT = re.compile("%[0-9A-F]{2}")


def _in_base64(secret: str) -> Iterator[str]:
    """What base64 makes of a secret wherever it begins: the characters that depend on nothing else."""
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
# What such a name says about the secret instead of holding it.
_ABOUT = frozenset(
    "SOCK SOCKET FILE FILES PATH DIR FOLDER NAME USER USERNAME TYPE METHOD MODE ENABLED DISABLED VERSION TTL TIMEOUT "
    "EXPIRY EXPIRES PID LAYOUT COUNT SIZE LENGTH LIMIT HOST PORT ALGORITHM PROVIDER ENDPOINT MANAGER BACKEND".split()
)
_NO_SECRETS = frozenset("PWD OLDPWD".split())
_PLAIN_WORDS = frozenset("true false null none enabled disabled required optional default".split())
_PLAIN = re.compile(r"[a-z_.:/-]*|[A-Z_.:/-]*|[\d.,:_-]*")  # a word, a place, a number


@lru_cache(maxsize=4096)
def _rank_of(name: str) -> int:
    """How sure it is by its name that a variable holds a secret; 0 if nothing says so."""
    words = [word for word in re.split(r"[^A-Z0-9]+", name.upper()) if word]
    if not words or name in _NO_SECRETS or words[-1] in _ABOUT or words[-1].endswith("FILE") or "PUBLIC" in words:
        return 0
    if _SURE_WORDS & set(words) or any(word.endswith(_SURE_ENDINGS) for word in words):
        return _SURE
    if _LIKELY_WORDS & set(words) or any(word.startswith(("AUTH", "PGPASS")) for word in words if word != "AUTHOR"):
        return _LIKELY
    return _ADDRESS if words[-1] in ("URL", "URI", "BROKER", "CONNECTION", "STRING", "PROXY") else 0


def _values_of(name: str, value: str) -> tuple[str, ...]:
    """What of a variable's value is secret: all of it, the password of an address, or nothing."""
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
    """Something that looks like a secret: where one of the `anchors` (in small letters) stands,
    the group `value` of the pattern is one. `needs` must stand somewhere, or nothing has to be tried. Where a run of
    characters (`run`) does not fit, it does not fit from any other anchor inside of it either.
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
_A_NAME = r"(?!\{\{|\$\{|\$\(|env:)"  # of a place where a secret is
_QUOTED_OR_BARE = (
    r"(?P<quote>\\{0,3}[\"'])?"
    + _SCHEMES
    + _A_NAME
    + r"(?P<value>(?(quote)[^\"'\n]{1,4096}|[^\s\"'&,;<>)}\]]{1,4096}))"
)
_VALUE = _ENDING + _SEPARATOR + _QUOTED_OR_BARE
_PASSWORDS = r"(?:pass(?:word|wd|phrase|code)|pass(?==)|pwd)"
_OTHERS = r"(?:secret|token|credential|authorization|signature|sig(?==))"
# What stands in front is asked first: behind it thousands of characters may be walked over.
_KEYS = (
    "api access secret private auth account subscription encryption signing master shared license session client "
    "service storage"
)
_KEY_OF = "(?:" + "|".join(f"(?<={word})|(?<={word}[_-])" for word in _KEYS.split()) + ")"
_NOT_IN_A_WORD = "(?<![A-Za-z0-9])"
# A port is no password; behind the last @ of an address begins its host.
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
# Words that stand behind such a name in a sentence or a schema.
_ORDINARY = frozenset(
    "true false null none yes no on off str string text int number bool bytes secret token password required missing "
    "invalid expected wrong empty unknown expired given set unset is are was not and or for to must needs has with in "
    "the a an of from".split()
)


def _shaped(text: str) -> Iterator[tuple[int, int]]:
    small = text.lower()
    if len(small) != len(text):  # a few letters are longer when they are small
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
    """Where to look for the anchor again, that led to nothing at this place."""
    run = _compiled(shape.run).match(text, at) if shape.run else None
    return max(at + len(anchor), 0 if run is None else run.end())


def _match(shape: _Shape, text: str, at: int) -> re.Match[str] | None:
    found = _compiled(shape.pattern).match(text, at)
    return None if found is None or _is_ordinary(found) else found


def _is_ordinary(found: re.Match[str]) -> bool:
    """Is this a word of a sentence, and no secret?"""
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
    """Takes secrets out of a record before any handler sees it. Never refuses one."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            record.msg, record.args = redacted(record.getMessage()), None
        except Exception:  # a format that does not fit is for the handler to tell, as it always does
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
    """The logger, with secrets taken out of whatever is logged through it."""
    logger.addFilter(_REDACTING)
    return logger


_REDACTING = _Redacting()
# A filter of a logger does not see what is logged through those below it, so each of ours has it.
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
