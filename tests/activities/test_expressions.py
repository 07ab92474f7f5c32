"""Templates, conditions and parameters: S4.5, S4.6, S4.7."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.comfyui.workflows import generated_elsewhere, image_save
from towpath.adapters.activities import (
    apply_workflow_parameters,
    evaluate_chain_condition,
    resolve_chain_templates,
)
from towpath.errors import ChainInvalid, ExpressionFailed, InputInvalid

pytestmark = pytest.mark.anyio

RESULTS: dict[str, dict[str, Any]] = {
    "frame": {
        "status": "completed",
        "output": {"image": "a.png", "count": 3, "number": "007", "deep": {"list": [1, {"x": None}]}, "flag": True},
        "parameters": {"1.video": "in.mp4", "width": 64},
    },
    "my-edit": {"status": "completed", "output": "' or 1 == 1 or '", "parameters": {}},
    "broken": {"status": "failed", "output": None, "parameters": {}, "error": {"code": "E_X", "message": "no"}},
}
POPEN = "{{ cycler.__init__.__globals__.os.popen('touch owned').read() }}"


async def resolved(value: Any, **inputs: Any) -> Any:
    return (await resolve_chain_templates({"p": value}, RESULTS, inputs))["p"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{{ frame.output.image }}", "a.png"),
        ("{{ frame.output.count }}", 3),
        ("{{ frame.output.flag }}", True),
        ("{{ frame.output.number }}", "007"),
        ("{{ frame.output.deep }}", {"list": [1, {"x": None}]}),
        ("{{ frame.output.deep.list[1].x }}", None),
        ("{{ frame.parameters['1.video'] }}", "in.mp4"),
        ("{{ frame.parameters.width }}", 64),
        ("{{ frame.status }}", "completed"),
        ("{{ broken.error.code }}", "E_X"),
        ('{{ steps["my-edit"].output }}', "' or 1 == 1 or '"),
        ("{{ inputs.photo }}", "up.png"),
        ("no. {{ frame.output.number }} of {{ frame.output.count }}", "no. 007 of 3"),
        ("007", "007"),
        ("1e5", "1e5"),
        ("nan", "nan"),
        (7, 7),
        (None, None),
        ({"$ref": {"step": "frame"}}, {"$ref": {"step": "frame"}}),
        ([{"a": "{{ frame.output.count }}"}, 1.5], [{"a": 3}, 1.5]),
    ],
)
async def test_S4_5_values_keep_their_type(text: Any, value: Any) -> None:
    found = await resolved(text, photo="up.png")
    assert (found, type(found)) == (value, type(value))


async def test_S4_5_a_value_is_never_a_template(here: Path) -> None:
    results = {"a": {"status": "completed", "output": POPEN, "parameters": {}}}
    assert await resolve_chain_templates({"p": "{{ a.output }}"}, results) == {"p": POPEN}
    assert not (here / "owned").exists()


@pytest.mark.parametrize(
    "text",
    [
        POPEN,
        "{% for x in [1] %}{{ x }}{% endfor %}",
        "{{ frame.__class__ }}",
        "{{ frame.output.image.upper() }}",
        "{{ [1] * 99999999 }}",
        "{{ frame.output",
        "{{ other.output.image }}",
        "{{ inputs.other }}",
    ],
)
async def test_S4_5_what_is_no_template_or_not_allowed_is_refused(here: Path, text: str) -> None:
    with pytest.raises(ChainInvalid) as raised:
        await resolved([text])
    assert raised.value.code.startswith("E_TEMPLATE_")
    assert raised.value.problem.place.field == "parameters.p[0]"
    assert not (here / "owned").exists()


async def test_S4_5_everything_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ChainInvalid) as raised:
        await resolve_chain_templates({"a": "{{ nope.output }}", "b": {"c": POPEN}}, RESULTS)
    assert {problem.place.field for problem in raised.value.problems} == {"parameters.a", "parameters.b.c"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{{ frame.output.video }}", ("frame", "video")),
        ("x {{ frame.output.deep.list[9] }}", ("frame", "9")),
        ("{{ broken.output }}", ("broken", "failed")),
    ],
)
async def test_S4_5_what_is_undefined_names_step_and_key(text: str, words: tuple[str, ...]) -> None:
    with pytest.raises(ExpressionFailed) as raised:
        await resolved(text)
    assert raised.value.code == "E_TEMPLATE_UNDEFINED"
    assert all(word in str(raised.value) for word in words)


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("frame.status == 'completed'", True),
        ("{{ frame.status == 'completed' }}", True),
        ("{{ frame.status == 'completed' and broken.status == 'completed' }}", False),
        ("broken.error.code == 'E_X'", True),
        ("frame.output.count > 2", True),
        ("frame.output.flag", True),
        # W46: what a step gave is a value. Rendered into the text it would turn the result around.
        ('steps["my-edit"].output == "safe"', False),
        ("""{{ steps["my-edit"].output == 'safe' }}""", False),
    ],
)
async def test_S4_6_conditions_are_evaluated_once(condition: str, holds: bool) -> None:
    assert await evaluate_chain_condition(condition, RESULTS) is holds


@pytest.mark.parametrize("condition", ["frame.output.count", "frame.output.image", "frame.output.deep"])
async def test_S4_6_only_true_and_false_are_results(condition: str) -> None:
    with pytest.raises(ExpressionFailed) as raised:
        await evaluate_chain_condition(condition, RESULTS)
    assert raised.value.code == "E_COND_TYPE"


@pytest.mark.parametrize("condition", ["", "1", "other.status == 'completed'", "open('x')", "frame.status ==", POPEN])
async def test_S4_6_what_is_no_condition_is_refused(condition: str) -> None:
    with pytest.raises(ChainInvalid) as raised:
        await evaluate_chain_condition(condition, RESULTS)
    assert raised.value.code.startswith(("E_COND_", "E_TEMPLATE_"))


# ---- parameters


@pytest.fixture
def folder(here: Path) -> Path:
    (here / "workflows").mkdir()
    (here / "workflows" / "imageSave.json").write_text(json.dumps(image_save()))
    return here / "workflows"


async def test_S4_7_values_are_in_the_graph_and_the_file_stays_as_it_is(folder: Path) -> None:
    given = {"1.video": "a.mp4", "1.skip_first_frames": 172}
    found = await apply_workflow_parameters("imageSave", given)
    assert (found["1"]["inputs"]["video"], found["1"]["inputs"]["skip_first_frames"]) == ("a.mp4", 172)
    assert found["2"] == image_save()["2"]
    assert json.loads((folder / "imageSave.json").read_text()) == image_save()
    assert await apply_workflow_parameters("imageSave", given, folder=folder) == found


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"1.vidoe": "a.mp4"}, "E_PARAMETER_UNKNOWN"),
        ({"9.video": "a.mp4"}, "E_PARAMETER_UNKNOWN"),
        ({"video": "a.mp4"}, "E_PARAMETER_UNKNOWN"),
        ({"2.images": "a.png"}, "E_PARAMETER_LINK"),
        ({"1.skip_first_frames": "172"}, "E_PARAMETER_TYPE"),
        ({"1.skip_first_frames": True}, "E_PARAMETER_TYPE"),
    ],
)
async def test_S4_7_wrong_parameters_are_refused(folder: Path, given: dict[str, Any], code: str) -> None:
    with pytest.raises(InputInvalid) as raised:
        await apply_workflow_parameters("imageSave", given)
    assert raised.value.code == code
    if code == "E_PARAMETER_UNKNOWN":
        assert "1.video" in raised.value.problem.allowed


async def test_S4_7_only_what_the_override_file_lists_may_be_set(folder: Path) -> None:
    overrides = generated_elsewhere(image_save())
    overrides["parameters"] = [p for p in overrides["parameters"] if p["key"] == "1.video"]
    (folder / "imageSave_overrides.json").write_text(json.dumps(overrides))
    assert await apply_workflow_parameters("imageSave", {"1.video": "a.mp4"})
    with pytest.raises(InputInvalid) as raised:
        await apply_workflow_parameters("imageSave", {"1.skip_first_frames": 1})
    assert raised.value.problem.allowed == "1.video"


@pytest.mark.parametrize(("name", "code"), [("nope", "E_WORKFLOW_FILE"), ("../x", "E_REF_PATH")])
async def test_S4_7_a_workflow_that_is_not_there(folder: Path, name: str, code: str) -> None:
    with pytest.raises(InputInvalid) as raised:
        await apply_workflow_parameters(name, {})
    assert raised.value.code == code
