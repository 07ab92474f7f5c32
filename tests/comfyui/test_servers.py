"""`[[servers]]` of `towpath.toml`, and servers of which only the address is known."""

from __future__ import annotations

import tomllib
from typing import Any

import httpx
import pytest

from towpath.adapters.comfyui.servers import Server, given_server, read_servers
from towpath.errors import InputInvalid, Place

FILE = "towpath.toml"


def read(*entries: dict[str, Any], **environment: str) -> tuple[Server, ...]:
    return read_servers(entries, FILE, environment=environment)


def refusal(*entries: Any, **environment: str) -> InputInvalid:
    with pytest.raises(InputInvalid) as caught:
        read_servers(entries, FILE, environment=environment)
    error = caught.value
    assert error.code == "E_SERVER_CONFIG"
    assert error.problem.place.file == FILE
    assert error.problem.allowed or error.problem.cure
    return error


def one(**keys: Any) -> dict[str, Any]:
    return {"name": "gpu-1", "url": "http://127.0.0.1:8188", **keys}


def test_every_key_reaches_the_server() -> None:
    text = """
        [[servers]]
        name = "gpu-1"
        url = "https://GPU.example:443/comfy/"
        tags = ["a100", "video"]
        headers = { Authorization = "Bearer ${COMFY_TOKEN}" }
        query = { token = "${COMFY_TOKEN}-${N}" }
        slots = 2
        verify = "/etc/ssl/own.pem"
        description = "under the desk"

        [[servers]]
        name = "gpu-2"
        url = "http://127.0.0.1:8188"
    """
    first, second = read(*tomllib.loads(text)["servers"], COMFY_TOKEN="abc", N="7")
    assert first == Server(
        name="gpu-1",
        url="https://gpu.example/comfy",
        tags=frozenset({"a100", "video"}),
        headers={"Authorization": "Bearer abc"},
        query={"token": "abc-7"},
        slots=2,
        verify="/etc/ssl/own.pem",
        description="under the desk",
    )
    assert second == Server("gpu-2", "http://127.0.0.1:8188", frozenset(), {}, {}, 1, True, "")


def test_no_servers() -> None:
    assert read() == ()


def test_a_server_shows_no_secret_and_can_be_a_key() -> None:
    (server,) = read(one(headers={"X-Key": "hunter2"}, query={"token": "hunter2"}))
    assert "hunter2" not in repr(server)
    assert {server: 1}[server] == 1


@pytest.mark.parametrize(
    ("keys", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": " "}, "name"),
        ({"name": "a "}, "name"),
        ({"name": "a\n"}, "name"),
        ({"name": "a" * 101}, "name"),
        ({"name": 1}, "name"),
        ({"url": 8188}, "url"),
        ({"url": ""}, "url"),
        ({"url": "127.0.0.1:8188"}, "url"),
        ({"url": "http://169.254.169.254"}, "url"),
        ({"tags": "a100"}, "tags"),
        ({"tags": [""]}, "tags"),
        ({"tags": [1]}, "tags"),
        ({"slots": 0}, "slots"),
        ({"slots": 65}, "slots"),
        ({"slots": True}, "slots"),
        ({"slots": 1.0}, "slots"),
        ({"slots": "2"}, "slots"),
        ({"verify": ""}, "verify"),
        ({"verify": 1}, "verify"),
        ({"verify": None}, "verify"),
        ({"description": 1}, "description"),
        ({"description": "a\x1b"}, "description"),
        ({"description": "a" * 1_001}, "description"),
        ({"headers": []}, "headers"),
        ({"headers": {"X": 1}}, "headers.X"),
        ({"headers": {"X": "a\r\nY: b"}}, "headers.X"),
        ({"headers": {"X": "a\n"}}, "headers.X"),
        ({"headers": {"X": " a"}}, "headers.X"),
        ({"headers": {"X": "ü"}}, "headers.X"),
        ({"headers": {"X Y": "a"}}, "headers"),
        ({"headers": {"": "a"}}, "headers"),
        ({"headers": {"X:": "a"}}, "headers"),
        ({"headers": {"X\r\nY": "a"}}, "headers"),
        ({"headers": {"X\n": "a"}}, "headers"),
        ({"headers": {"Host": "a"}}, "headers"),
        ({"headers": {"Sec-WebSocket-Key": "a"}}, "headers"),
        ({"headers": {"X-Key": "a", "x-key": "b"}}, "headers"),
        ({"query": "token=x"}, "query"),
        ({"query": {"token": 1}}, "query.token"),
        ({"query": {"token": "a\nb"}}, "query.token"),
        ({"query": {"": "a"}}, "query"),
        ({"query": {"filename": "a"}}, "query"),
        ({"url": "http://h:1", "slot": 2}, "slot"),
    ],
)
def test_what_is_refused_and_where(keys: dict[str, Any], field: str) -> None:
    other = {"name": "other", "url": "http://other:8188"}
    assert refusal(other, one(**keys)).problem.place == Place(file=FILE, field=f"servers[1].{field}")


@pytest.mark.parametrize("missing", ["name", "url"])
def test_a_server_has_a_name_and_an_address(missing: str) -> None:
    entry = one()
    del entry[missing]
    error = refusal(entry)
    assert error.problem.place.field == f"servers[0].{missing}"
    assert error.problem.found == "nothing"


