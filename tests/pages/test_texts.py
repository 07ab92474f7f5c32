"""Differences, content, arguments and words: pure functions behind the pages."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from towpath.adapters.http.errors import Refused
from towpath.adapters.http.pages import filters
from towpath.adapters.http.pages.contents import MOST_NODES, Branch, tree_of
from towpath.adapters.http.pages.diff import CONTEXT, DiffLine, compare, pretty_json
from towpath.adapters.http.pages.previews import show_of
from towpath.adapters.http.pages.shown_arguments import changed_parameters, shown_arguments
from towpath.adapters.http.pages.thumbnails import EDGE, shrink
from towpath.adapters.http.query_parameters import read_cursor, signed_cursor
from towpath.adapters.wording import lasted
from towpath.model import ChainStatus, StepStatus

REQUEST = Request({"type": "http", "app": SimpleNamespace(state=SimpleNamespace(secret="secret" * 12))})
TEXTS = st.lists(st.sampled_from(["a", "b", "a b", "", "x y z", "<b>"]), max_size=12).map("\n".join)


def side(lines: list[DiffLine], which: str) -> list[str]:
    return ["".join(text for text, _ in getattr(line, which)) for line in lines if getattr(line, which)]


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_a_comparison_says_both_texts(before: str, after: str) -> None:
    """Apart from what a gap leaves out, nothing is lost and nothing is added."""
    lines = compare(before, after)
    left = sum(1 for line in lines if line.left) + sum(line.skipped for line in lines)
    right = sum(1 for line in lines if line.right) + sum(line.skipped for line in lines)
    assert left == len(before.splitlines())
    assert right == len(after.splitlines())
    for line in lines:
        if line.left and line.before:
            assert "".join(text for text, _ in line.before) == before.splitlines()[line.left - 1]
        if line.right and line.after:
            assert "".join(text for text, _ in line.after) == after.splitlines()[line.right - 1]


def test_the_words_that_changed_are_marked() -> None:
    (line,) = compare("a calm sea", "a rough sea")
    assert line.before == (("a ", False), ("calm", True), (" sea", False))
    assert line.after == (("a ", False), ("rough", True), (" sea", False))


def test_long_stretches_without_a_change_are_one_gap() -> None:
    many = [f"line {n}" for n in range(100)]
    lines = compare("\n".join(many), "\n".join([*many[:50], "new", *many[50:]]))
    assert [line.skipped for line in lines if line.kind == "gap"] == [50 - CONTEXT, 50 - CONTEXT]
    assert len(lines) == 2 + 2 * CONTEXT + 1


def test_json_is_compared_by_what_it_says() -> None:
    lines = compare(pretty_json('{"b":1,"a":[1,2]}'), pretty_json('{ "a": [1, 2], "b": 1 }'))
    assert {line.kind for line in lines} <= {"same", "gap"}
    lines = compare(pretty_json('{"b":1}'), pretty_json('{"b":2}'))
    assert [line.kind for line in lines] == ["same", "changed", "same"]
    assert pretty_json("no json") == "no json"


def test_json_as_a_tree() -> None:
    tree = tree_of(b'{"a": [1, {"b": null}], "c": "<i>"}')
    assert tree is not None and tree.children is not None
    assert (tree.text, tree.children[0].text, tree.children[1]) == ("2 keys", "2 items", Branch("c", '"<i>"'))
    assert tree_of(b"[" * 200 + b"]" * 200) is not None
    assert tree_of(b"{") is None
    assert tree_of(b"[" + b"1," * MOST_NODES + b"1]") is None


def test_arguments_tell_files_from_data() -> None:
    file = {"$artifact": "id-1", "name": "output", "version": 1}
    shown = {one.name: one for one in shown_arguments({"photo": file, "all": [file, file], "n": 3, "token": "s3cret"})}
    assert shown["photo"].files == ("id-1",) and shown["all"].files == ("id-1",)
    assert (shown["n"].text, shown["n"].files) == ("3", ())
    assert "s3cret" not in shown["token"].text
    assert shown_arguments(None) == []


def test_a_form_changes_only_what_was_changed() -> None:
    before = {"text": "a\nb", "n": 3, "flag": True, "photo": {"$artifact": "x", "name": "o", "version": 1}}
    same = {"p.text": "a\r\nb", "p.n": "3", "p.flag": "true", "p.photo": "o v1", "p.other": "1"}
    assert changed_parameters(before, same) == ({}, [])
    assert changed_parameters(before, {**same, "p.text": "c\r\nd", "p.n": "4"}) == ({"text": "c\nd", "n": 4}, [])
    changed, wrong = changed_parameters(before, {"p.n": "four", "p.text": "4"})
    assert changed == {"text": "4"}  # text stays text
    assert wrong == ["n"]


@pytest.mark.parametrize(
    ("media", "show"),
    [
        ("image/png", "image"),
        ("IMAGE/PNG; x=1", "image"),
        ("image/svg+xml", "text"),
        ("text/html", "text"),
        ("application/json", "json"),
        ("application/ld+json", "json"),
        ("video/mp4", "video"),
        ("audio/mpeg", "audio"),
        ("application/pdf", "none"),
        ("model/gltf-binary", "none"),
        ("", "none"),
    ],
)
def test_what_is_shown_as_what(media: str, show: str) -> None:
    """Nothing that could hold a script is shown as more than its source."""
    assert show_of(media) == show


def test_every_status_has_words_and_a_shape() -> None:
    for status in (*ChainStatus, *StepStatus):
        assert str(status) in filters.STATUSES
    shapes: dict[str, StepStatus] = {}
    for status in StepStatus:
        shown = filters.status(status)
        assert shapes.setdefault(shown.icon, status) == status  # told apart without colours
    assert filters.status(None).words == "not started"


def test_words_for_machines_are_told_from_words_for_people() -> None:
    assert filters.prose("`towpath ls` lists them. E_RUN_MISSING") == [
        ("towpath ls", True),
        (" lists them. ", False),
        ("E_RUN_MISSING", True),
    ]
    assert filters.prose("a ` alone") == [("a ` alone", False)]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "250 ms"), (3.21, "3.2 s"), (75, "1 min 15 s"), (3600, "1 h"), (86_400, "24 h"), (3661, "1 h 1 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert lasted(0, int(seconds * 1e6)) == text


def test_times_from_now() -> None:
    now = 10**15
    at = {
        0: "just now",
        90: "1 minute ago",
        7_200: "2 hours ago",
        -86_390: "in 1 day",
        -46_000: "in 12 hours",
        -5: "in less than a minute",
    }
    for seconds, text in at.items():
        assert filters.ago(now - seconds * 1_000_000, now) == text


@given(st.integers(0, 2**62) | st.text(), st.text())
def test_cursors_come_back(value: int | str, last: str) -> None:
    cursor = signed_cursor(REQUEST, "runs", (value, last))
    assert read_cursor(REQUEST, "runs", cursor) == (value, last)
    with pytest.raises(Refused):
        read_cursor(REQUEST, "files", cursor)


@pytest.mark.parametrize("text", ["x", "W10", "e30", "%%%", "WzEsMl0", "é", "WzksMCJd" * 400])
def test_cursors_that_are_none(text: str) -> None:
    with pytest.raises(Refused) as refused:
        read_cursor(REQUEST, "runs", text)
    assert (refused.value.status_code, refused.value.code) == (400, "E_CURSOR")


def test_thumbnails_are_small_and_of_pictures_only() -> None:
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (2_000, 1_000), "teal").save(out, "PNG")
    made = shrink(out.getvalue())
    assert made is not None
    with Image.open(io.BytesIO(made)) as image:
        assert (image.format, image.size) == ("WEBP", (EDGE, EDGE // 2))
    assert shrink(b"<svg/>") is None
    assert shrink(out.getvalue()[:100]) is None
