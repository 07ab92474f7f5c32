"""Parameters: which key means which input, which value fits, and a graph that never changes under the feet."""

from __future__ import annotations

import copy
import posixpath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.adapters.comfyui.parameters import apply_parameters, check_parameters, with_own_prefixes
from towpath.adapters.comfyui.workflow_files import Parameter, Workflow
from towpath.errors import InputInvalid, Problem


def parameter(key: str, kind: str = "str", **more: Any) -> Parameter:
    node_id, _, input_key = key.partition(".")
    return Parameter(key=key, node_id=node_id, input_key=input_key, type=kind, **more)


def video() -> Workflow:
    """Frames of a video, prompted and saved; the format is frozen."""
    graph: dict[str, Any] = {
        "1": {
            "class_type": "VHS_LoadVideo",
            "inputs": {"video": "input.mp4", "frame_load_cap": 1, "force_rate": 0.0, "format": "Wan", "loop": False},
            "_meta": {"title": "Load Video v1.5"},
        },
        "93": {"class_type": "CLIPTextEncode", "inputs": {"text": "a dragon"}, "_meta": {"title": "Text"}},
        "94": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry"}, "_meta": {"title": "Text"}},
        "57:8": {"class_type": "Resize", "inputs": {"type.width": 64, "points": {"x": 1}, "image": ["1", 0]}},
        "2": {"class_type": "SaveImage", "inputs": {"filename_prefix": "ComfyUI", "images": ["57:8", 0]}},
    }
    parameters = [
        parameter("1.video"),
        parameter("1.frame_load_cap", "int"),
        parameter("1.force_rate", "float"),
        parameter("1.loop", "bool"),
        parameter("93.text"),
        parameter("94.text"),
        parameter("57:8.type.width", "int"),
        parameter("57:8.points", "any"),
        parameter("2.filename_prefix"),
    ]
    return Workflow("imageSave", graph, {p.key: p for p in parameters})


def problem_of(key: str, value: Any = "x", workflow: Workflow | None = None) -> Problem:
    [problem] = check_parameters(workflow or video(), {key: value}, known=lambda _: True)
    with pytest.raises(InputInvalid) as caught:
        apply_parameters(workflow or video(), {key: value})
    assert caught.value.problem == problem, "both say the same"
    assert problem.place.field.startswith("parameters.")
    return problem


# ---- keys


@pytest.mark.parametrize(
    ("key", "node_id", "input_key"),
    [
        ("1.video", "1", "video"),
        ("57:8.type.width", "57:8", "type.width"),
        ("Load Video v1.5.video", "1", "video"),
        ("SaveImage.filename_prefix", "2", "filename_prefix"),
        ("Resize.type.width", "57:8", "type.width"),
    ],
)
def test_S4_7_an_input_is_named_by_node_or_title(key: str, node_id: str, input_key: str) -> None:
    value: Any = 128 if input_key == "type.width" else "new"
    assert check_parameters(video(), {key: value}, known=lambda _: True) == []
    assert apply_parameters(video(), {key: value})[node_id]["inputs"][input_key] == value


def test_S4_7_a_title_of_two_nodes_is_refused_with_their_ids() -> None:
    problem = problem_of("Text.text")
    assert problem.code == "E_PARAMETER_AMBIGUOUS"
    assert problem.allowed == "93.text 94.text"


def test_S4_7_one_input_cannot_be_set_twice() -> None:
    given_twice = {"1.video": "a", "Load Video v1.5.video": "b"}
    [problem] = check_parameters(video(), given_twice, known=lambda _: True)
    assert problem.code == "E_PARAMETER_AMBIGUOUS"
    assert "1.video" in problem.message


def test_S4_7_an_unknown_key_gets_the_allowed_ones_and_a_guess() -> None:
    problem = problem_of("1.vidoe")
    assert problem.code == "E_PARAMETER_UNKNOWN"
    assert problem.allowed.split()[:4] == ["1.video", "1.frame_load_cap", "1.force_rate", "1.loop"]
    assert len(problem.allowed.split()) == 9
    assert problem.cure == "did you mean 1.video?"
    assert problem.place.field == "parameters.1.vidoe"


