"""What a server says of its files: the corpus, relatives of its cases, and the names under which it gets ours."""

from __future__ import annotations

import re
import time
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.corpus import Case, cases
from towpath.adapters.comfyui.file_names import MAX_NAME, display_name, folder_type, subfolder, upload_name
from towpath.errors import ServerFailed

DIGEST = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
SECONDS = 0.5  # for one name of any length; a quadratic way takes five


def refusal(check: Any, value: object) -> ServerFailed:
    with pytest.raises(ServerFailed) as caught:
        check(value)
    error = caught.value
    assert not error.retryable
    assert len(str(error)) < 700  # 80 characters of the name, each escaped at most
    assert str(error).replace("\n", "").isprintable()
    return error


# ---- file names


@pytest.mark.parametrize("case", cases("server_filename"), ids=lambda case: case.id)
def test_corpus_names(case: Case) -> None:
    if case.verdict == "reject":
        assert refusal(display_name, case.input).code in case.codes
    else:
        assert display_name(case.input) == unicodedata.normalize("NFC", case.input)


def test_the_corpus_has_all_kinds_of_names() -> None:
    assert {case.verdict for case in cases("server_filename")} == {"accept", "reject", "either"}


def test_names_that_differ_stay_different() -> None:
    names = ["我的.png", "😀.png", "A.PNG", "a.PNG", "é.png"]
    assert [display_name(name) for name in names] == names
    assert display_name("e\u0301.png") == "é.png"


@pytest.mark.parametrize("name", ["%2e%2e%2fetc%2fpasswd", "%252e%252e%252fetc", "%00.png", "100%.png", "a+b.png"])
def test_names_are_never_decoded(name: str) -> None:
    assert display_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "½.png",  # U+2044 under NFKC, but nobody reads it as a path
        "图：一.png",  # a colon only under NFKC
        "a b (1) [2] {3}, 'x' & y;.png",
        "confetti.png",
        "com10.png",
        "a..b.png",
        "❤️.png",
        "a~b",
        "é" * 127,
        "u\u0308\u0304" * 127,  # 127 times ǖ, 635 bytes before it is composed
    ],
)
def test_relatives_that_are_fine(name: str) -> None:
    assert display_name(name) == unicodedata.normalize("NFC", name)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("..", "E_NAME_PATH"),
        ("\uff0e\uff0e", "E_NAME_PATH"),
        ("℀.png", "E_NAME_PATH"),
        ("a\u29f5b.png", "E_NAME_PATH"),
        ("c:x.png", "E_NAME_PATH"),
        ("~", "E_NAME_PATH"),
        ("..%2f\\x", "E_NAME_PATH"),
        ("\u2026", "E_NAME_DOTS"),
        (". .", "E_NAME_DOTS"),
        ("\u3000", "E_NAME_EMPTY"),
        ("\u00a0", "E_NAME_EMPTY"),
        ("\n", "E_NAME_CONTROL"),
        ("a\x85.png", "E_NAME_CONTROL"),
        ("a\x1b[31m.png", "E_NAME_CONTROL"),
        ("a\u2028.png", "E_NAME_UNICODE"),
        ("a\u2066b.png", "E_NAME_UNICODE"),
        ("a\U000e0041.png", "E_NAME_UNICODE"),
        ("\u3164", "E_NAME_UNICODE"),
        ("a\uf03a.png", "E_NAME_UNICODE"),
        ("a\uffff.png", "E_NAME_UNICODE"),
        ("con .txt", "E_NAME_RESERVED"),
        ("ｃｏｎ", "E_NAME_RESERVED"),
        ("LPT9.tar.gz", "E_NAME_RESERVED"),
        ("CONOUT$", "E_NAME_RESERVED"),
        ("what?.png", "E_NAME_CHAR"),
        ("a|b.png", "E_NAME_CHAR"),
        ("a.png ", "E_NAME_TRAIL"),
        ("a.png\u2024", "E_NAME_TRAIL"),
        ("\u2024htaccess", "E_NAME_HIDDEN"),
        ("é" * 128, "E_NAME_LENGTH"),
        ("\U0001d160" * 22, "E_NAME_LENGTH"),  # 88 bytes that NFC makes 264
        (b"a.png", "E_REPLY_TYPE"),
        (1, "E_REPLY_TYPE"),
    ],
)
def test_relatives_that_are_refused(name: object, code: str) -> None:
    assert refusal(display_name, name).code == code


