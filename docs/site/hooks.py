"""What MkDocs calls while it builds the site: reference pages from the code, and links that work there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import reference
from mkdocs.structure.files import File

CODE = re.compile(r"(?<![\w#\[/`])`(E_[A-Z][A-Z0-9_]+)`(?!\])")
LISTED = re.compile(r"^\| `(E_[A-Z0-9_]+)` \|", re.MULTILINE)
LISTED_CODES = frozenset(LISTED.findall((Path(__file__).parents[1] / "errors.md").read_text(encoding="utf-8")))
OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+([^)#]+)(?:#[^)]*)?\)")
FENCE = re.compile(r"(^ *```.*?^ *```)", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"^ *<!-- not run:.*?-->\n", re.MULTILINE)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made of the code, the logo and the colours."""
    for path, made in reference.PAGES.items():
        files.append(File.generated(config, path, content=made()))
    for path, source in reference.ASSETS.items():
        files.append(File.generated(config, path, content=source.read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Each error code leads to its line in the list, and links out of `docs` become names of files."""
    up = "../" * page.file.src_uri.count("/")
    texts = FENCE.split(NOT_RUN.sub("", markdown))
    for number in range(0, len(texts), 2):  # what is between the code blocks
        texts[number] = _prose(texts[number], page.file.src_uri, up)
    return "".join(texts)


def on_post_build(config: Any) -> None:
    """For pages that are opened as files: these cannot fetch the index of the search, but load it as a script."""
    index = Path(config["site_dir"], "search/search_index.json")
    index.with_suffix(".js").write_text(f"var __index = {index.read_text(encoding='utf-8')}", encoding="utf-8")


def _prose(text: str, page: str, up: str) -> str:
    if page == "errors.md":
        text = LISTED.sub(r'| <a id="\1"></a>`\1` |', text)
    elif page != "reference/python.md":
        text = CODE.sub(
            lambda code: f"[{code[0]}]({up}errors.md#{code[1]})" if code[1] in LISTED_CODES else code[0], text
        )
    inside = page.count("/")

    def named(link: re.Match[str]) -> str:
        levels = link[0].count("../")
        return link[0] if levels <= inside else f"{link[1]} (`{link[2]}` in the repository)"

    return OUTSIDE.sub(named, text)
