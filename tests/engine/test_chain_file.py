"""Chain files: the corpus, and every key on its way to the plan."""

from __future__ import annotations

import copy
import os
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.corpus import Case, cases
from towpath.chain_file import ChainFile, load_chain, load_chain_from_dict, load_chain_text
from towpath.chain_schema import schema
from towpath.chains import RESERVED_IDS, STEP_ID
from towpath.errors import ChainInvalid, Problem
from towpath.model import ApprovalPolicy, RetryPolicy, StepPlan
from towpath.retry import MAX_ATTEMPTS, MAX_SECONDS
from towpath.yaml_source import MAX_PROBLEMS

CHAINS = Path(__file__).parent.parent / "chains"
WORK = "tests.engine.chain_steps:work"
SHEET = "tests.engine.chain_steps:sheet"


@pytest.fixture(autouse=True)
def clean_path() -> Iterator[None]:
    """Loading puts folders on sys.path; no test should see those of another."""
    before = list(sys.path)
    yield
    sys.path[:] = before


def loaded(text: str, folder: Path = CHAINS, **options: Any) -> ChainFile:
    return load_chain_text(text.encode(), folder=folder, source="chain.yaml", **options)


def problems(text: str, folder: Path = CHAINS, **options: Any) -> list[Problem]:
    with pytest.raises(ChainInvalid) as caught:
        loaded(text, folder, **options)
    return list(caught.value.problems)


def codes(text: str, folder: Path = CHAINS, **options: Any) -> list[str]:
    return [problem.code for problem in problems(text, folder, **options)]


def dict_problems(data: object, folder: Path = CHAINS) -> list[Problem]:
    with pytest.raises(ChainInvalid) as caught:
        load_chain_from_dict(data, folder=folder)
    return list(caught.value.problems)


def dict_codes(data: object, folder: Path = CHAINS) -> list[str]:
    return [problem.code for problem in dict_problems(data, folder)]


def step(**fields: Any) -> dict[str, Any]:
    """A chain of one step, complete but for these fields."""
    kind = {} if fields.keys() & {"python", "chain", "workflow"} else {"python": WORK}
    return {"steps": [{"id": "a", **kind, **fields}]}


def planned(**fields: Any) -> StepPlan:
    return load_chain_from_dict(step(**fields), folder=CHAINS).plan.steps[0]


def line(number: int, **first: Any) -> dict[str, Any]:
    """Steps in a row, each taking a value from the one before."""
    steps: list[dict[str, Any]] = [{"id": "s0", "python": WORK, **first}]
    for i in range(1, number):
        text = f"{{{{ s{i - 1}.output }}}}"
        steps.append({"id": f"s{i}", "python": WORK, "depends_on": [f"s{i - 1}"], "parameters": {"x": text}})
    return {"steps": steps}