def test_S4_7_at_most_twenty_allowed_keys_are_listed() -> None:
    inputs = {f"input_{i}": i for i in range(50)}
    parameters = {f"5.{name}": parameter(f"5.{name}", "int") for name in inputs}
    workflow = Workflow("large", {"5": {"class_type": "A", "inputs": inputs}}, parameters)
    problem = problem_of("6.nothing", workflow=workflow)
    assert problem.allowed.startswith("5.input_0 5.input_1 ")
    assert problem.allowed.endswith("5.input_19 … and 30 more")


@pytest.mark.parametrize(
    ("key", "allowed", "cure"),
    [
        ("text", "93.text 94.text", "did you mean 93.text?"),
        ("input_video", "1.video", "did you mean 1.video?"),
        ("nothing_like_it", "1.video 1.frame_load_cap", ""),
    ],
)
def test_S4_7_a_key_without_a_node_is_told_how_keys_are(key: str, allowed: str, cure: str) -> None:
    problem = problem_of(key)
    assert problem.code == "E_PARAMETER_UNKNOWN"
    assert "<node id>.<input>" in problem.message
    assert problem.allowed.startswith(allowed)
    assert problem.cure == cure


def test_S4_7_a_frozen_input_is_said_to_be_frozen() -> None:
    problem = problem_of("1.format")
    assert (problem.code, "frozen" in problem.message) == ("E_PARAMETER_UNKNOWN", True)
    assert "imageSave_overrides.json" in problem.cure


def test_S4_7_a_linked_input_cannot_be_set() -> None:
    problem = problem_of("2.images")
    assert problem.code == "E_PARAMETER_LINK"
    assert "node 57:8" in problem.message


def test_S4_7_a_key_of_an_override_file_goes_first() -> None:
    """The override file may give an input a name of its own; its usual key still works."""
    workflow = video()
    alias = Parameter(key="prompt", node_id="93", input_key="text", type="str")
    renamed = Workflow("x", workflow.graph, {"prompt": alias})
    for key in ("prompt", "93.text"):
        assert apply_parameters(renamed, {key: "new"})["93"]["inputs"]["text"] == "new"


# ---- values


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("93.text", "007"),
        ("93.text", ""),
        ("1.frame_load_cap", 0),
        ("1.frame_load_cap", 2**64 - 1),
        ("1.force_rate", 24),
        ("1.force_rate", 23.976),
        ("1.loop", True),
        ("57:8.points", None),
        ("57:8.points", {"a": [1, "b"]}),
    ],
)
def test_S4_7_values_that_fit(key: str, value: Any) -> None:
    node_id, _, input_key = key.partition(".")
    written = apply_parameters(video(), {key: value})[node_id]["inputs"][input_key]
    assert (written, type(written)) == (value, type(value))


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("1.frame_load_cap", True, "true or false"),
        ("1.frame_load_cap", "5", "text"),
        ("1.frame_load_cap", 5.0, "a fraction"),
        ("1.frame_load_cap", 2**64, "64 bits"),
        pytest.param("1.frame_load_cap", 10**6000, "64 bits", id="too large to be shown"),
        ("1.force_rate", True, "true or false"),
        ("1.force_rate", "24", "text"),
        ("1.force_rate", float("nan"), "not finite"),
        ("57:8.points", [1, [float("inf")]], "not finite"),
        ("57:8.points", {"a": b"bytes"}, "not JSON"),
        ("1.loop", 1, "an integer"),
        ("1.loop", "true", "text"),
        ("93.text", 7, "an integer"),
        ("93.text", None, "nothing"),
        ("93.text", ["a"], "a list"),
    ],
)
def test_S4_7_values_that_do_not_fit(key: str, value: Any, says: str) -> None:
    problem = problem_of(key, value)
    assert problem.code == "E_PARAMETER_TYPE"
    assert says in problem.message


