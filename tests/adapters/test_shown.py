"""Nothing hostile reaches a terminal, nothing is markup, and every verb is asked."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from rich.console import Console

from tests.adapters.test_cli import clean_environment
from towpath.adapters.cli import _VERBS
from towpath.adapters.cli.live_view import Watch
from towpath.adapters.cli.screen import Screen, id_words, words
from towpath.adapters.cli.streams import shown, shown_lines
from towpath.events import DecisionApplied, StepEnded
from towpath.model import Plan, StepPlan, StepStatus

HOSTILE = {
    "writes the clipboard": "\x1b]52;c;aGk=\x07",
    "clears the screen": "\x1b[2J",
    "sets the title": "\x1b]0;owned\x07",
    "begins a sequence in one byte": "\x9b2J",  # C1: no ESC is needed
    "ends a string in one byte": "\x9d52;c;aGk=\x9c",
    "asks the terminal to answer": "\x1b[6n\x05",  # typed into the shell afterwards
    "overwrites what was said": "fine\rFAILED",
    "takes back": "wrong\b\b\b\b\bright",
    "deletes": "\x7f",
    "is null": "a\x00b",
    "turns the direction": "exe.\u202egpj",
    "isolates a direction": "\u2066user\u2069",
    "marks a direction": "\u200fa\u200e\u061c",
    "is not seen": "a\u200bb\u200c\u200d\u2060\ufeff",
    "is a soft hyphen": "pass\u00adword",
    "ends a line elsewhere": "one\u2028two\u2029three\x85four\x0bfive\x0csix",
    "hides a text in tags": "\U000e0041\U000e0042\U000e007f",
    "fills a place with nothing": "\u3164\u115f\uffa0",
    "is half a pair": "\ud800 \udcff",
    "is annotated": "\ufff9a\ufffab\ufffb",
}
FRIENDLY = [
    "[/x]",
    "[bold]",
    "[link=file:///etc/passwd]x[/link]",
    ":smile:",
    "日本語",
    "é ü ß",
    "עברית",
    "😀",
    "✓",
    "a\\x1b",
]
BARE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e0fff]"
)


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_a_terminal_obeys_is_shown_as_an_escape(kind: str) -> None:
    """Whatever it is, what is left can be printed, in lines as on one line; and nothing of the rest is lost."""
    text = HOSTILE[kind]
    one, several = shown(text), shown_lines(text)
    assert not BARE.search(one + several)
    assert one.isprintable()
    assert "\\" in one
    assert one.encode("ascii", "backslashreplace").decode("unicode_escape") == text
    assert shown(one) == one


@pytest.mark.parametrize("text", FRIENDLY)
def test_other_text_stays_as_it_is(text: str) -> None:
    """In `shown`, and on a console, where it is no markup and no name of an emoji."""
    assert shown(text) == shown_lines(text) == text
    console = Screen()
    with console.capture() as captured:
        console.print(text)
        console.print(words(text))
    assert captured.get().split("\n")[:2] == [text, text]


def test_line_ends_and_tabs_stay_where_lines_are_meant() -> None:
    assert shown_lines("a\r\n\tb\n") == "a\n\tb\n"
    assert shown("a\r\n\tb") == "a\\r\\n\\tb"


@pytest.mark.parametrize("kind", [k for k in HOSTILE if k != "is half a pair"])
def test_a_console_lets_nothing_through_that_nobody_escaped(kind: str) -> None:
    """The last door, for the next verb that is written."""
    from rich.table import Table
    from rich.text import Text

    console = Screen()
    table = Table(box=None)
    table.add_column(HOSTILE[kind])
    table.add_row(Text(HOSTILE[kind]))
    with console.capture() as captured:
        console.print(HOSTILE[kind])
        console.print(table)
    assert not BARE.search(captured.get())


# ---- every verb, in a terminal

CHAIN = """
import logging
from towpath import File, chain, context, step

logging.basicConfig(format="%(levelname)s %(message)s")
BAD = "[/x] [bold] :smile: \\x1b]52;c;aGk=\\x07 \\x9b2J \\u202e \\u2066 \\u200b \\x7f \\r"

@step
def makes() -> dict:
    context().logger.warning("logged %s", BAD)
    return {"text": BAD, "file": File(b"x", filename="[x].txt")}