# -- the corpus


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A chain folder with everything that the corpus names in it."""
    folder = tmp_path / "chains"
    folder.mkdir()
    (tmp_path / "outside.json").write_text("{}")
    (folder / "link-to-outside.json").symlink_to(tmp_path / "outside.json")
    os.mkfifo(folder / "fifo")
    return folder


def completed(data: Any) -> Any:
    if not isinstance(data, dict):
        return data
    data = copy.deepcopy(data)
    if isinstance(data["steps"], dict):
        data["steps"] = [{"id": f"s{i}"} for i in range(data["steps"]["times"])]
    for raw in data["steps"]:
        if not raw.keys() & {"workflow", "python", "chain", "run"}:
            raw["python"] = WORK
    return data


@pytest.mark.parametrize("case", cases("chain_shape"), ids=lambda case: case.id)
def test_corpus(case: Case, hostile: Path) -> None:
    load_chain_from_dict(step())  # the imports and the schema are paid for before the clock starts
    data = completed(case.input)
    start = time.process_time()
    if case.verdict == "accept":
        assert load_chain_from_dict(data, folder=hostile).plan.steps[0].id == "items"
    else:
        found = dict_problems(data, hostile)
        assert case.codes[0] in [p.code for p in found]
        assert all(p.message and (p.allowed or p.cure) for p in found)
    assert time.process_time() - start < 1


def test_the_corpus_is_told_what_it_asks_for() -> None:
    [twice] = dict_problems(completed({"steps": [{"id": "a", "depends_on": ["b"]}, {"id": "b", "depends_on": ["a"]}]}))
    assert "a -> b -> a" in twice.message
    [alone] = dict_problems(completed({"steps": [{"id": "a", "depends_on": ["a"]}]}))
    assert "a -> a" in alone.message
    [typo] = dict_problems(step(tiemout=5))
    assert typo.cure == "did you mean timeout?"


ODD_TEXT = {
    "yaml_text-021": {"E_CHAIN_EMPTY"},
    "yaml_text-022": {"E_CHAIN_EMPTY"},
    "yaml_text-023": {"E_CHAIN_EMPTY", "E_FIELD_MISSING", "E_FIELD_UNKNOWN", "E_FIELD_TYPE"},
    "yaml_text-032": {"E_CHAIN_EMPTY"},
}


@pytest.mark.parametrize("case", cases("yaml_text"), ids=lambda case: case.id)
def test_yaml_corpus(case: Case) -> None:
    content = case.input if isinstance(case.input, bytes) else case.input.encode()
    with pytest.raises(ChainInvalid) as caught:
        load_chain_text(content, folder=CHAINS, source="c.yaml")
    found = {problem.code for problem in caught.value.problems}
    if case.id in ODD_TEXT:
        assert found == ODD_TEXT[case.id]
    else:
        assert set(case.codes) & found
    assert all(problem.place.file == "c.yaml" for problem in caught.value.problems)


def test_names_that_look_like_something_else_are_text() -> None:
    assert loaded(f"name: no\nsteps: [{{id: a, python: '{WORK}'}}]").plan.name == "no"
    assert loaded(f"name: 12:30:45\nsteps: [{{id: a, python: '{WORK}'}}]").plan.name == "12:30:45"


@pytest.mark.parametrize("field", ["timeout", "retries", "total_timeout"])
def test_a_leading_zero_is_no_number(field: str) -> None:
    assert codes(f"name: x\nsteps: [{{id: a, python: '{WORK}', {field}: 0777}}]") == ["E_FIELD_TYPE"]


# -- many problems at once, each in its place


MANY = """\
name: x
verison: 1
inputs:
  prompt: { type: string, default: 3 }
steps:
  - id: a
    python: tests.engine.chain_steps:sheet
    parameters: { phto: 1, title: "{{ inputs.promt }}" }
    tiemout: 4
  - id: A
    python: tests.engine.chain_steps:undecorated
    depends_on: [b, zz]
    timeout: -1
  - id: b
    workflow: ../x
    depends_on: [c]
    condition: true
    parameters: { x: "{{ 7*7 }}" }
  - id: c
    run: os:system
    depends_on: [b]
    retry: { attempts: 0 }
    approval: {}
  - 7
  - id: d
    python: no.such.module:x
    foreach: "x {{ b }}"
  - { id: e, workflow: x, chain: y, retries: 1, retry: {} }
