"""Chain files: chains inside chains, and what large and hostile files cost.

Times are processor time: how busy the machine is with other work does not count.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.test_chain_file import CHAINS, MANY, WORK, clean_path, dict_codes, dict_problems, line, step
from tests.engine.test_chain_file_bindings import three
from towpath.chain_file import ChainFile, load_chain, load_chain_from_dict, load_chain_text
from towpath.chain_schema import schema
from towpath.errors import ChainInvalid, Problem
from towpath.model import MAX_STEPS
from towpath.yaml_source import MAX_PROBLEMS

__all__ = ["clean_path"]


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)


INNER = f"""\
name: the inner one
inputs: {{ photo: {{}}, size: {{ type: integer, default: 3 }} }}
steps: [{{ id: x, python: "{WORK}", parameters: {{ p: "{{{{ inputs.photo }}}}" }} }}]
"""


@pytest.mark.parametrize("name", ["inner", "inner.yaml", "./inner.yaml"])
def test_a_chain_as_a_step(name: str, tmp_path: Path) -> None:
    write(tmp_path, inner=INNER)
    file = load_chain_from_dict(step(chain=name, parameters={"photo": 1}), folder=tmp_path)
    [outer] = file.plan.steps
    assert outer.chain is not None
    assert (outer.kind, outer.target, outer.chain.steps[0].id) == ("chain", "the inner one", "x")
    assert list(file.steps) == [WORK]


def test_inputs_of_a_chain_as_arguments(tmp_path: Path) -> None:
    write(tmp_path, inner=INNER)
    found = dict_problems(step(chain="inner", parameters={"sise": 1}), tmp_path)
    assert {p.code for p in found} == {"E_STEP_ARGUMENTS"}
    assert sorted(p.cure for p in found) == ["did you mean size?", "parameters: {photo: …}"]


def test_a_chain_that_is_not_there(tmp_path: Path) -> None:
    [problem] = dict_problems(step(chain="inner"), tmp_path)
    assert (problem.code, problem.place.field) == ("E_CHAIN_FILE", "chain")


def test_problems_inside_are_reported_once_under_their_own_file(tmp_path: Path) -> None:
    write(
        tmp_path,
        main="name: m\nsteps:\n  - { id: a, chain: left }\n  - { id: b, chain: right }\n  - { id: c, nope: 1 }\n",
        left="name: l\nsteps: [{ id: x, chain: sub/deep }]",
        right="name: r\nsteps: [{ id: x, chain: sub/deep }]",
    )
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub", deep="name: d\nsteps:\n  - { id: x, workflow: ../out }\n")
    with pytest.raises(ChainInvalid) as caught:
        load_chain(tmp_path / "main.yaml")
    found = [(p.place.file, p.place.line, p.code) for p in caught.value.problems]
    main, deep = str(tmp_path / "main.yaml"), str(tmp_path / "sub/deep.yaml")
    assert found == [(main, 5, "E_STEP_KIND"), (main, 5, "E_FIELD_UNKNOWN"), (deep, 3, "E_REF_PATH")]


def test_a_chain_that_contains_itself(tmp_path: Path) -> None:
    write(tmp_path, a="name: a\nsteps: [{ id: x, chain: b }]", b="name: b\nsteps: [{ id: x, chain: a }]")
    with pytest.raises(ChainInvalid) as caught:
        load_chain(tmp_path / "a.yaml")
    [problem] = caught.value.problems
    assert (problem.code, problem.place.file) == ("E_CHAIN_CYCLE", str(tmp_path / "b.yaml"))
    assert "a.yaml -> b.yaml -> a.yaml" in problem.message


def test_chains_inside_each_other_are_limited_in_depth_and_size(tmp_path: Path) -> None:
    for i in range(100):
        write(tmp_path, **{f"c{i}": f"name: c\nsteps: [{{ id: x, chain: c{i + 1} }}, {{ id: y, chain: c{i + 1} }}]"})
    write(tmp_path, c100="name: c\nsteps: [{ id: x, workflow: w }]")
    assert load_chain(tmp_path / "c93.yaml").plan
    for i in range(2_000):
        write(tmp_path, **{f"l{i}": f"name: l\nsteps: [{{ id: x, chain: l{i + 1} }}]"})
    assert dict_codes(step(chain="l0"), tmp_path) == ["E_CHAIN_DEPTH"]
    for i in range(5):
        write(tmp_path, **{f"w{i}": f"name: w\nsteps: [{{ id: x, chain: w{i + 1} }}]"})
    write(tmp_path, w5="name: w\nsteps: [{ id: x, chain: c91 }]")
    for deep in ("w0", "c91"):
        assert load_chain_from_dict(step(chain=deep), folder=tmp_path).plan
    write(tmp_path, w5="name: w\nsteps: [{ id: x, chain: c87 }]")
    known_first = {"steps": [{"id": "a", "chain": "c87"}, {"id": "b", "chain": "w0"}]}
    assert dict_codes(known_first, tmp_path) == ["E_CHAIN_DEPTH"]
    start = time.process_time()
    with pytest.raises(ChainInvalid, match="E_CHAIN_DEPTH"):
        load_chain(tmp_path / "c0.yaml")
    with pytest.raises(ChainInvalid, match="E_CHAIN_SIZE"):
        load_chain(tmp_path / "c83.yaml")
    assert time.process_time() - start < 2


# -- size and time


def seconds_for(data: dict[str, Any]) -> float:
    start = time.process_time()
    load_chain_from_dict(data)
    return time.process_time() - start


def test_long_chains_load_in_linear_time() -> None:
    seconds_for(line(10))
    small = min(seconds_for(line(1_000)) for _ in range(2))
    large = seconds_for(line(10_000))
    assert large < 25 * small + 0.5


def test_long_references_are_checked_in_linear_time() -> None:
    def far(number: int) -> dict[str, Any]:
        data = line(number)
        for i, raw in enumerate(data["steps"][2:]):
            raw["parameters"]["far"] = f"{{{{ s0.output }}}} {{{{ s{i}.output }}}}"
        return data

    small = min(seconds_for(far(1_000)) for _ in range(2))
    assert seconds_for(far(10_000)) < 25 * small + 0.5


def test_a_long_circle_is_found_without_recursion() -> None:
    [problem] = dict_problems(line(10_000, depends_on=["s9999"]))
    assert problem.code == "E_CHAIN_CYCLE"


def test_every_circle_is_found() -> None:
    pairs = [(f"a{i}", f"b{i}") for i in range(5)]
    steps = [{"id": x, "python": WORK, "depends_on": [y]} for a, b in pairs for x, y in ((a, b), (b, a))]
    assert dict_codes({"steps": steps}) == ["E_CHAIN_CYCLE"] * 5


def test_many_wrong_steps_are_refused_quickly() -> None:
    data = line(10_000)
    for raw in data["steps"]:
        raw["parameters"] = {"x": "{{ nobody.output }}", "y": "{{ 7*7 }}"}
        raw["depends_on"] = ["nobody"]
    start = time.process_time()
    assert len(dict_problems(data)) == MAX_PROBLEMS
    assert time.process_time() - start < 3


def test_the_most_steps_a_chain_may_have() -> None:
    assert dict_codes({"steps": [{}] * (MAX_STEPS + 1)}) == ["E_CHAIN_SIZE"]


# -- anything


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["a", "b", "{{ a.output }}", "{{ item }}", "a.status == 'failed'", WORK, "missing", "2s"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["id", "$ref", "timeout", "attempts", "x"]), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


STEP = st.dictionaries(st.sampled_from([*schema()["definitions"]["step"]["properties"], "x"]), JUNK, max_size=6)


@settings(max_examples=300, deadline=None)
@given(st.lists(STEP, max_size=3), st.dictionaries(st.sampled_from(list(schema()["properties"])), JUNK, max_size=3))
def test_junk_is_loaded_or_refused(steps: list[dict[str, Any]], top: dict[str, Any]) -> None:
    data: dict[str, Any] = three()
    for raw, junk in zip(data["steps"], steps, strict=False):
        raw.update(junk)
    data.update(top)
    refused: tuple[Problem, ...] = ()
    try:
        assert isinstance(load_chain_from_dict(data, folder=CHAINS), ChainFile)
    except ChainInvalid as error:
        refused = error.problems
    assert all(p.code.startswith("E_") and p.message for p in refused)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_mutated_file_is_loaded_or_refused(data: st.DataObject) -> None:
    content = bytearray(MANY.encode() if data.draw(st.booleans()) else (CHAINS / "design.yaml").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    refused: tuple[Problem, ...] = ()
    try:
        load_chain_text(bytes(content), folder=CHAINS, source="m", imports=False)
    except ChainInvalid as error:
        refused = error.problems
    assert all(p.place.line >= 1 for p in refused)
