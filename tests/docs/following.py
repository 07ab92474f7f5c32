"""Follows a page: runs its blocks in one folder, and compares what they show."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import yaml
from jsonschema_rs import validator_for

from towpath.adapters.comfyui.configuration import servers_of, settings_of
from towpath.adapters.http.settings import settings_from
from towpath.adapters.settings import settle
from towpath.chain_file import load_chain
from towpath.chain_schema import schema
from towpath.errors import ChainInvalid, Problem

from .pages import Block, blocks, read

HOME = "/home/you/project"  # what pages show in place of the folder they are followed in
SECONDS = 600  # a machine may be busy; only a command that hangs takes so long
# A reader installs and activates; here all that is there already.
DONE_BEFORE = re.compile(r"(pip install|python -m pip install|python3? -m venv|\. \.venv/bin/activate)\b.*")
_STEP = {"id": "a", "python": "m:f"}  # stands for the steps of a chain of which a page shows another part
_CELL = """
import ast, asyncio, inspect, sys
def _run(path):
    code = compile(open(path).read(), path, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names = sys.modules["__main__"].__dict__
    names["__file__"] = path
    async def main():
        made = eval(code, names)
        if inspect.isawaitable(made):
            await made
    asyncio.run(main())
_run(sys.argv[1])
"""


class Different(AssertionError):
    """A page shows something else than its code does."""


class Reader:
    """Somebody who follows a page in a folder."""

    def __init__(self, page: str, folder: Path) -> None:
        self.page = page
        self.folder = folder
        self.shown: list[tuple[Block, str]] = []  # consoles, with what they really print
        self._program: list[Block] = []
        self._ran = True

    def follow(self) -> None:
        """Run the page. Raises Different, or AssertionError, with the line of the block."""
        todo = [block for block in blocks(read(self.page)) if not block.why_not]
        for number, block in enumerate(todo):
            rest = "\n".join(later.text for later in todo[number:] if later.language == "console")
            try:
                self._block(block, rest)
            except AssertionError as error:
                raise type(error)(f"{self.page}:{block.line}: {error}") from None
        self._run_program()

    def _block(self, block: Block, later: str) -> None:
        match block.language:
            case "python" if block.title:
                self._run_program()
                self._write(block)
                if not _names(later, block.title):
                    self._python(self.folder / block.title, block.text)
            case "python":
                if block.begins or not self._program:
                    self._run_program()
                    self._program = []
                self._program.append(block)
                self._ran = False
            case "console":
                self._run_program()
                self._console(block)
            case "yaml" | "toml" | "json":
                self._write(block)
                _CHECKS[block.language](self.folder, block)
            case "" | "text" | "diff" | "ini" | "make" | "html" | "css" | "dockerfile" | "csv":
                self._write(block)
            case other:
                raise AssertionError(f"a block in the language {other!r}, which no test looks at")

    def _write(self, block: Block) -> None:
        if block.title:
            path = self.folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")

    def _run_program(self) -> None:
        if self._ran:
            return
        self._ran = True
        first = self._program[0]
        path = self.folder / f"program_{first.line}.py"
        text = "\n\n".join(block.text for block in self._program)
        path.write_text(text, encoding="utf-8")
        try:
            self._python(path, text)
        except AssertionError as error:
            raise type(error)(f"{self.page}:{first.line}: {error}") from None

    def _python(self, path: Path, text: str) -> None:
        command = [sys.executable, *(["-c", _CELL] if _awaits(text) else []), path.name]
        code, printed = self._run(command, path.parent)
        assert code == 0, f"ended with {code}\n{printed}"

    def _console(self, block: Block) -> None:
        commands, expected = session(block.text)
        printed = self._session(commands)
        real = "".join(f"$ {command}\n{text}" for command, text in zip(commands, printed, strict=True))
        self.shown.append((block, real))
        for command, shown, text in zip(commands, expected, printed, strict=True):
            if not DONE_BEFORE.fullmatch(command) and not alike(shown, text):
                raise Different(f"$ {command}\n--- shown\n{shown}--- printed\n{text}")

    def _session(self, commands: list[str]) -> list[str]:
        mark = "@@ next command"
        between = f"code=$?; echo; echo '{mark}'; (exit $code)"  # the next command may ask for `$?`
        lines = [":" if DONE_BEFORE.fullmatch(command) else command for command in commands]
        script = "".join(f"{line}\n{between}\n" for line in lines)
        _, printed = self._run(["bash", "-c", script], self.folder)
        printed = re.sub(r"bash: line \d+: +\d+ Killed .*", "Killed", printed)  # on a terminal it is this word alone
        parts = printed.split(f"\n{mark}\n")
        assert len(parts) == len(commands) + 1, printed
        return parts[:-1]

    def _run(self, command: list[str], folder: Path) -> tuple[int, str]:
        """The exit code and all output of a command; nothing that it started outlives it."""
        process = subprocess.Popen(
            command, cwd=folder, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        try:
            printed, _ = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end within {SECONDS} s: {command[-1]}") from None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return process.returncode, printed.replace(str(self.folder), HOME)


def environment() -> dict[str, str]:
    """The environment of a reader: the installed commands, no settings of towpath, a terminal of 100 columns."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TOWPATH_", "PYTHONPATH", "PYTEST_"))}
    clean.pop("DATABASE_URL", None)
    folder = str(Path(sys.executable).parent)
    # Starlette's test client works with the installed httpx, and warns that it prefers another one.
    clean["PYTHONWARNINGS"] = "ignore:Using `httpx` with"
    return clean | {
        "PATH": f"{folder}{os.pathsep}{clean['PATH']}",
        "COLUMNS": "100",
        "NO_COLOR": "1",
        "MPLBACKEND": "agg",
    }