def test_S4_7_choices_of_the_override_file_hold() -> None:
    chosen = parameter("1.format", choices=("Wan", "AnimateDiff"))
    workflow = Workflow("x", video().graph, {"1.format": chosen})
    assert apply_parameters(workflow, {"1.format": "Wan"})["1"]["inputs"]["format"] == "Wan"
    problem = problem_of("1.format", "wan", workflow)
    assert (problem.code, problem.allowed) == ("E_PARAMETER_TYPE", "Wan AnimateDiff")


def test_S4_7_what_is_decided_at_run_time_is_checked_by_its_key_only() -> None:
    given_later = {"1.frame_load_cap": "{{ a.output.n }}", "9.x": "{{ b }}", "1.loop": "yes"}
    problems = check_parameters(video(), given_later, known=lambda value: "{{" not in str(value))
    assert [(p.place.field, p.code) for p in problems] == [
        ("parameters.9.x", "E_PARAMETER_UNKNOWN"),
        ("parameters.1.loop", "E_PARAMETER_TYPE"),
    ]


def test_a_list_is_wrapped_so_that_no_server_takes_it_for_a_link() -> None:
    graph = apply_parameters(video(), {"57:8.points": ["1", 0]})
    assert graph["57:8"]["inputs"]["points"] == {"__value__": ["1", 0]}


def test_what_happens_to_the_copy_does_not_reach_back_to_the_values() -> None:
    value = {"a": [1]}
    graph = apply_parameters(video(), {"57:8.points": value})
    graph["57:8"]["inputs"]["points"]["a"].append(2)
    assert value == {"a": [1]}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from([*video().parameters, "2.images", "1.format", "Text.text", "Resize.points"]) | st.text(
    max_size=6
)


@given(values=st.dictionaries(keys, json_values, max_size=5))
def test_S4_7_applying_changes_neither_the_workflow_nor_the_values(values: dict[str, Any]) -> None:
    workflow = video()
    before, given_before = copy.deepcopy(workflow), copy.deepcopy(values)
    problems = check_parameters(workflow, values, known=lambda _: True)
    if problems:
        with pytest.raises(InputInvalid) as caught:
            apply_parameters(workflow, values)
        assert caught.value.problem == problems[0]
    else:
        for node in apply_parameters(workflow, values).values():  # nor does what happens to the copy reach back
            node["inputs"].clear()
    assert workflow == before
    assert repr(values) == repr(given_before)  # NaN is not equal to itself


# ---- prefixes


def test_every_file_of_a_job_goes_into_a_folder_of_its_own() -> None:
    workflow = video()
    workflow.graph["3"] = {"class_type": "SaveVideo", "inputs": {"filename_prefix": "video/%year%"}}
    workflow.graph["4"] = {"class_type": "SaveText", "inputs": {"filename_prefix": ["93", 0]}}
    graph = with_own_prefixes(workflow.graph, "run1")
    assert graph["2"]["inputs"]["filename_prefix"] == "towpath/run1/ComfyUI"
    assert graph["3"]["inputs"]["filename_prefix"] == "towpath/run1/video/%year%"
    assert graph["4"]["inputs"]["filename_prefix"] == ["93", 0]
    assert workflow.graph["2"]["inputs"]["filename_prefix"] == "ComfyUI"


@pytest.mark.parametrize("prefix", ["/etc/x", "..", "../x", "a/../../x", "..\\x", "\\x"])
def test_a_prefix_that_leads_out_is_left_for_the_server_to_refuse(prefix: str) -> None:
    graph = {"2": {"class_type": "SaveImage", "inputs": {"filename_prefix": prefix}}}
    assert with_own_prefixes(graph, "run1") == graph


@given(prefix=st.lists(st.sampled_from(["..", ".", "a", "/", "\\", ""])).map("/".join) | st.text(max_size=8))
def test_no_prefix_reaches_the_folder_of_another_job(prefix: str) -> None:
    graph = {"2": {"class_type": "SaveImage", "inputs": {"filename_prefix": prefix}}}
    [node] = with_own_prefixes(graph, "run1").values()
    path = posixpath.normpath(node["inputs"]["filename_prefix"].replace("\\", "/"))
    inside = path == "towpath/run1" or path.startswith("towpath/run1/")
    assert inside or path.startswith(("/", ".."))
