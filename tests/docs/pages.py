"""The code blocks of a page of the documentation.

A page is followed from its beginning to its end, in a folder that is empty at first, as a reader would do it:

- `python` with a title is a file. It is run, unless a shell command further down names it.
- `python` without a title is run. If it uses names that it does not define, it continues the block before; else it is a
  program of its own.
- `yaml`, `toml` and `json` are checked, and written if they have a title.
- `console` is a session: each line after `$ ` is run, and must show what stands below it.
- `<!-- not run: REASON -->` before a block leaves it out. `test_pages.py` has the list of these.
"""

from __future__ import annotations

import ast
import builtins
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
_BLOCK = re.compile(
    r"(?:^ *<!-- not run: (?P<why>[^\n]*?) -->\n)?^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_TITLE = re.compile(r'title="([^"]+)"')


@dataclass(frozen=True)
class Block:
    """One fenced block; `start` and `end` are the places of its text in the page."""

    language: str
    title: str
    text: str
    line: int
    why_not: str
    start: int
    end: int

    @property
    def begins(self) -> bool:
        """Is it a program of its own: does it define all names that it uses?"""
        used: set[str] = set()
        known = {*dir(builtins), "__file__", "__name__"}
        for node in ast.walk(ast.parse(self.text)):
            match node:
                case ast.Name():
                    (used if isinstance(node.ctx, ast.Load) else known).add(node.id)
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                    known.add(node.name)
                case ast.arg():
                    known.add(node.arg)
                case ast.alias():
                    known.add((node.asname or node.name).partition(".")[0])
                case ast.ExceptHandler() | ast.MatchAs() | ast.MatchStar():
                    known.add(node.name or "")
                case _:
                    pass
        return used <= known


def page_names() -> list[str]:
    """All pages, by their path below `docs`."""
    return sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


def blocks(text: str) -> list[Block]:
    """The blocks of a page in order."""
    found = []
    for match in _BLOCK.finditer(text):
        language, _, rest = match["info"].partition(" ")
        title = _TITLE.search(rest)
        body = (
            re.sub(rf"^{match['indent']}", "", match["text"], flags=re.MULTILINE) if match["indent"] else match["text"]
        )
        line = text.count("\n", 0, match.start("info")) + 1
        place = match.start("text"), match.end("text")
        found.append(Block(language, title[1] if title else "", body, line, match["why"] or "", *place))
    return found


def read(page: str) -> str:
    """The text of a page."""
    return (DOCS / page).read_text(encoding="utf-8")


def programs(page: str) -> list[tuple[str, str]]:
    """The Python programs of a page, each with a name; what continues a block is one program with it."""
    found: list[tuple[str, str]] = []
    for block in blocks(read(page)):
        if block.language != "python" or block.why_not:
            continue
        if block.title:
            found.append((block.title, block.text))
        elif block.begins or not found:
            found.append((f"program_{block.line}.py", block.text))
        else:
            name, text = found.pop()
            found.append((name, f"{text}\n\n{block.text}"))
    return found