def session(text: str) -> tuple[list[str], list[str]]:
    """The commands of a console, and what it shows after each. A line that ends in a backslash continues."""
    commands: list[str] = []
    shown: list[str] = []
    for line in text.splitlines(keepends=True):
        if commands and commands[-1].endswith("\\") and not shown[-1]:
            commands[-1] += "\n" + line.rstrip("\n")
        elif line.startswith("$ "):
            commands.append(line[2:].rstrip("\n"))
            shown.append("")
        else:
            assert commands, "a console begins with a command: `$ …`"
            shown[-1] += line
    return commands, shown


_LOOSE = (
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "ID"),
    (r"\b[0-9a-f]{64}\b", "DIGEST"),
    (r"\b(?=[0-9a-f]*[0-9])[0-9a-f]{8,32}\b", "ID"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d([.,]\d+)?)?(Z|\+00:00)?", "TIME"),
    (r"\b\d\d:\d\d(:\d\d)?([.,]\d+)?\b", "TIME"),
    (r"\b\d+(\.\d+)? ?(µs|ms|s|m|min|h)\b( \d+ ?s\b)?", "SECONDS"),
    (r"in (less than )?a second|just now", "SECONDS"),
    (r"\b\d+(\.\d+)? (B|kB|MB)\b", "SIZE"),  # of what other libraries write
    (r"[─━╸╺-]{3,}", "───"),
    (r"[ \t]+", " "),
)


def loosely(text: str) -> list[str]:
    """The lines without what differs from run to run: ids, times, how wide a column is."""
    for pattern, word in _LOOSE:
        text = re.sub(pattern, word, text)
    return [line.strip() for line in text.strip().splitlines() if line.strip()]


def alike(shown: str, printed: str) -> bool:
    """Does a session show what was printed? A line `…` stands for any number of lines.

    Lines of steps that work at the same time may stand in another order.
    """
    wanted, real = loosely(shown), loosely(printed)
    if sorted(wanted) == sorted(real):
        return True
    parts = [r"(?:[^\n]*\n)*" if line == "…" else re.escape(line).replace("…", "[^\n]*") + "\n" for line in wanted]
    return re.fullmatch("".join(parts), "".join(f"{line}\n" for line in real)) is not None


def _names(text: str, file: str) -> bool:
    """Does a command use the file, by its path or as a module?"""
    stem = Path(file).stem
    return file in text or (file.endswith(".py") and re.search(rf"\b{re.escape(stem)}\b", text) is not None)


def _awaits(text: str) -> bool:
    """Is it a notebook: does it await outside of a function?"""
    try:
        compile(text, "program", "exec")
    except SyntaxError:
        ast.parse(text)
        return True
    return False


def chain_faults(path: Path) -> list[Problem]:
    """What is wrong with a chain file; but another chain or a workflow beside it need not be there."""
    try:
        load_chain(path, imports=False)
    except ChainInvalid as error:
        return [problem for problem in error.problems if problem.code not in ("E_REF_PATH", "E_CHAIN_FILE")]
    return []


def _yaml(folder: Path, block: Block) -> None:
    found = yaml.safe_load(block.text)
    if isinstance(found, dict) and "name" in found and "steps" in found:
        path = folder / (block.title or f"chain_{block.line}.yaml")
        path.write_text(block.text, encoding="utf-8")
        assert chain_faults(path) == []
        return
    whole = found if isinstance(found, dict) else {"steps": found}
    errors = [str(e) for e in validator_for(schema()).iter_errors({"name": "part", "steps": [_STEP], **whole})]
    assert not errors, errors


def _toml(folder: Path, block: Block) -> None:
    path = folder / (block.title or "towpath.toml")
    path.write_text(block.text, encoding="utf-8")
    if path.name != "towpath.toml":
        tomllib.loads(block.text)
        return
    table = settle(environment={}, file=path)
    with patch.dict(os.environ, dict.fromkeys(re.findall(r"\$\{(\w+)\}", block.text), "a-token")):
        servers_of(table.servers)
    settings_of(table.comfyui)
    settings_from(table.server)
    if not block.title:
        path.unlink()


def _json(folder: Path, block: Block) -> None:
    json.loads(block.text)


_CHECKS = {"yaml": _yaml, "toml": _toml, "json": _json}