@pytest.mark.parametrize(
    "text",
    [
        "a" * 100_000 + ".png",
        "\u202e" * 100_000,
        "a" + "\u0301\u0323" * 50_000,  # marks that normalising would have to sort
        "\ufdfa" * 100_000,
        "." * 100_000,
        " " * 100_000,
        "\ud800" * 100_000,
        "a" * 100_000 + "/x",
    ],
    ids=["long", "direction", "marks", "ligatures", "dots", "blank", "surrogates", "path"],
)
def test_long_names_are_refused_at_once_and_not_repeated(text: str) -> None:
    began = time.perf_counter()
    errors = [refusal(display_name, text), refusal(subfolder, text), refusal(folder_type, text)]
    sent = upload_name(text, DIGEST)
    assert time.perf_counter() - began < SECONDS
    assert errors[0].code in ("E_NAME_LENGTH", "E_NAME_PATH")
    assert len(sent) <= 100


@given(st.text())
def test_a_kept_name_is_one_plain_component_and_stays_as_it_is(name: str) -> None:
    try:
        kept = display_name(name)
    except ServerFailed:
        return
    assert display_name(kept) == kept
    assert 0 < len(kept.encode()) <= MAX_NAME
    assert not re.search(r'[/\\\0-\x1f<>:"|?*]', kept)
    assert kept not in (".", "..")


# ---- folders


@pytest.mark.parametrize("case", cases("server_subfolder"), ids=lambda case: case.id)
def test_corpus_subfolders(case: Case) -> None:
    check, value = (folder_type, case.input["type"]) if isinstance(case.input, dict) else (subfolder, case.input)
    if case.verdict == "reject":
        assert refusal(check, value).code in case.codes
    else:
        assert check(value) == value


@pytest.mark.parametrize("value", ["video\\clip", "12:30", "e\u0301", "a b", "a...b", "a/", "d" * 1_000, "%2e%2e"])
def test_a_subfolder_is_handed_back_as_it_was_written(value: str) -> None:
    assert subfolder(value) == value


@pytest.mark.parametrize(
    "value",
    [
        "..",
        ".",
        "a/..",
        "..\\a",
        "\\abs",
        "//srv",
        "a//b",
        "a/./b",
        "a/.../b",
        "c:x",
        "\uff0e\uff0e\uff0fa",
        "a\0",
        "a\nb",
        "\ud800",
        " ",
        "a/ /b",
        "/",
        "d" * 1_001,
        None,
        1,
        ["a"],
    ],
)
def test_subfolders_that_are_refused(value: object) -> None:
    assert refusal(subfolder, value).code == "E_SUBFOLDER"


@pytest.mark.parametrize("value", ["input", "output", "temp"])
def test_folder_types(value: str) -> None:
    assert folder_type(value) == value


@pytest.mark.parametrize("value", ["", "Temp", "output ", "../input", True, ["output"], {"type": "output"}])
def test_folder_types_that_are_refused(value: object) -> None:
    assert refusal(folder_type, value).code == "E_FOLDER_TYPE"


# ---- names under which files are sent


@pytest.mark.parametrize(
    ("filename", "sent"),
    [
        ("photo.png", "photo.png"),
        ("Café (1).PNG", "Cafe_1.png"),
        ("我的.png", "file.png"),
        ("a..b.png", "a_b.png"),
        ("../../etc/passwd", "etc_passwd"),
        ("x.tar.gz", "x_tar.gz"),
        (".htaccess", "htaccess"),
        ("..png", "png"),
        ("a.p/g", "a_p_g"),
        ("a.superlongending", "a_superlongending"),
        ("a.пнг", "a"),
        ('"q" [output].png', "q_output.png"),
        ("a\r\n.png", "a.png"),
        ("\ud800.png", "file.png"),
        ("", "file"),
        ("a" * 300 + ".webm", "a" * 78 + ".webm"),
    ],
)
def test_upload_names(filename: str, sent: str) -> None:
    assert upload_name(filename, DIGEST) == f"2cf24dba5fb0a30e-{sent}"


def test_the_same_name_for_other_bytes_is_another_upload() -> None:
    assert upload_name("a.png", DIGEST) != upload_name("a.png", DIGEST[::-1])


@given(st.text())
def test_an_upload_name_is_safe_for_every_server(filename: str) -> None:
    sent = upload_name(filename, DIGEST)
    assert re.fullmatch(r"2cf24dba5fb0a30e-[A-Za-z0-9_]+(\.[a-z0-9]{1,8})?", sent)
    assert len(sent) <= 100
    assert display_name(sent) == sent
