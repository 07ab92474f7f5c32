"""What a ComfyUI step answers with: texts are texts, whatever files come beside them."""

from __future__ import annotations

from typing import Any

import pytest

from towpath.adapters.comfyui.replies import OutputFile, Outputs
from towpath.adapters.comfyui.workflow_run import step_value
from towpath.artifact import KeptFile


def answered(files: list[tuple[str, str, str]], texts: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    """The value of a step whose nodes answered with these files (node, name, media type) and texts."""
    found = Outputs(tuple(OutputFile(node, "files", name) for node, name, _ in files), texts)
    return step_value(found, [KeptFile(name, media, 5, "0" * 64) for _, name, media in files])


BOTH = [
    pytest.param([("8", "a.txt", "text/plain")], {"8": ("hello",)}, id="SaveText: a file and its text"),
    pytest.param([("8", "a.md", "text/markdown")], {"8": ("hello",)}, id="a file of text by another type"),
    pytest.param([("8", "a.json", "application/json")], {"8": ("hello",)}, id="JSON is of the kind text"),
    pytest.param([("3", "log.txt", "text/plain")], {"8": ("hello",)}, id="the file comes of another node"),
    pytest.param([("8", "a.txt", "text/plain")] * 3, {"8": ("hello", "you")}, id="a batch of files and texts"),
    pytest.param(
        [("8", "p.png", "image/png"), ("8", "a.txt", "text/plain")],
        {"8": ("hello",)},
        id="a captioner: picture and text",
    ),
    pytest.param([("8", "a.csv", "text/csv")], {"8": ("hello",), "9": ("other",)}, id="two nodes answer with text"),
    pytest.param([], {"8": ("hello",)}, id="PreviewAny: no file"),
]


@pytest.mark.parametrize(("files", "texts"), BOTH)
def test_text_is_the_text_and_never_a_file(
    files: list[tuple[str, str, str]], texts: dict[str, tuple[str, ...]]
) -> None:
    """`.output.text` and `.output["8"].text` go into prompts: a file there becomes its name, with no word."""
    value = answered(files, texts)
    assert value["text"] == "hello"
    for node, words in texts.items():
        assert value[node]["text"] == list(words)
    kept = [
        file
        for node in {n for n, _, _ in files}
        for kind in value[node]
        if kind != "text"
        for file in value[node][kind]
    ]
    alone = [file for node in {n for n, _, _ in files} - texts.keys() for file in value[node].get("text", [])]
    assert len(kept) + len(alone) == len(files), "no file is lost"


def test_a_file_of_text_without_a_text_stays_under_its_kind() -> None:
    value = answered([("8", "a.txt", "text/plain")], {})
    assert "text" not in value, "`.output.text` finds the file"
    assert len(value["8"]["text"]) == 1
