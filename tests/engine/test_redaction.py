"""What is kept or shown of texts holds no secret: those this process knows, in any form, and what looks like one."""

from __future__ import annotations

import ast
import base64
import html
import json
import re
import shlex
import textwrap
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, urlencode

import pytest

from towpath import redaction
from towpath.errors import InputInvalid
from towpath.redaction import HIDDEN, MOST_KNOWN, MOST_TEXT, named_like_a_secret, redacted, remember
from towpath.secrets import Secret

ODD = 'pä"ss/w@rd+&=<1>\\x'
PLAIN = "canary0123456789"


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two secrets in the environment: one that every encoding changes, and one that few do."""
    monkeypatch.setenv("UPSTREAM_API_KEY", ODD)
    monkeypatch.setenv("GITHUB_PAT", PLAIN)


def _lower(text: str) -> str:
    return re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), text)


FORMS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "a part of a URL's path": quote,
    "a whole part of a URL": lambda s: quote(s, safe=""),
    "a form": quote_plus,
    "a query": lambda s: urlencode({"x": s}),
    "percent signs with small letters": lambda s: _lower(quote(s, safe="")),
    "as browsers write it": lambda s: quote(s, safe="!~*'()"),
    "the user part of an address": lambda s: quote(s, safe="!$&'()*+,;="),
    "JSON": json.dumps,
    "JSON in UTF-8": lambda s: json.dumps(s, ensure_ascii=False),
    "JSON inside JSON": lambda s: json.dumps(json.dumps([s])),
    "JSON for a script": lambda s: json.dumps(s).replace("/", "\\/"),
    "Python's text": repr,
    "Python's bytes": lambda s: repr(s.encode()),
    "an attribute of a page": html.escape,
    "a page's text": lambda s: html.escape(s, quote=False),
    "a page by another library": lambda s: html.escape(s).replace("&#x27;", "&#39;").replace("&quot;", "&#34;"),
    "a shell": shlex.quote,
    "a shell's backslashes": lambda s: "".join(c if c.isalnum() else f"\\{c}" for c in s),
    "ASCII only": ascii,
    "Python's escapes": lambda s: s.encode("unicode_escape").decode(),
    "JSON of Go": lambda s: _units(json.dumps(s), "&<>", "\\u%04x"),
    "JSON of .NET": lambda s: _units(json.dumps(s), "&<>'+", "\\u%04X"),
    "JSON in ASCII with large letters": lambda s: _units(s, {c for c in s if ord(c) > 126}, "\\u%04X"),
    "percent signs everywhere": lambda s: "".join(f"%{b:02x}" for b in s.encode()),
    "percent signs twice": lambda s: quote(quote(s, safe=""), safe=""),
    "percent signs three times": lambda s: quote(quote(quote(s, safe=""), safe=""), safe=""),
    "percent signs in JSON": lambda s: json.dumps(quote(s)),
    "entities of XML": lambda s: html.escape(s).replace("&#x27;", "&apos;"),
    "entities by number": lambda s: html.escape(s).encode("ascii", "xmlcharrefreplace").decode(),
    "a page inside of a page": lambda s: html.escape(html.escape(s)),
    "JSON three times": lambda s: json.dumps(json.dumps(json.dumps(s))),
    "JSON in Python's text": lambda s: repr(json.dumps(s)),
    "lines, indented": lambda s: textwrap.indent(s, "    ").lstrip(),
    "base64 of a letter": lambda s: "\r\n".join(textwrap.wrap(base64.b64encode(s.encode()).decode(), 16)),
    "base64 in a URL": lambda s: quote(base64.b64encode(s.encode()).decode(), safe=""),
    "hex": lambda s: s.encode().hex(),
    "hex with large letters": lambda s: s.encode().hex().upper(),
    "base64": lambda s: base64.b64encode(s.encode()).decode(),
    "base64 for URLs without padding": lambda s: base64.urlsafe_b64encode(s.encode()).decode().rstrip("="),
    "base64 behind one byte": lambda s: base64.b64encode(b":" + s.encode()).decode(),
    "base64 behind two bytes": lambda s: base64.b64encode(b"u:" + s.encode()).decode(),
    "Basic auth of a long name": lambda s: base64.b64encode(b"service-account:" + s.encode()).decode(),
    "base64 with something behind": lambda s: base64.b64encode(b"user:" + s.encode() + b":tail").decode(),
}


def _units(text: str, which: Any, form: str) -> str:
    return "".join(form % ord(c) if c in which else c for c in text)


LINES = "Zq8wRt5Tn\n2xYb7LmKp4\n\nVdQQQ"
LETTERS = "p\u00e4ssw\u00f6rd-\u65e5\u672c-Zq8"
SHELL = 'cor&rect <hor$e> "bat\'tery" \\stap+le/`x`'


@pytest.mark.parametrize("secret", [ODD, PLAIN, LETTERS, LINES, SHELL])
@pytest.mark.parametrize("form", FORMS)
def test_a_known_secret_is_hidden_in_every_form(form: str, secret: str) -> None:
    """Libraries quote what they tell of: URLs in HTTP errors, headers, JSON bodies, `repr` in tracebacks."""
    remember(secret)
    written = FORMS[form](secret)
    clean = redacted(f"it said {written} twice {written}.")
    assert clean.count(HIDDEN) == 2
    if "behind one" not in form and "behind two" not in form and "of a long name" not in form:
        inside = written.strip("\"'[]\\")
        assert not any(inside[i : i + 8] in clean for i in range(len(inside) - 12)), clean
    assert not any(form in clean for form in redaction._written(secret) | set(redaction._in_base64(secret)))
    assert clean.startswith("it said ")
    assert clean.endswith(".")


NAMES = (
    "OPENAI_KEY AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY GITHUB_PAT PGPASS PGPASSWORD SENTRY_DSN SLACK_WEBHOOK "
    "AUTH_HEADER MYSQL_PWD SESSION_KEY GPG_PASSPHRASE CI_JOB_TOKEN myApiKey OPENAI_APIKEY DJANGO_SECRET_KEY "
    "VAULT_TOKEN_2 JWT "
    "REDIS_AUTH COOKIE SIGNING_KEYS DB_PASS AZURE_CLIENT_SECRET GOOGLE_CREDENTIALS".split()
)


NO_NAMES = (
    "KEYBOARD MONKEY SSH_AUTH_SOCK PWD OLDPWD XAUTHORITY KEYMAP PATH AUTHOR TOKENIZERS_PARALLELISM COMPASS PASSENGER "
    "SSH_KEY_PATH PGPASSFILE PUBLIC_KEY TOKEN_TTL AUTH_METHOD KEY_FILE DATABASE HOME".split()
)


@pytest.mark.parametrize("name", NAMES)
def test_variables_that_are_named_like_secrets(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words of the name decide, not the whole of it: nobody has a list of all services."""
    assert named_like_a_secret(name)
    monkeypatch.setenv(name, "zX81-unlikely")
    assert redacted("sent zX81-unlikely there") == "sent *** there"


