"""The corpus of hostile and odd inputs: `bad_inputs.json`, group by group, ready for `parametrize`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Case:
    """One input (text, bytes or JSON data) and what must come of it; `codes` are the errors that may."""

    id: str
    input: Any
    expect: str
    verdict: str
    codes: tuple[str, ...] = ()
    note: str = ""


@cache
def _groups() -> dict[str, Any]:
    groups: dict[str, Any] = json.loads(Path(__file__).with_name("bad_inputs.json").read_bytes())["groups"]
    return groups


def _expanded(value: Any) -> Any:
    """Repeated texts and raw bytes written out; other generators (`steps`, `ids`) are left to their tests."""
    if isinstance(value, dict) and value.get("gen") == "repeat":
        return value["prefix"] + value["unit"] * value["times"] + value["suffix"]
    if isinstance(value, dict) and value.keys() == {"bytes_hex"}:
        return bytes.fromhex(value["bytes_hex"])
    return value


def cases(group: str) -> list[Case]:
    """All cases of a group; KeyError for a group that is not there."""
    return [
        Case(
            item["id"],
            _expanded(item["input"]),
            item["expect"],
            item["verdict"],
            tuple(code for code in item.get("codes", ()) if code.startswith("E_")),
            item.get("note", ""),
        )
        for item in _groups()[group]["items"]
    ]
