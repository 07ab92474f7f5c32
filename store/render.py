"""Renders SQL ahead: `python -m towpath.store.render store/sqlite/rendered.json`. See `rendered.py`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import msgspec

from . import schema, statements
from .rendered import Contents, checksum
from .sqlite.dialect import DIALECT
from .statements import Dialect

_WITH_STATEMENTS = ("runs", "chains", "workflows", "artifacts", "transfers", "approvals", "unattended")
"""These import all modules that make statements. The statements of `fsck` are compiled when it runs."""
_WORDS = ("events.py", "model.py", "store/transitions.py", "store/sqlite/spelling.py")


def contents(dialect: Dialect) -> Contents:
    """Everything that is rendered ahead for one dialect, made from the expressions."""
    for name in _WITH_STATEMENTS:
        importlib.import_module(f"towpath.store.{name}")
    forms = {
        module: [one.rendered(dialect.spelling) for one in found] for module, found in statements.STATEMENTS.items()
    }
    made = schema.definitions(dialect.spelling.core)
    return Contents({source: _sum(source) for source in _sources()}, made, forms)


def _sources() -> list[str]:
    """What the SQL depends on: the modules of the store that make expressions, and the words in them."""
    store = {name: vars(module) for name, module in sys.modules.items() if name.startswith("towpath.store.")}
    made = sorted(name for name, inside in store.items() if "sa" in inside or "t" in inside)
    return [*_WORDS, *(f"{name.removeprefix('towpath.').replace('.', '/')}.py" for name in made)]


def _sum(source: str) -> int:
    found = checksum(source)
    assert found is not None, f"{source} is a source"
    return found


def main(path: str) -> None:
    text = msgspec.json.format(msgspec.json.encode(contents(DIALECT)), indent=1)
    Path(path).write_bytes(text + b"\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
