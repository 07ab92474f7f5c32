"""A graph against what a server says of its nodes: what is surely wrong is found, all else passes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.adapters.comfyui.object_info import check_against


def info() -> dict[str, Any]:
    """The node types of a server, in both of the dialects that servers speak."""
    return {
        "CheckpointLoaderSimple": {
            "input": {"required": {"ckpt_name": [["sd15.safetensors", "sdxl.safetensors"], {"tooltip": "a model"}]}},
            "output": ["MODEL", "CLIP", "VAE"],
            "output_node": False,
        },
        "LoadImage": {
            "input": {"required": {"image": [["old.png"], {"image_upload": True}]}},
            "output": ["IMAGE", "MASK"],
        },
        "VHS_LoadVideo": {
            "input": {"required": {"video": [["old.mp4"]], "format": ["COMBO", {"options": ["None", "Wan"]}]}},
            "output": ["IMAGE", "INT", "AUDIO", "VHS_VIDEOINFO"],
        },
        "KSampler": {
            "input": {
                "required": {
                    "model": ["MODEL"],
                    "steps": ["INT", {"default": 20, "min": 1, "max": 10000}],
                    "cfg": ["FLOAT", {"min": 0.0, "max": 100.0}],
                    "seed": ["INT", {"min": 0, "max": 18446744073709551615}],
                    "sampler_name": ["COMBO", {"options": [f"sampler_{i}" for i in range(30)]}],
                },
                "optional": {"image": ["IMAGE,LATENT", {}], "any": ["*", {}]},
                "hidden": {"prompt": "PROMPT"},
            },
            "output": ["IMAGE"],
        },
        "Resize": {
            "input": {
                "required": {
                    "resize_type": ["COMFY_DYNAMICCOMBO_V3", {"options": [{"key": "scale", "inputs": {}}]}],
                    "images": ["COMFY_AUTOGROW_V3", {"template": {}}],
                }
            },
            "output": ["IMAGE"],
        },
        "Tags": {
            "input": {"required": {"tags": ["COMBO", {"options": ["a", "b"], "multiselect": True}]}},
            "output": [],
        },
        "SaveImage": {
            "input": {"required": {"images": ["IMAGE"], "filename_prefix": ["STRING", {"default": "ComfyUI"}]}},
            "output": [],
            "output_node": True,
        },
    }


def graph(**changes: Any) -> dict[str, Any]:
    """A graph that the server takes; `changes` are inputs of the sampler, `...` removes one."""
    sampler: dict[str, Any] = {
        "model": ["4", 0],
        "steps": 20,
        "cfg": 7.5,
        "seed": 18446744073709551615,
        "sampler_name": "sampler_3",
        "image": ["10", 0],
    }
    sampler = {key: value for key, value in (sampler | changes).items() if value is not ...}
    return {
        "3": {"class_type": "KSampler", "inputs": sampler, "_meta": {"title": "The sampler"}},
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15.safetensors"}},
        "10": {"class_type": "LoadImage", "inputs": {"image": "arrives/later.png"}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "x"}},
    }


def codes(found: dict[str, Any], about: dict[str, Any] | None = None) -> list[tuple[str, str]]:
    return [(p.place.field, p.code) for p in check_against(found, info() if about is None else about)]


def test_S4_7_a_graph_that_fits_has_no_problems() -> None:
    assert check_against(graph(), info()) == []


def test_S4_7_a_type_that_the_server_does_not_have_is_named_with_its_node() -> None:
    about = info()
    about["KSamplr"] = about.pop("KSampler")
    [problem] = check_against(graph(), about)
    assert (problem.code, problem.place.field, problem.found) == ("E_NODE_UNKNOWN", "3", "KSampler")
    assert '"The sampler"' in problem.message
    assert "did you mean KSamplr?" in problem.cure


@pytest.mark.parametrize(
    ("changes", "field", "code"),
    [
        ({"model": ...}, "3.model", "E_NODE_INPUT"),
        ({"seed": ...}, "3.seed", "E_NODE_INPUT"),
        ({"steps": 0}, "3.steps", "E_NODE_RANGE"),
        ({"steps": 10001}, "3.steps", "E_NODE_RANGE"),
        ({"steps": {"__value__": 0}}, "3.steps", "E_NODE_RANGE"),
        ({"cfg": -0.1}, "3.cfg", "E_NODE_RANGE"),
        ({"sampler_name": "euler"}, "3.sampler_name", "E_NODE_CHOICE"),
        ({"sampler_name": None}, "3.sampler_name", "E_NODE_CHOICE"),
        ({"model": ["4", 3]}, "3.model", "E_NODE_LINK"),
        ({"image": ["10", -2]}, "3.image", "E_NODE_LINK"),
        ({"model": ["4", 1]}, "3.model", "E_NODE_LINK"),
        ({"image": ["4", 0]}, "3.image", "E_NODE_LINK"),
        ({"unheard_of": ["4", 7]}, "3.unheard_of", "E_NODE_LINK"),
        ({"model": ["77", 0]}, "3.model", "E_NODE_LINK"),
    ],
)
def test_S4_7_what_a_server_would_refuse_is_found(changes: dict[str, Any], field: str, code: str) -> None:
    assert codes(graph(**changes)) == [(field, code)]


@pytest.mark.parametrize(
    "changes",
    [
        {"image": ...},
        {"any": ["4", 2]},
        {"unheard_of": 5},
        {"cfg": 7},
        {"cfg": "7"},
        {"steps": 1},
    ],
)
def test_S4_7_what_a_server_may_take_passes(changes: dict[str, Any]) -> None:
    assert codes(graph(**changes)) == []


def test_S4_7_a_limit_that_is_no_number_is_none() -> None:
    about = info()
    about["KSampler"]["input"]["required"]["cfg"][1].update(min=float("nan"), max="100")
    assert codes(graph(cfg=-1), about) == []


def test_S4_7_a_union_and_any_type_fit() -> None:
    about = info()
    about["LoadImage"]["output"] = ["MASK, LATENT", "*"]
    assert codes(graph(), about) == []
    assert codes(graph(model=["10", 1]), about) == []
    assert codes(graph(model=["10", 0]), about) == [("3.model", "E_NODE_LINK")]


def test_S4_7_choices_are_shown_up_to_ten() -> None:
    [problem] = check_against(graph(sampler_name="sampler_x"), info())
    assert problem.allowed.startswith("sampler_0 sampler_1 ")
    assert problem.allowed.endswith("sampler_9 … and 20 more")
    found = graph()
    found["4"]["inputs"]["ckpt_name"] = "sd16.safetensors"
    [problem] = check_against(found, info())
    assert (problem.allowed, problem.cure) == ("sd15.safetensors sdxl.safetensors", "did you mean sd15.safetensors?")
    about = info()
    about["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"] = [[]]
    [problem] = check_against(graph(), about)
    assert problem.allowed == "the server has none"


@pytest.mark.parametrize("option", ["image_upload", "video_upload", "audio_upload", "upload"])
def test_S4_7_files_that_arrive_later_are_not_judged(option: str) -> None:
    about = info()
    about["KSampler"]["input"]["required"]["sampler_name"][1][option] = True
    assert codes(graph(sampler_name="new.mp4"), about) == []
    about["KSampler"]["input"]["required"]["sampler_name"][1][option] = False
    assert codes(graph(sampler_name="new.mp4"), about) == [("3.sampler_name", "E_NODE_CHOICE")]


def test_S4_7_a_loader_that_does_not_tell_of_uploads_is_known_by_its_input() -> None:
    inputs = {"video": "new.mp4", "format": "Wan"}
    found = graph(image=["11", 0]) | {"11": {"class_type": "VHS_LoadVideo", "inputs": inputs}}
    assert codes(found) == []
    inputs["format"] = "Sora"
    assert codes(found) == [("11.format", "E_NODE_CHOICE")]


def test_S4_7_dynamic_inputs_are_not_judged_and_several_choices_are() -> None:
    found = graph(image=["12", 0])
    found["12"] = {"class_type": "Resize", "inputs": {"resize_type": "any", "images.image0": ["10", 0]}}
    found["13"] = {"class_type": "Tags", "inputs": {"tags": {"__value__": ["a", "b"]}}}
    found["3"]["inputs"]["more"] = ["13", 0]
    assert codes(found) == [("3.more", "E_NODE_LINK")], "Tags has no outputs"
    found["13"]["inputs"]["tags"] = {"__value__": ["a", "c"]}
    assert ("13.tags", "E_NODE_CHOICE") in codes(found)


def test_S4_7_nodes_that_no_output_needs_are_not_looked_at_but_must_be_known() -> None:
    found = graph() | {"20": {"class_type": "KSampler", "inputs": {}}, "21": {"class_type": "Gone", "inputs": {}}}
    assert codes(found) == [("21", "E_NODE_UNKNOWN")]
    about = info()
    del about["SaveImage"]["output_node"]
    assert ("20.model", "E_NODE_INPUT") in codes(found, about), "without a known output node all are looked at"


@pytest.mark.parametrize(
    "junk",
    [
        None,
        [],
        "x",
        5,
        {"input": []},
        {"input": {"required": [1]}},
        {"input": {"required": {"model": None}}, "output": {}},
    ],
)
def test_S4_7_a_type_described_in_an_unknown_way_is_known_but_not_judged(junk: Any) -> None:
    assert codes(graph(), info() | {"KSampler": junk}) == []


junk_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["INT", "FLOAT", "COMBO", "IMAGE", "*", "", "COMFY_AUTOGROW_V3"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                "KSampler LoadImage input required optional output output_node model steps cfg min max options image "
                "image_upload multiselect".split()
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(about=st.dictionaries(st.sampled_from(["KSampler", "LoadImage", "SaveImage"]), junk_values))
def test_S4_7_no_junk_of_a_server_crashes_the_check(about: dict[str, Any]) -> None:
    check_against(graph(), about)


@given(spec=junk_values, output=junk_values, value=junk_values)
def test_S4_7_no_junk_in_a_description_crashes_the_check(spec: Any, output: Any, value: Any) -> None:
    about = info()
    about["KSampler"] = {"input": {"required": {"model": spec, "steps": ["INT", spec], "cfg": [spec, spec]}}}
    about["CheckpointLoaderSimple"]["output"] = output
    for problem in check_against(graph(steps=value, cfg=value), about):
        assert str(problem)