"""


def test_all_problems_at_once_in_the_order_of_the_file() -> None:
    found = [(p.place.line, p.code, p.place.step, p.place.field) for p in problems(MANY)]
    assert found == [
        (2, "E_FIELD_UNKNOWN", "", "verison"),
        (4, "E_FIELD_TYPE", "", "inputs.prompt.default"),
        (8, "E_STEP_ARGUMENTS", "a", "parameters"),
        (8, "E_STEP_ARGUMENTS", "a", "parameters.phto"),
        (8, "E_TEMPLATE_UNKNOWN", "a", "parameters.title"),
        (9, "E_FIELD_UNKNOWN", "a", "tiemout"),
        (10, "E_CHAIN_DUPLICATE_STEP", "A", "id"),
        (11, "E_STEP_KIND", "A", "python"),
        (12, "E_CHAIN_UNKNOWN_STEP", "A", "depends_on[1]"),
        (13, "E_FIELD_RANGE", "A", "timeout"),
        (15, "E_REF_PATH", "b", "workflow"),
        (16, "E_CHAIN_CYCLE", "b", "depends_on[0]"),
        (17, "E_FIELD_TYPE", "b", "condition"),
        (18, "E_TEMPLATE_EXPR", "b", "parameters.x"),
        (19, "E_STEP_KIND", "c", ""),
        (20, "E_FIELD_UNKNOWN", "c", "run"),
        (22, "E_FIELD_RANGE", "c", "retry.attempts"),
        (23, "E_STEP_APPROVAL", "c", "approval"),
        (24, "E_FIELD_TYPE", "", "steps[4]"),
        (26, "E_STEP_KIND", "d", "python"),
        (27, "E_FIELD_TYPE", "d", "foreach"),
        (28, "E_STEP_KIND", "e", ""),
        (28, "E_FIELD_CONFLICT", "e", ""),
    ]
    by_line = {p.place.line: p for p in problems(MANY)}
    assert by_line[13].place.column == 14
    assert by_line[13].found == "-1"
    assert [p.place.column for p in problems(MANY) if p.place.line == 8] == [17, 19, 35]
    assert by_line[9].cure == "did you mean timeout?"
    assert "total_timeout" in by_line[9].allowed
    assert "line 6 and on line 10" in by_line[10].message
    assert by_line[8].cure == "did you mean prompt?"
    assert "@step" in by_line[11].cure


def test_no_more_problems_than_anybody_reads() -> None:
    text = "name: x\nsteps:\n" + "".join(f"  - {{ id: s{i}, workflow: x, wrong: 1 }}\n" for i in range(2_000))
    found = problems(text)
    assert [p.place.line for p in found] == list(range(3, 3 + MAX_PROBLEMS))


# -- structure


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"depends_on": "b"}, "E_FIELD_TYPE", "a list"),
    ({"depends_on": [7]}, "E_FIELD_TYPE", "text"),
    ({"timeout": True}, "E_FIELD_TYPE", "30m"),
    ({"timeout": 0}, "E_FIELD_RANGE", "more than 0"),
    ({"timeout": "0s"}, "E_FIELD_RANGE", "more than 0"),
    ({"total_timeout": "9999999d"}, "E_FIELD_RANGE", "ten years"),
    ({"total_timeout": 10**10}, "E_FIELD_RANGE", "at most"),
    ({"timeout": "2 weeks"}, "E_FIELD_TYPE", "30m"),
    ({"retries": -1}, "E_FIELD_RANGE", "at least 0"),
    ({"retries": 1000}, "E_FIELD_RANGE", "at most 999"),
    ({"retries": "3"}, "E_FIELD_TYPE", "a whole number"),
    ({"retries": 1.5}, "E_FIELD_TYPE", "a whole number"),
    ({"retry": {"attempts": 1001}}, "E_FIELD_RANGE", "at most 1000"),
    ({"retry": {"attempts": 2.0}}, "E_FIELD_TYPE", "a whole number"),
    ({"retry": {"delay": "soon"}}, "E_FIELD_TYPE", "500ms"),
    ({"retry": {"delay": "0s"}}, "E_FIELD_RANGE", "more than 0"),
    ({"retry": {"max_delay": -1}}, "E_FIELD_RANGE", "at least 0"),
    ({"retry": {"backoff": 0.5}}, "E_FIELD_RANGE", "at least 1"),
    ({"retry": {"jitter": 1}}, "E_FIELD_TYPE", "true or false"),
    ({"retry": {"atempts": 2}}, "E_FIELD_UNKNOWN", "attempts backoff delay jitter max_delay"),
    ({"retry": 3}, "E_FIELD_TYPE", "a mapping"),
    ({"retry": {}, "retries": 1}, "E_FIELD_CONFLICT", "one of the two"),
    ({"on_item_failure": "ignore"}, "E_FIELD_TYPE", "fail, keep"),
    ({"requires_approval": "yes"}, "E_FIELD_TYPE", "true or false"),
    ({"approval": {}}, "E_STEP_APPROVAL", "requires_approval: true"),
    ({"approval": {}, "requires_approval": False}, "E_STEP_APPROVAL", "requires_approval: true"),
    ({"approval": {"on_rejected": "explode"}, "requires_approval": True}, "E_FIELD_TYPE", "stop, skip, regenerate"),
    ({"approval": {"timeout_hours": 0}, "requires_approval": True}, "E_FIELD_RANGE", "more than 0"),
    ({"approval": {"max_retries": -1}, "requires_approval": True}, "E_FIELD_RANGE", "at least 0"),
    ({"approval": {"timeout": 3}, "requires_approval": True}, "E_FIELD_UNKNOWN", "timeout_hours"),
    ({"requires": {"tags": "a100"}}, "E_FIELD_TYPE", "a list"),
    ({"requires": {"gpu": 1}}, "E_FIELD_UNKNOWN", "tags"),
    ({"parameters": []}, "E_FIELD_TYPE", "a mapping"),
    ({"foreach": 3}, "E_FIELD_TYPE", "a list"),
    ({"foreach": "abc"}, "E_FIELD_TYPE", "one whole {{"),
    ({"foreach": {"a": 1}}, "E_FIELD_TYPE", "a list"),
    ({"foreach": [0] * 100_001}, "E_FIELD_RANGE", "at most 100000"),
    ({"condition": 7}, "E_FIELD_TYPE", "text"),
    ({"cheap": "no"}, "E_FIELD_TYPE", "true or false"),
    ({"python": "os"}, "E_STEP_KIND", "module:function"),
    ({"python": 7}, "E_FIELD_TYPE", "text"),
    ({"python": WORK, "workflow": "x"}, "E_STEP_KIND", "workflow, python, chain"),
    ({"id": "item"}, "E_STEP_ID", "letters"),
    ({"id": "-a"}, "E_STEP_ID", "letters"),
    ({"id": "a" * 101}, "E_STEP_ID", "letters"),
    ({"id": "a\n"}, "E_STEP_ID", "letters"),
    ({"id": "ä"}, "E_STEP_ID", "letters"),
]


@pytest.mark.parametrize(("fields", "code", "allowed"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_field_is_one_problem(fields: dict[str, Any], code: str, allowed: str) -> None:
    [problem] = dict_problems(step(**fields))
    assert problem.code == code
    assert allowed in problem.allowed


TOP: list[tuple[Any, str]] = [
    ({"steps": None}, "E_CHAIN_EMPTY"),
    ({}, "E_CHAIN_EMPTY"),
    ({"steps": {"a": {}}}, "E_FIELD_TYPE"),
    ({**step(), "name": ""}, "E_FIELD_RANGE"),
    ({**step(), "name": 7}, "E_FIELD_TYPE"),
    ({**step(), "concurrency": 0}, "E_FIELD_RANGE"),
    ({**step(), "metadata": "x"}, "E_FIELD_TYPE"),
    ({**step(), "inputs": ["a"]}, "E_FIELD_TYPE"),
    ({**step(), "inputs": {"a b": {}}}, "E_FIELD_TYPE"),
    ({**step(), "inputs": {"a": {"type": "text"}}}, "E_FIELD_TYPE"),
    ({**step(), "inputs": {"a": {"deflaut": 1}}}, "E_FIELD_UNKNOWN"),
    ({**step(), "inputs": {"a": {"type": "integer", "default": 1.5}}}, "E_FIELD_TYPE"),
    ({**step(), "inputs": {"a": {"type": "number", "default": True}}}, "E_FIELD_TYPE"),
    ({**step(), "inputs": {"a": {"type": "boolean", "default": 0}}}, "E_FIELD_TYPE"),
    ({**step(), "inputs": {"a": {"type": "string", "default": None}}}, "E_FIELD_TYPE"),
    ({**step(), "inputs": {"a": {"type": "string", "source": "x.png"}}}, "E_FIELD_TYPE"),
    ({"steps": [{"python": WORK}]}, "E_FIELD_MISSING"),
    (step(parameters={7: 1}), "E_YAML_KEY"),
    (step(parameters={"x": float("nan")}), "E_FIELD_RANGE"),
    (step(parameters={"x": 2**64}), "E_FIELD_RANGE"),
    (step(parameters={"x": b"bytes"}), "E_FIELD_TYPE"),
    (step(parameters={"x": "\ud800"}), "E_YAML_CHAR"),
    ([], "E_YAML_TOP"),
    (None, "E_YAML_TOP"),
]


@pytest.mark.parametrize(("data", "code"), TOP, ids=lambda value: str(value)[:40])
def test_a_wrong_chain_is_one_problem(data: object, code: str) -> None:
    assert dict_codes(data) == [code]


def test_a_name_is_needed_in_a_file_only() -> None:
    assert load_chain_from_dict(step()).plan.name == "chain"
    [problem] = problems(f"steps: [{{ id: a, python: '{WORK}' }}]")
    assert (problem.code, problem.place.line) == ("E_FIELD_MISSING", 1)


def test_data_that_contains_itself_is_refused() -> None:
    data = step(parameters={})
    data["steps"][0]["parameters"]["x"] = data
    assert dict_codes(data) == ["E_YAML_DEPTH"]


def test_a_plan_shares_nothing_with_the_data_it_came_from() -> None:
    data = step(parameters={"x": [1]})
    plan = load_chain_from_dict(data).plan
    data["steps"][0]["parameters"]["x"].append(2)
    assert plan.steps[0].parameters == {"x": [1]}


# -- the schema


def test_the_schema_agrees_with_the_code() -> None:
    step_id = schema()["definitions"]["step"]["properties"]["id"]
    assert step_id["pattern"] == f"^{STEP_ID.pattern}$"
    words = step_id["not"]["anyOf"][1]
    assert set(words["enum"]) == RESERVED_IDS
    assert schema()["definitions"]["duration"]["maximum"] == MAX_SECONDS
    assert schema()["definitions"]["retry"]["properties"]["attempts"]["maximum"] == MAX_ATTEMPTS


def test_the_schema_explains_every_key_and_allows_no_other() -> None:
    def check(node: dict[str, Any], where: str) -> None:
        for name, inner in node.get("properties", {}).items():
            if "$ref" not in inner:
                assert inner.get("title"), f"{where}.{name}"
                assert inner.get("description"), f"{where}.{name}"
                check(inner, f"{where}.{name}")
        if "properties" in node:
            assert node["additionalProperties"] is False, where

    import jsonschema_rs

    whole = schema()
    jsonschema_rs.meta.validate(whole)
    check(whole, "chain")
    for name, definition in whole["definitions"].items():
        check(definition, name)
    assert (
        list(whole["definitions"]["step"]["properties"])
        == (
            "id description workflow python chain parameters depends_on condition foreach on_item_failure "
            "requires_approval approval retry retries retry_on timeout total_timeout limit concurrency process "
            "server requires secret cheap cache"
        ).split()
    )


# -- every key arrives in the plan


def test_chain_keys() -> None:
    data = {
        **step(),
        "name": "n",
        "description": "d",
        "metadata": {"author": "me", "deep": [{"$ref": 1}]},
        "signature": "abc",
        "concurrency": 3,
        "inputs": {
            "a": {"type": "integer", "default": 3.0, "description": "how many"},
            "b": {"source": "b.png", "target": "c.png"},
            "c": {},
            "d": {"type": "boolean", "default": False},
            "e": {"default": None},
        },
    }
    plan = load_chain_from_dict(data, folder=CHAINS).plan
    assert (plan.name, plan.description, plan.concurrency) == ("n", "d", 3)
    assert plan.metadata == {"author": "me", "deep": [{"$ref": 1}], "signature": "abc"}
    assert plan.folder == str(CHAINS)
    got = {i.name: (i.type, i.required, i.default, i.description, i.source, i.target) for i in plan.inputs}
    assert got == {
        "a": ("integer", False, 3, "how many", "", ""),
        "b": ("file", False, None, "", "b.png", "c.png"),
        "c": ("json", True, None, "", "", ""),
        "d": ("boolean", False, False, "", "", ""),
        "e": ("json", False, None, "", "", ""),
    }
    assert isinstance(plan.inputs[0].default, int)


STEP_KEYS: list[tuple[dict[str, Any], str, Any]] = [
    ({"id": "x-1"}, "id", "x-1"),
    ({"description": "d"}, "description", "d"),
    ({"workflow": "w"}, "target", "w"),
    ({"workflow": "w"}, "kind", "workflow"),
    ({"python": WORK}, "target", WORK),
    ({"python": WORK}, "kind", "python"),
    ({"parameters": {"x": [1, {"y": None}]}}, "parameters", {"x": [1, {"y": None}]}),
    ({"condition": "1 == 1"}, "condition", "1 == 1"),
    ({"foreach": [1, 2]}, "foreach", [1, 2]),
    ({"foreach": []}, "mapped", True),
    ({}, "mapped", False),
    ({"foreach": [], "on_item_failure": "keep"}, "on_item_failure", "keep"),
    ({"retries": 1, "retry_on": "OSError"}, "retry_on", ("OSError",)),
    ({"limit": "gpu"}, "limit", "gpu"),
    ({"concurrency": 2}, "concurrency", 2),
    ({"python": WORK, "process": True}, "process", True),
    ({"requires_approval": True}, "approval", ApprovalPolicy()),
    ({"requires_approval": False}, "approval", None),
    (
        {
            "requires_approval": True,
            "approval": {
                "timeout_hours": 1.5,
                "on_rejected": "regenerate",
                "max_retries": 2,
                "timeout_action": "auto_approve",
            },
        },
        "approval",
        ApprovalPolicy("regenerate", 2, 5400.0, "auto_approve"),
    ),
    (
        {"retry": {"attempts": 4, "delay": "500ms", "backoff": 3, "max_delay": 9, "jitter": False}},
        "retry",
        RetryPolicy(4, 0.5, 3, 9, False),
    ),
    ({"retry": {"delay": 0}}, "retry", RetryPolicy(delay=0.0)),
    ({"retries": 2}, "retry", RetryPolicy(attempts=3)),
    ({"retries": 0}, "retry", RetryPolicy(attempts=1)),
    ({}, "retry", RetryPolicy(attempts=1)),
    ({"workflow": "w"}, "retry", RetryPolicy(attempts=3)),
    ({"workflow": "w", "retry": {"delay": 1}}, "retry", RetryPolicy(attempts=3, delay=1.0)),
    ({"workflow": "w", "retries": 0}, "retry", RetryPolicy(attempts=1)),
    ({"timeout": "30m"}, "timeout", 1800.0),
    ({"total_timeout": 90}, "total_timeout", 90.0),
    ({"server": "gpu-1"}, "server", "gpu-1"),
    ({"requires": {"tags": ["a100"]}}, "requires", {"tags": ["a100"]}),
    ({"secret": True}, "secret", True),
    ({"cheap": True}, "cheap", True),
    ({"cache": {"days": 3}}, "cache", {"days": 3}),
]


@pytest.mark.parametrize(("fields", "name", "value"), STEP_KEYS, ids=lambda value: str(value)[:40])
def test_step_keys(fields: dict[str, Any], name: str, value: Any) -> None:
    assert getattr(planned(**fields), name) == value


def test_every_key_of_a_step_is_tested_above() -> None:
    tested = {key for fields, _, _ in STEP_KEYS for key in fields}
    assert schema()["definitions"]["step"]["properties"].keys() - tested == {"chain", "depends_on"}


def test_decorators_give_defaults_and_the_file_overrides_them() -> None:
    name = "tests.engine.chain_steps:settled"
    plain = planned(python=name)
    assert (plain.retry.attempts, plain.timeout, plain.total_timeout) == (5, 9.0, 60.0)
    assert (plain.approval, plain.on_item_failure, plain.cheap) == (ApprovalPolicy(), "keep", True)
    changed = planned(
        python=name, retries=0, timeout=1, total_timeout=2, requires_approval=False, on_item_failure="fail", cheap=False
    )
    assert (changed.retry.attempts, changed.timeout, changed.total_timeout) == (1, 1.0, 2.0)
    assert (changed.approval, changed.on_item_failure, changed.cheap) == (None, "fail", False)
    partly = planned(python=name, retry={"delay": 7})
    assert (partly.retry.attempts, partly.retry.delay) == (5, 7.0)


def test_edges_levels_and_order() -> None:
    plan = load_chain_from_dict(
        {
            "steps": [
                {"id": "c", "python": WORK, "depends_on": ["b", "a", "b"]},
                {"id": "b", "python": WORK, "depends_on": ["a"]},
                {"id": "a", "python": WORK},
            ]
        }
    ).plan
    assert plan.levels == (("a",), ("b",), ("c",))
    assert plan.step("c").depends_on == ("b", "a")


# -- the chains of the seed and of the design


@pytest.mark.parametrize("path", sorted(CHAINS.glob("*.yaml")), ids=lambda path: path.stem)
def test_chains_load_as_they_are(path: Path) -> None:
    assert load_chain(path, imports=False).plan.steps


def test_the_pipeline_of_the_seed() -> None:
    file = load_chain(CHAINS / "image-edit-to-video.yaml")
    plan = file.plan
    assert (file.source, file.steps) == (str(CHAINS / "image-edit-to-video.yaml"), {})
    assert plan.levels == (("extract_frame1", "extract_frame2"), ("edit_frame1", "edit_frame2"), ("create_video",))
    assert plan.step("extract_frame2").parameters["1.skip_first_frames"] == 172
    assert plan.step("edit_frame1").parameters["78.image"] == {"$template": "{{ extract_frame1.output.image }}"}
    assert plan.step("edit_frame1").approval == ApprovalPolicy("regenerate", 2, 86400.0, "auto_reject")
    assert plan.metadata["version"] == "1.0"


def test_the_condition_of_the_seed() -> None:
    assert load_chain(CHAINS / "conditional-video-generation.yaml").plan.step("video3").watches == ("video1", "video2")


def test_the_inputs_of_the_seed() -> None:
    [given] = load_chain(CHAINS / "flux-to-qwen-edit.yaml").plan.inputs
    assert (given.type, given.required, given.source) == ("file", False, "reference.png")


def test_the_chain_of_the_design(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = import_module("towpath.steps")  # another test of this process may have a step of this name
    monkeypatch.setattr(steps, "_registry", dict(steps._registry))
    monkeypatch.setattr(steps, "_ambiguous", set(steps._ambiguous))
    (tmp_path / "mypkg").mkdir()
    code = "from towpath import step\n\n@step\ndef report(photo, title): ...\n"
    (tmp_path / "mypkg" / "steps.py").write_text(code)
    (tmp_path / "design.yaml").write_bytes((CHAINS / "design.yaml").read_bytes())
    file = load_chain(tmp_path / "design.yaml")
    report = file.plan.step("report")
    assert report.foreach == {"$template": "{{ edit.output.files }}"}
    assert report.mapped
    assert report.parameters["photo"] == {"$template": "{{ item }}"}
    assert list(file.steps) == ["mypkg.steps:report"]
    assert sys.path[0] == str(tmp_path)
    edit = file.plan.step("edit")
    assert (edit.retry.attempts, edit.timeout, edit.server, edit.watches) == (3, 1800.0, "gpu-1", ("frame",))
