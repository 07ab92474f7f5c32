"""Text that reaches a file input inside a chain is text: it opens nothing, whatever it names and wherever it is from.

A test module takes the suite with `from tests.conformance.paths import *` and gives `open_engine` and `store`, as
for `adapter.py`. The canary lies outside the store: none of its bytes may be in it afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from towpath import Artifact, Engine, InputInvalid, load_chain, step
from towpath.model import ChainStatus

OpenEngine = Callable[..., AbstractAsyncContextManager[Engine]]

CANARY = "canary-8b1f6c"

pytestmark = pytest.mark.anyio


@step
async def size(f: Artifact) -> int:
    return f.size


@step
async def tell(text: str) -> dict[str, Any]:
    """The text at several depths."""
    return {"text": text, "deep": [{"of": text}], "list": [text, text]}


@step
async def find(text: str) -> Path:
    """A step may read what it likes: its code runs here."""
    return Path(text)


INNER = """
name: inner
inputs: { f: { type: file } }
steps:
  - { id: read, python: "tests.conformance.paths:size", parameters: { f: "{{ inputs.f }}" } }
"""

MIDDLE = """
name: middle
inputs: { f: { type: string } }
steps:
  - { id: sub, chain: inner, parameters: { f: "{{ inputs.f }}" } }
"""

OUTER = """
name: outer
inputs: {{ t: {{ type: string }}, any: {{ type: json, default: null }} }}
steps:
  - {{ id: told, python: "tests.conformance.paths:tell", parameters: {{ text: "{{{{ inputs.t }}}}" }} }}
  - {step}
"""

_AFTER = "{ id: sub, depends_on: [told], chain: inner, "
_FED = (
    "{ id: sub, depends_on: [told], chain: inner, foreach: '{{ told.output.list }}', parameters: { f: '{{ item }}' } }"
)
_GIVEN = "{ id: sub, chain: inner, foreach: '{{ inputs.any.deep }}', parameters: { f: '{{ item }}' } }"
WAYS = {
    # The text comes from the author, from the caller, from a step, from an item: none of it is a path.
    "what the chain says": "{ id: sub, chain: inner, parameters: { f: '%s' } }",
    "an address of the chain": "{ id: sub, chain: inner, parameters: { f: 'file://%s' } }",
    "an input": "{ id: sub, chain: inner, parameters: { f: '{{ inputs.t }}' } }",
    "a part of an input": "{ id: sub, chain: inner, parameters: { f: '{{ inputs.any.deep[0] }}' } }",
    "a text put together": "{ id: sub, chain: inner, parameters: { f: '/{{ inputs.any.bare }}' } }",
    "the value of a step": _AFTER + "parameters: { f: '{{ told.output.text }}' } }",
    "a deep value of a step": _AFTER + "parameters: { f: '{{ told.output.deep[0].of }}' } }",
    "an item": _FED,
    "an item of an input": _GIVEN,
    "a chain in a chain": "{ id: sub, chain: middle, parameters: { f: '{{ inputs.t }}' } }",
}


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file outside the store that must not be read."""
    path = tmp_path / "outside" / "canary.txt"
    path.parent.mkdir()
    path.write_text(CANARY)
    return path


@pytest.fixture
def chains(tmp_path: Path) -> Path:
    folder = tmp_path / "chains"
    folder.mkdir()
    (folder / "inner.yaml").write_text(INNER)
    (folder / "middle.yaml").write_text(MIDDLE)
    return folder


def kept_nothing(store: Path) -> None:
    """Is none of the canary's bytes in the store, its journal or its blobs?"""
    for path in (store.parent, *store.parent.rglob("*")):
        if path.is_file() and not {"outside", "chains"} & set(path.parts):
            assert CANARY.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("way", WAYS)
async def test_text_opens_no_file_inside_a_chain(
    open_engine: OpenEngine, store: Path, chains: Path, canary: Path, way: str
) -> None:
    step_text = WAYS[way].replace("%s", str(canary))
    (chains / "outer.yaml").write_text(OUTER.format(step=step_text))
    given = {"deep": [str(canary)], "bare": str(canary).lstrip("/")}
    async with open_engine() as engine:
        run = await engine.run(load_chain(chains / "outer.yaml"), inputs={"t": str(canary), "any": given}, check=False)
        assert run.status in (ChainStatus.FAILED, ChainStatus.PARTIAL)
        assert run["sub"].status == "failed"
        found = await engine.get_workflows_by_chain(run.id)
        codes = {one.error_code for one in found if one.step_id == "sub"}
        if way == "a chain in a chain":
            (inner,) = [one for one in await engine.list_chains() if one.name == "middle"]
            codes = {one.error_code for one in await engine.get_workflows_by_chain(inner.id)}
        assert "E_INPUT_TYPE" in codes
    kept_nothing(store)


