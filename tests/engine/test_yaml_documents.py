"""Strict YAML: any bytes are a document or refused, and the positions point at the text."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.test_yaml_source import SOURCE
from towpath import yaml_source
from towpath.errors import ChainInvalid, Place
from towpath.yaml_source import Document, read_yaml

PIECES = [
    "<<",
    ": ",
    "- ",
    "\n  ",
    "---\n",
    "...\n",
    "!!str ",
    "%YAML 1.2\n",
    "%TAG ! x\n",
    ".nan",
    "0x",
    "1e9",
]


PIECES += [*"ab01-?:,[]{}#&*!|>'\"%@` \t\n\r.~\\\0\x85\ufeff😀", "\\U", "\\ud800", "\\0"]
YAML_LIKE = st.lists(st.sampled_from(PIECES), max_size=60).map("".join)
ANY_BYTES = st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode), YAML_LIKE.map(str.encode))


@pytest.mark.parametrize("parser", [yaml.CSafeLoader, yaml.SafeLoader])
@given(content=ANY_BYTES)
def test_anything_is_a_document_or_invalid(parser: Any, content: bytes) -> None:
    before, refused = yaml_source._LOADER, None
    yaml_source._LOADER = parser  # by hand: hypothesis forbids fixtures that live as long as one example
    try:
        document = read_yaml(content, SOURCE)
    except ChainInvalid as error:
        refused = error
    finally:
        yaml_source._LOADER = before
    if refused:
        assert {p.code for p in refused.problems} <= yaml_source._SAYS.keys()
        return
    assert isinstance(document, Document)
    json.dumps(document.data, allow_nan=False)
    assert set(document.positions) == set(paths(document.data))


class PlainDumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


INTEGERS = st.integers(-(2**63), 2**63 - 1)
ONLY_IN_1_2 = re.compile(r"[-+]?[0-9.]+[eE][-+]?[0-9]+|0o[0-7]+")  # numbers in YAML 1.2, text for PyYAML
TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=126)).filter(lambda text: not ONLY_IN_1_2.fullmatch(text))
SCALARS = st.none() | st.booleans() | INTEGERS | TEXTS
KEYS = st.text("ab<", min_size=1).filter(lambda key: key != "<<")
PLAIN = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


@given(value=PLAIN, flow=st.sampled_from([True, False, None]))
def test_what_yaml_dumps_comes_back_with_all_positions(value: object, flow: bool | None) -> None:
    text = yaml.dump({"top": value}, Dumper=PlainDumper, default_flow_style=flow)
    document = read_yaml(text.encode(), SOURCE)
    assert document.data == {"top": value}
    assert set(document.positions) == set(paths(document.data))


def paths(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(inner for key, item in entries for inner in paths(item, (*path, key)))]


CHAIN = """\
# a realistic chain
name: image-edit-to-video
inputs: { prompt: { type: string, default: "more vivid" }, width: {default: 256} }
steps:
  - id: frame
    workflow: imageSave
  - id: edit
    workflow: qwen_image_edit
    depends_on: [frame]
    condition: "{{ frame.status == 'completed' }}"
    parameters:                             # <node id>.<input>
      78.image: "{{ frame.output.image }}"
      111.prompt: "我 {{ inputs.prompt }}"
    requires_approval: true
    retry: { attempts: 3, delay: 2s, backoff: 2.0 }
  - id: report
    description: |
      two
      lines
    depends_on:
    - edit
    - frame
    title:
"""


def test_positions_point_at_the_text() -> None:
    document = read_yaml(CHAIN.encode(), SOURCE)
    lines = CHAIN.splitlines()
    assert set(document.positions) == set(paths(document.data))
    assert set(document.key_positions) == {p for p in paths(document.data) if p and isinstance(p[-1], str)}
    for path, (line, column) in document.key_positions.items():
        assert lines[line - 1][column - 1 :].startswith(f"{path[-1]}:")
        assert (line, column) < document.positions[path] or document.positions[path][0] > line
    value: Any
    for path, (line, column) in document.positions.items():
        value = document.data
        for part in path:
            value = value[part]
        rest = lines[line - 1][column - 1 :]
        if isinstance(value, str):
            assert rest.startswith(("|", value, f'"{value}"'))
        elif type(value) in (int, float, bool):
            assert rest.startswith(str(value).lower())
    assert document.positions[()] == (2, 1)
    assert document.positions["steps", 1, "parameters", "111.prompt"] == (13, 19)
    assert document.positions["steps", 2, "depends_on", 1] == (22, 7)
    assert document.key_positions["steps", 1, "retry", "backoff"] == (15, 38)


def test_the_place_of_an_unknown_path_is_its_nearest_ancestor() -> None:
    document = read_yaml(CHAIN.encode(), SOURCE)
    assert document.place(["steps", 0, "id"]) == Place(SOURCE, 5, 9)
    assert document.place(("steps", 0, "timeout", "x"), step="frame", field="timeout") == Place(
        SOURCE, 5, 5, "frame", "timeout"
    )
    assert document.place(("nothing",)) == document.place(()) == Place(SOURCE, 2, 1)