@pytest.mark.parametrize("entry", [1, "http://127.0.0.1:8188", ["name"]])
def test_a_server_is_a_table(entry: object) -> None:
    assert refusal(entry).problem.place.field == "servers[0]"


def test_an_unknown_key_is_guessed() -> None:
    assert "did you mean headers?" in refusal(one(header={})).problem.cure
    assert refusal(one(**{"\x1b[31m": 1})).problem.place.field.isprintable()


def test_names_and_addresses_are_unique() -> None:
    first = one()
    error = refusal(first, one(url="http://other"))
    assert (error.problem.place.field, error.problem.found) == ("servers[1].name", "gpu-1")
    error = refusal(first, one(name="again", url="HTTP://127.0.0.1:8188/"))
    assert error.problem.place.field == "servers[1].url"
    assert "gpu-1" in error.problem.message


def test_the_reason_why_an_address_is_refused_is_told() -> None:
    error = refusal(one(url="http://user:hunter2@host/"))
    assert "E_URL_USERINFO" in str(error)
    assert "hunter2" not in str(error)
    assert isinstance(error.__cause__, InputInvalid)


# ---- values from the environment


def test_a_variable_that_is_not_set_is_named() -> None:
    error = refusal(one(headers={"Authorization": "Bearer ${COMFY_TOKEN}"}), OTHER="x")
    assert error.problem.place.field == "servers[0].headers.Authorization"
    assert error.problem.found == "COMFY_TOKEN"


def test_values_come_from_the_process_if_no_environment_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOWPATH_TEST_TOKEN", "abc")
    (server,) = read_servers([one(query={"token": "${TOWPATH_TEST_TOKEN}"})], FILE)
    assert server.query == {"token": "abc"}
    monkeypatch.delenv("TOWPATH_TEST_TOKEN")
    with pytest.raises(InputInvalid, match="TOWPATH_TEST_TOKEN"):
        read_servers([one(query={"token": "${TOWPATH_TEST_TOKEN}"})], FILE)


@pytest.mark.parametrize("value", ["${", "${}", "${A", "${A-B}", "${1}", "${${A}}", "a${ A }"])
def test_a_variable_is_written_in_one_way(value: str) -> None:
    assert refusal(one(query={"token": value}), A="B", B="c").problem.place.field == "servers[0].query.token"


def test_a_filled_in_value_is_taken_as_it_is() -> None:
    (server,) = read(one(query={"token": "$A ${A}", "price": "$5 {x}"}), A="${B} \\1", B="no")
    assert server.query == {"token": "$A ${B} \\1", "price": "$5 {x}"}


def test_values_are_never_told() -> None:
    for value in ("hunter2\n", "hunter2\r\nX: y", "hunter2 ", "hunter2\u00fc"):
        error = refusal(one(headers={"X-Key": "${KEY}"}), KEY=value)
        assert "hunter2" not in f"{error}{error.problem}{error.__cause__}"
    assert "hunter2" not in str(refusal(one(headers={"X-Key": "hunter2${"})))
    assert "hunter2" not in str(refusal(one(headers="hunter2")))


def test_what_is_accepted_can_be_sent() -> None:
    (server,) = read(one(headers={"X-Key": "a b\t~!", "X-Empty": ""}, query={"token": "ü &=#+%"}))
    request = httpx.Request("GET", server.url, headers=server.headers, params=server.query)
    assert request.headers["x-key"] == "a b\t~!"
    assert dict(request.url.params) == server.query


# ---- servers known by their address


@pytest.mark.parametrize(
    ("address", "name", "url"),
    [
        ("127.0.0.1:8188", "127.0.0.1:8188", "http://127.0.0.1:8188"),
        ("http://127.0.0.1:8188/", "127.0.0.1:8188", "http://127.0.0.1:8188"),
        ("gpu.example", "gpu.example:80", "http://gpu.example"),
        ("https://GPU.example", "gpu.example:443", "https://gpu.example"),
        ("[::1]:8188", "[::1]:8188", "http://[::1]:8188"),
        ("https://gate.example/comfy/", "gate.example:443/comfy", "https://gate.example/comfy"),
        ("gate.example:8188/comfy", "gate.example:8188/comfy", "http://gate.example:8188/comfy"),
    ],
)
def test_a_given_server(address: str, name: str, url: str) -> None:
    assert given_server(address) == Server(name=name, url=url)


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("", "E_URL_HOST"),
        ("::1", "E_URL_HOST"),
        ("javascript:alert(1)", "E_URL_HOST"),
        ("//host", "E_URL_HOST"),
        ("127.1:8188", "E_URL_HOST"),
        ("ftp://host", "E_URL_SCHEME"),
        ("169.254.169.254", "E_URL_BLOCKED"),
        ("user:hunter2@host:8188", "E_URL_USERINFO"),
    ],
)
def test_a_given_address_is_checked(address: str, code: str) -> None:
    with pytest.raises(InputInvalid) as caught:
        given_server(address)
    assert caught.value.code == code
    assert "hunter2" not in str(caught.value)