@pytest.mark.parametrize("text", ["canary.txt", "./canary.txt", "../outside/canary.txt", "link", "~", "", "/dev/zero"])
async def test_no_form_of_a_path_is_opened(
    open_engine: OpenEngine, store: Path, chains: Path, canary: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative, by a link, the home, nothing, something endless: the text is not looked at."""
    (chains / "link").symlink_to(canary)
    monkeypatch.chdir(canary.parent)
    (chains / "outer.yaml").write_text(OUTER.format(step=WAYS["an input"]))
    async with open_engine() as engine:
        run = await engine.run(load_chain(chains / "outer.yaml"), inputs={"t": text}, check=False)
        found = await engine.get_workflows_by_chain(run.id)
        assert {one.step_id: one.error_code for one in found}["sub"] == "E_INPUT_TYPE"
    kept_nothing(store)


async def test_parameters_of_a_rerun_and_of_a_decision_are_text(
    open_engine: OpenEngine, store: Path, chains: Path, canary: Path
) -> None:
    """The same on the command line: a file that a person may read is given as an input."""
    asks = "requires_approval: true, approval: { max_retries: 1 }"
    gated = "{ id: sub, chain: inner, parameters: { f: '{{ inputs.any }}' }, " + asks + " }"
    (chains / "outer.yaml").write_text(OUTER.format(step=gated).replace("type: json, default: null", "type: file"))
    photo = chains / "photo.txt"
    photo.write_text("a photo")
    async with open_engine() as engine:
        chain = load_chain(chains / "outer.yaml")
        run = await engine.run(chain, inputs={"t": "x", "any": photo})
        (gate,) = await engine.approvals(run.id)
        await engine.reject(gate, by="kim", action="regenerate", parameters={"f": str(canary)})
        again = await engine.resume(run.id, check=False) if not (await engine.snapshot(run.id)).status.final else None
        over = again or await engine.snapshot(run.id)
        assert over["sub"].status == "failed"
        rerun = await engine.rerun(run.id, parameters={"sub.f": str(canary)}, check=False)
        assert rerun["sub"].status == "failed"
    kept_nothing(store)


async def test_who_may_read_paths_still_does(
    open_engine: OpenEngine, store: Path, chains: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script's input, a path that a step returns, and what the author of a chain on this machine wrote."""
    returned = '{ id: found, python: "tests.conformance.paths:find", parameters: { text: "{{ inputs.t }}" } }'
    uses = "{ id: sub, depends_on: [found], chain: inner, parameters: { f: '{{ found.output }}' } }"
    (chains / "outer.yaml").write_text(OUTER.format(step=f"{returned}\n  - {uses}"))
    (chains / "authored.yaml").write_text(INNER.replace("type: file", f"type: file, default: '{canary}'"))
    (chains / "sourced.yaml").write_text(INNER.replace("type: file", "type: file, source: ../outside/canary.txt"))
    both = "{ id: sub, chain: authored }\n  - { id: too, chain: sourced }"
    (chains / "both.yaml").write_text(OUTER.format(step=both))
    async with open_engine() as engine:
        for given in (str(canary), canary):
            run = await engine.run(load_chain(chains / "inner.yaml"), inputs={"f": given})
            assert run["read"].value == len(CANARY)
        run = await engine.run(load_chain(chains / "outer.yaml"), inputs={"t": str(canary)})
        assert run.status == ChainStatus.COMPLETED
        run = await engine.run(load_chain(chains / "both.yaml"), inputs={"t": "x"})
        assert run.status == ChainStatus.COMPLETED
        again = await engine.rerun(run.id, inputs={"t": "y"})
        assert again.status == ChainStatus.COMPLETED
        with pytest.raises(InputInvalid):
            await engine.run(load_chain(chains / "inner.yaml"), inputs={"f": 3})
