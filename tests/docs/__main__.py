"""`python -m tests.docs PAGE…`: follow pages, and write what their sessions really print into them."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from .following import Different, Reader
from .pages import DOCS, Block, page_names, read


class Writer(Reader):
    """Follows a page to its end, whatever it shows."""

    differs = False

    def follow(self) -> None:
        """Run the page. If a session shows something else, replace what all of them show, so that their ids agree."""
        try:
            super().follow()
        finally:
            text = read(self.page)
            for block, real in reversed(self.shown if self.differs else []):
                text = text[: block.start] + _tidy(real) + text[block.end :]
            (DOCS / self.page).write_text(text, encoding="utf-8")

    def _console(self, block: Block) -> None:
        try:
            super()._console(block)
        except Different:
            self.differs = True


def _tidy(text: str) -> str:
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines() if line.strip())


for page in sys.argv[1:] or page_names():
    with tempfile.TemporaryDirectory() as folder:
        try:
            Writer(page, Path(folder)).follow()
        except AssertionError as error:
            print(f"{page}: {error}", file=sys.stderr)