@pytest.mark.parametrize("name", NO_NAMES)
def test_variables_that_only_sound_like_secrets(name: str) -> None:
    """They hold folders, sockets and words, which stand in every second message."""
    assert not named_like_a_secret(name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FEATURE_AUTH", "enabled"),  # a switch
        ("SORT_KEY", "created_at"),  # a plain word
        ("MAX_TOKENS", "100000"),  # a number
        ("AUTH_URL", "https://login.example.org/oauth"),  # an address without a password
        ("DATABASE_URL", "sqlite:///runs.db"),  # the store's own address, which errors have to name
        ("SECRET", "short"),  # too short to be told from other words
        ("GOOGLE_APPLICATION_CREDENTIALS", str(Path(__file__))),  # a file that is there
    ],
)
def test_values_that_are_no_secrets_are_shown(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hiding them would make messages useless and protect nothing."""
    monkeypatch.setenv(name, value)
    assert redacted(f"it is {value} here") == f"it is {value} here"


ADDRESSES = [
    "mysql://u:{}@h/db",
    "mongodb+srv://u:{}@h/db?retryWrites=true",
    "redis://:{}@h:6379/0",
    "amqps://guest:{}@h:5671/vhost",
    "postgresql+asyncpg://u:{}@h:5432/db",
    "https://u:{}@h/path",
    "ftp://u:{}@h",
    "mssql+pyodbc://sa:{}@h/db",
    "u:{}@tcp(h:3306)/db",
    "snowflake://u:{}@account/db",
]


@pytest.mark.parametrize(
    ("address", "password"),
    [
        (address, password)
        for address in ADDRESSES
        for password in ("pw", "p:w%2F1", "p@ss", "12345x")
        if "tcp(" not in address or password in ("pw", "12345x")  # no driver understands the others there
    ],
)
def test_the_password_of_an_address_of_any_scheme(address: str, password: str) -> None:
    """Also one with an @ that nobody quoted. What is not the password stays: it says what is wrong."""
    assert redacted(f"cannot reach {address.format(password)} now") == f"cannot reach {address.format(HIDDEN)} now"


LOOKS_LIKE_ONE = [
    ("Authorization: Bearer abc.def-123", "abc.def-123"),
    ("{'Authorization': 'Basic dXNlcjpwdw=='}", "dXNlcjpwdw=="),
    ("(b'authorization', b'Token 9f8e7d6c')", "9f8e7d6c"),
    ("got 401 for bearer zzzzyyyyxxxx", "zzzzyyyyxxxx"),
    ("GET /v1?api_key=abc&x=1", "abc&"[:3]),
    ("GET /b?X-Amz-Signature=feed01&X-Amz-Expires=60", "feed01"),
    ("callback#access_token=zz9&state=1", "zz9"),
    ("password: hunter", "hunter"),
    ('{"client_secret": "two words", "n": 1}', "two words"),
    ('{\\"password\\": \\"x1y2\\"}', "x1y2"),
    ("x-api-key: abc123", "abc123"),
    ("tool --password hunter2 --fast", "hunter2"),
    ("['tool', '--auth-token', 'abcd1']", "abcd1"),
    ("Server=h;Password=abc;Trusted=no", "abc;"[:3]),
    ("PGPASSWORD=letmein psql", "letmein"),
    ("Set-Cookie: sid=1234; HttpOnly", "sid=1234"),
    ("-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----", "MHcCAQEE"),
    ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1r", "b3BlbnNzaC1r"),  # cut off by somebody else
    ("used ghp_abcdefghijklmnop1234", "ghp_abcdefghijklmnop1234"),
    ("used sk-proj-abcdefghijklmnop1234", "sk-proj-abcdefghijklmnop1234"),
    ("used xoxb-1234567890-abcdefghij", "xoxb-1234567890-abcdefghij"),
    ("key AKIAABCDEFGHIJKLMNOP.", "AKIAABCDEFGHIJKLMNOP"),
    ("jwt eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl", "eyJzdWIiOiIx"),
    ("post to https://hooks.slack.com/services/T00/B00/xyzxyz", "T00/B00/xyzxyz"),
]


@pytest.mark.parametrize(("text", "secret"), LOOKS_LIKE_ONE)
def test_what_looks_like_a_secret_is_hidden(text: str, secret: str) -> None:
    """Nobody told this process of it, but the text does."""
    assert secret not in redacted(text)
    assert HIDDEN in redacted(text)


@pytest.mark.parametrize(
    "text",
    [
        "unexpected token: foo",  # a parser's words
        "max_tokens=512",  # a number of something
        "token: {{ inputs.token }}",  # where it comes from, not what it is
        "the password is wrong",
        "secret: true",  # a key of chain files
        "http://host:8188/view?name=a@b",  # a port, and an @ behind the host
        "http://[::1]:8188/a@b",
        "a basic problem and a bearer",
        "git@github.com:me/it.git",
        "skip-everything-that-is-not-needed-here",
    ],
)
def test_ordinary_texts_stay_as_they_are(text: str) -> None:
    """A message that hides what is no secret helps nobody."""
    assert redacted(text) == text


@pytest.mark.parametrize("text", [text for text, _ in LOOKS_LIKE_ONE] + [a.format("pw") for a in ADDRESSES] + [ODD])
def test_hiding_twice_is_hiding_once(text: str) -> None:
    """A text may come through twice, as a part of another one."""
    assert redacted(redacted(text)) == redacted(text)


def test_a_secret_across_a_cut_leaves_no_beginning_behind() -> None:
    """Texts are cut to be kept; what is cut off of a secret would no more be known for one."""
    for at in range(80, 101):
        clean = redacted("." * at + PLAIN + " more", 100)
        assert PLAIN[:3] not in clean
        assert len(clean) <= 100 + len(HIDDEN)
    assert PLAIN[:20] not in InputInvalid("E_X", "m", found="x" * 70 + PLAIN).problem.found


def test_a_huge_text_costs_what_its_beginning_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is behind the limit is not looked at; a step may raise with anything."""
    seen: list[int] = []

    def counted(real: Callable[[str], object], text: str) -> object:
        seen.append(len(text))
        return real(text)

    for name in ("_known", "_shaped"):
        real = getattr(redaction, name)
        monkeypatch.setattr(redaction, name, partial(counted, real))
    assert len(redacted("x" * 20_000_000)) == MOST_TEXT
    assert len(seen) == 2, "the text was looked at"
    assert max(seen) < MOST_TEXT * 1.1


@pytest.mark.parametrize(
    "unit",
    ["://a:", "password=", "-----BEGIN PRIVATE KEY-----", "eyJabcdefgh.", "--a-token", "cookie:", 'token "', "a:b@"],
)
def test_hostile_texts_are_matched_a_bounded_number_of_times(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times the text is ten times the work: as many looks, and no look goes further than a bound."""
    looks: list[int] = []
    real = redaction._match

    def counted(shape: redaction._Shape, text: str, at: int) -> re.Match[str] | None:
        found = real(shape, text, at)
        looks.append(0 if found is None else found.end() - at)
        return found

    monkeypatch.setattr(redaction, "_match", counted)
    counts = []
    for size in (2_000, 20_000):
        looks.clear()
        redacted((unit * size)[:size])
        counts.append(len(looks))
    assert counts[1] <= 11 * counts[0] + 20


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "a%20b%C3%A4%zz%",
        "x\\u00e4\\ud83d\\udd11y\\",
        "a &amp;amp;lt; b &#x27; &bogus; &",
        "one \n   two\\nthree",
        "\\\\\\x41\\U0001f511!",
        "",
    ],
)
def test_places_in_a_text_without_its_escapes_are_those_of_the_text(text: str) -> None:
    """What is found there is hidden here: from the first to behind the last character, and nothing beside it."""
    undone = redaction._Undone(text)
    places = [undone.place(at) for at in range(len(undone.text) + 1)]
    assert places == sorted(places)
    assert all(0 <= place <= len(text) for place in places)
    assert undone.place(len(undone.text)) == len(text)
    for at, character in enumerate(undone.text):
        assert text[places[at]] == character or text[places[at]] in "%\\&x", (at, character)


@pytest.mark.parametrize("escaped", ["\\u005a", "%5A", "&#90;", "\\x5A", "\\\\u005a", "%25255a", "\\U0000005a"])
def test_nothing_beside_an_escaped_secret_is_hidden(escaped: str) -> None:
    """The copy without escapes has other places than the text."""
    remember("Zq8wRt5Tn2xYb7Z")
    text = f"%41 b\n c <{escaped}q8wRt5Tn2xYb7{escaped}> &amp; {escaped} d"
    assert redacted(text) == f"%41 b\n c <***> &amp; {escaped} d"


HOSTILE = [
    "key=",
    "apikey=",
    "apikey=env:",
    "password=${",
    "token='{{",
    "eyJ",
    "_eyJ",
    "-eyJ",
    "eyJaaaaaaaa.",
    "SG.aaaaaaaaaaaaaaaaaaaa",
    "--token ",
    "--token env:",
    "://a:b@",
    "://a:",
    "cookie:",
    "bearer ",
    "private key-----",
    "sk-",
    "_sk-",
    "AKIA",
    "\\u00",
    "%25",
    "&#",
    "hooks.slack.com/services/",
    "\\\\",
    " ",
    "\n ",
    " \n",
    "&amp;",
    "&amp;amp;amp",
    "%2525",
    "\\x4",
    "\\ud83d",
]


@pytest.mark.parametrize("unit", HOSTILE)
def test_ten_times_a_hostile_text_is_ten_times_the_work(unit: str) -> None:
    """Each was or could be walked over again from every place where something seems to begin."""

    def took(size: int) -> float:
        text = (unit * size)[:size]
        began = []
        for _ in range(4):
            began.append(-time.thread_time())
            redacted(text)
            began[-1] += time.thread_time()
        return min(began)

    assert took(100_000) <= 25 * took(10_000) + 0.005


def our_sentences() -> dict[str, str]:
    """Messages, cures and what is allowed, as they are written in the code, with where they stand."""
    found: dict[str, str] = {}
    root = Path(__file__).parents[2]
    for file in [*root.glob("engine/*.py"), *root.glob("store/*.py"), *root.glob("adapters/**/*.py")]:
        for call in [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]:
            coded = any(isinstance(a, ast.Constant) and str(a.value).startswith("E_") for a in call.args)
            texts = [k.value for k in call.keywords if k.arg in ("message", "cure", "allowed", "found")]
            for text in [*texts, *(call.args if coded else [])]:
                parts = text.values if isinstance(text, ast.JoinedStr) else [text]
                words = [str(p.value) if isinstance(p, ast.Constant) else "something" for p in parts]
                found[f"{file.name}:{text.lineno}"] = "".join(words)
    return found


def test_no_sentence_of_ours_looks_like_a_secret() -> None:
    """A cure that says `***` where it names what to send cures nothing."""
    sentences = our_sentences()
    assert len(sentences) > 700
    changed = {where: redacted(text) for where, text in sentences.items() if redacted(text) != text}
    assert not changed


@pytest.mark.parametrize(
    "word",
    [
        "E_CHAIN",
        "ValueError",
        "completed",
        "message",
        "/api/v1",
        "mysteps",
        "E_SECRET_MISSING",
        "towpath.errors",
        "step",
    ],
)
def test_a_secret_that_is_a_common_word_changes_nothing_for_others(word: str) -> None:
    """Whoever may start a run chooses its secrets, and would take words out of what everybody is told."""
    Secret(word)
    Secret({"deep": [word]})
    text = f"{word}: the run is {word} of {word}"
    assert redacted(text) == text


@pytest.mark.parametrize(
    "secret",
    ["correct horse battery", "hGtRwqPzLmXk", "hunter-2-hunter", "73918264", "tr0ub4dor", "AbCdEfGh", "Zq8wRt5T"],
)
def test_a_secret_that_is_no_common_word_is_hidden(secret: str) -> None:
    """Passphrases, numbers, letters at random."""
    Secret(secret)
    assert redacted(f"got {secret} there") == "got *** there"


def test_what_stands_in_front_is_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is short; behind the anchor thousands of characters may be walked over."""
    walked: list[int] = []
    real = redaction._compiled

    class Counting:
        def __init__(self, pattern: str) -> None:
            self.pattern = real(pattern)

        def match(self, text: str, at: int) -> re.Match[str] | None:
            found = self.pattern.match(text, at)
            walked.append(0 if found is None else len(found[0]))
            return found

        def __getattr__(self, name: str) -> Any:
            return getattr(self.pattern, name)

    monkeypatch.setattr(redaction, "_compiled", Counting)
    for unit in ("key=", "eyJ", "--", "_eyJ"):
        walked.clear()
        redacted((unit * 20_000)[:20_000])
        assert sum(walked) <= 25_000, unit


def test_how_many_secrets_there_are_makes_no_difference_to_a_search() -> None:
    """A search looks at each place of the text once, whatever is known."""
    for number in range(300):
        remember(f"another-{number}-one")
    assert redacted("it is another-299-one") == "it is ***"
    assert max(len(forms) for forms in redaction._KNOWN.forms.values()) <= 4 * 300
    forms = {redacted(f"x another-{number}-one y") for number in range(300)}
    assert forms == {"x *** y"}


def test_the_oldest_secrets_are_forgotten_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fan-out with a secret per item does not fill the memory, and each costs only itself."""
    added: list[str] = []
    real = redaction._forms_of

    def counted(secret: str) -> object:
        added.append(secret)
        return real(secret)

    monkeypatch.setattr(redaction, "_forms_of", counted)
    before = len(redaction._KNOWN._told)
    for number in range(2 * MOST_KNOWN):
        remember(f"one-of-{number}-many")
    assert len(added) <= 3 * MOST_KNOWN + before, "each is added once and removed once"
    assert redacted("is one-of-0-many") == "is one-of-0-many"
    assert redacted(f"is one-of-{2 * MOST_KNOWN - 1}-many and {PLAIN}") == "is *** and ***"
    assert len(redaction._KNOWN._told) == MOST_KNOWN


def test_a_value_that_is_still_known_stays_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the environment or by a `Secret`: one of the two is enough."""
    monkeypatch.setenv("BOTH_TOKEN", "both-canary")
    assert redacted("a both-canary") == "a ***"
    remember("both-canary")
    monkeypatch.delenv("BOTH_TOKEN")
    assert redacted("a both-canary") == "a ***"


def test_the_environment_may_change_at_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable set a moment ago is a secret already, and one that is gone is none any more."""
    monkeypatch.setenv("LATE_TOKEN", "late-canary")
    assert redacted("a late-canary b") == "a *** b"
    monkeypatch.delenv("LATE_TOKEN")
    assert redacted("a late-canary b") == "a late-canary b"


def test_the_end_of_a_line_is_no_part_of_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_SECRET", "hunter2-xyz-Secret99")
    assert redacted("one hunter2-xyz-Secret99\n  two\n") == "one ***\n  two\n"


def test_a_secret_that_holds_itself_or_one_thing_very_many_times() -> None:
    shared: Any = ["correct-h0rse-battery"]
    for _ in range(60):
        shared = [shared, {"again": shared}]
    shared.append(shared)
    Secret(shared)
    assert redacted("a correct-h0rse-battery") == "a ***"