@step
def breaks(given: dict) -> None:
    raise ValueError(BAD + "\\nsecond line")

@chain
def hostile():
    return breaks(makes())

@chain
def gated():
    return makes().with_approval()
"""
DRIVER = """
import json, sys
from towpath.adapters.cli import streams, print_problems, towpath
from towpath.errors import TowpathError
import click
streams.install()
for arguments in json.load(open(sys.argv[1])):
    streams.write("@@ " + " ".join(map(streams.shown, arguments)) + "\\n")
    try:
        towpath.main(arguments, standalone_mode=False)
    except TowpathError as error:
        print_problems(error.problems)
    except (click.ClickException, SystemExit) as error:
        streams.write(f"refused {streams.shown(error)}\\n")
"""
ELSEWHERE = {
    "serve": "answers by HTTP and logs",
    "worker": "needs a Temporal server",
    "temporal": "gives the terminal to another program",
    "bench": "shows names of its own, and is asked in `tests/test_bench.py`",
    "demo": "shows what ships with it",
}
BAD = "[/x] [bold] :smile: \x1b]52;c;aGk=\x07 \x9b2J \u202e \u2066 \u200b \x7f \r"


def test_ids_leave_room_on_a_narrow_terminal() -> None:
    """The end of an id names it for every verb."""
    name, screen = "01a22bfd-9f66-7237-9df3-4f12d8867d0d", Screen()
    screen.width = 80
    assert id_words(name, screen).plain == "d8867d0d"
    screen.width = 200
    assert id_words(name, screen).plain == name


@pytest.mark.parametrize("item", [None, 0])
def test_a_run_that_waits_in_a_terminal_says_for_what(item: int | None) -> None:
    plan = Plan(name="c", steps=(StepPlan(id="publish", kind="python", target="m:f"),))
    watch = Watch(Console(), plan, "run")
    with watch:
        watch.on_fact("run", StepEnded("row", "publish", item, StepStatus.WAITING_APPROVAL))
        assert "towpath approvals" in _drawn(watch)
        watch.on_fact("run", DecisionApplied("row", "publish", item, "gate", StepStatus.COMPLETED))
        assert "towpath approvals" not in _drawn(watch)


def _drawn(watch: Watch) -> str:
    console = Console(width=80, file=io.StringIO())
    with console.capture() as captured:
        console.print(watch._safely())
    return captured.get()


def seen_in_a_terminal(command: list[str], folder: Path) -> str:
    """What a process writes into a terminal of its own."""
    ours, its = pty.openpty()
    read: list[bytes] = []

    def listen() -> None:
        while True:
            try:
                data = os.read(ours, 65536)
            except OSError:  # the last writer has gone
                return
            if not data:
                return
            read.append(data)

    environment = {**clean_environment(), "TERM": "xterm-256color", "COLUMNS": "250", "PYTHONPATH": str(folder)}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdin=its, stdout=its, stderr=its, start_new_session=True
    )
    os.close(its)
    listener = threading.Thread(target=listen)
    listener.start()
    try:
        process.wait(240)
    finally:
        process.kill()
        listener.join(20)
        os.close(ours)
    return b"".join(read).decode()


def test_no_verb_lets_anything_hostile_reach_a_terminal(tmp_path: Path) -> None:
    """Names, errors, logs, values, files, keys and arguments are hostile; our own colours and cursor moves are not."""
    (tmp_path / "hostile.py").write_text(CHAIN)
    (tmp_path / "bad.yaml").write_text(json.dumps({"name": f"n{BAD}", "steps": [{"id": BAD, "python": BAD}]}))
    (tmp_path / "flows").mkdir()
    graph = {"1": {"class_type": "X", "inputs": {"text": BAD, BAD: BAD}, "_meta": {"title": BAD}}}
    (tmp_path / "flows" / "flow.json").write_text(json.dumps(graph))
    (tmp_path / "file.txt").write_text("y")
    before = [
        ["run", "hostile.py:hostile", "--run-id", "broken-run"],
        ["run", "hostile.py:gated", "--run-id", "gated-run", "--no-wait"],
    ]
    _drive(tmp_path, before)
    _spoil(tmp_path / "towpath.db")
    verbs = [
        ["run", "hostile.py:hostile"],
        ["run", "hostile.py:hostile", "--input", f"{BAD}={BAD}"],
        ["run", f"{BAD}.yaml"],
        ["resume", "broken-run"],
        ["resume", BAD],
        ["rerun", "broken-run", "--from", BAD],
        ["rerun", "broken-run"],
        ["plan", "hostile.py:hostile"],
        ["plan", "hostile.py:hostile", "--mermaid"],
        ["validate", "bad.yaml", "--no-import"],
        ["schema"],
        ["ls"],
        ["ls", "--json"],
        ["ls", "--name", BAD, "--chain", BAD, "--since", BAD],
        ["ls", "--tag", BAD],
        ["show", "broken-run", "-v"],
        ["show", "broken-run", "makes"],
        ["show", "broken-run", "breaks", "--json"],
        ["show", "broken-run", BAD],
        ["logs", "broken-run"],
        ["logs", "broken-run", "--json"],
        ["artifacts"],
        ["artifacts", "broken-run"],
        ["get", "broken-run", "-o", f"out{BAD}".replace("/", "")],
        ["approvals"],
        ["approve", BAD],
        ["approve", "gate-of-a-test", "--by", BAD],
        ["reject", BAD],
        ["edit", BAD, "file.txt"],
        ["edit", "artifact-of-a-test", "file.txt", "--by", BAD],
        ["pause", BAD],
        ["cancel", BAD],
        ["rm", BAD, "--yes"],
        ["keys", "ls"],
        ["keys", "revoke", BAD],
        ["servers", "--server", f"http://127.0.0.1:9/{BAD}"],
        ["workflows", "--folder", "flows"],
        ["workflows", "flow", "--folder", "flows"],
        ["workflows", BAD, "--folder", "flows"],
        ["fsck"],
        [BAD],
        ["ls", f"--{BAD}"],
        ["rm", "broken-run", "--yes"],
    ]
    asked = {arguments[0] for arguments in verbs}
    assert set(_VERBS) - asked == set(ELSEWHERE), "a verb is not asked here"
    text = _drive(tmp_path, verbs)
    assert text.count("@@ ") == len(verbs), text[-3000:]
    assert 'Traceback (most recent call last):\n  File "' not in text.replace("\r", "") or "hostile.py" in text
    for part in text.split("@@ "):
        bare = BARE.search(_without_our_own(part))
        assert bare is None, f"{bare[0]!r} in {part!r}"
    for literal in ("[/x] [bold] :smile:", "\\x1b]52;c;", "\\u202e", "[x].txt", "second line"):
        assert literal in text


def _drive(folder: Path, verbs: list[list[str]]) -> str:
    (folder / "verbs.json").write_text(json.dumps(verbs))
    return seen_in_a_terminal([sys.executable, "-c", DRIVER, "verbs.json"], folder)


def _without_our_own(text: str) -> str:
    """Colours, and what draws a run that goes on: cursor up, erase line, hide and show; line ends of terminals."""
    return re.sub(r"\x1b\[[0-9;]*m|\x1b\[(1A|2K|\?25[lh])|\r(?=\n|\x1b\[|$)", "", text.replace("\r\n", "\n"))


def _spoil(store: Path) -> None:
    """What a server, an operator or another version may have written."""
    with closing(sqlite3.connect(store)) as database, database:
        database.execute("UPDATE chains SET name = ?, status_reason = ? WHERE id = 'broken-run'", (BAD, BAD))
        tags = json.dumps({BAD: BAD})
        database.execute("UPDATE chains SET run_name = ?, tags = ? WHERE id = 'broken-run'", (BAD, tags))
        database.execute(
            "UPDATE artifacts SET id = 'artifact-of-a-test' WHERE rowid = (SELECT min(rowid) FROM artifacts)"
        )
        database.execute(
            "UPDATE artifacts SET name = 'n' || ?, filename = ?, media_type = ?", (BAD, f"{BAD}[x].txt", BAD)
        )
        database.execute("UPDATE workflows SET server_address = ?, prompt_id = ?", (BAD, BAD))
        database.execute(
            "INSERT INTO api_keys (id, name, role, key_sha256, created_at) VALUES ('k', ?, 'viewer', ?, 1)",
            (BAD, "0" * 64),
        )
