"""Addresses of servers: the corpus, spellings that hide a host, the allow list, redirects."""

from __future__ import annotations

import time
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.corpus import Case, cases
from towpath.adapters.comfyui.addresses import redirect_target, server_url
from towpath.errors import InputInvalid, ServerFailed

LISTED = ["http://127.0.0.1:8188", "https://gpu.example:8188", "https://gate.example/comfy/"]


def refusal(text: str, listed: list[str] | None = None) -> InputInvalid:
    with pytest.raises(InputInvalid) as caught:
        server_url(text, listed=listed)
    assert len(str(caught.value)) < 600
    return caught.value


@pytest.mark.parametrize("case", cases("server_url"), ids=lambda case: case.id)
def test_corpus(case: Case) -> None:
    if case.verdict == "accept":
        assert server_url(case.input, listed=LISTED) == case.input
        assert refusal(case.input, []).code == "E_URL_BLOCKED"
    elif case.codes:
        assert refusal(case.input).code in case.codes
        assert refusal(case.input, [*LISTED, "http://host"]).code in case.codes
    else:  # "unless listed"
        assert refusal(case.input, LISTED).code == "E_URL_BLOCKED"
        assert server_url(case.input, listed=[*LISTED, case.input])


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:8188/", "http://127.0.0.1:8188"),
        ("HTTP://GPU.Example:80", "http://gpu.example"),
        ("https://gpu.example.:443/comfy//", "https://gpu.example/comfy"),
        ("http://comfy_1:08188", "http://comfy_1:8188"),
        ("http://[::1]:8188", "http://[::1]:8188"),
        ("http://[0:0:0:0:0:0:0:1]", "http://[::1]"),
        ("http://[::FFFF:127.0.0.1]:8188", "http://127.0.0.1:8188"),
        ("http://[fd12:3456::1]", "http://[fd12:3456::1]"),
        ("http://192.168.1.7:8188", "http://192.168.1.7:8188"),
        ("http://10.0.0.1", "http://10.0.0.1"),
        ("http://xn--mnchen-3ya.example", "http://xn--mnchen-3ya.example"),
        ("http://localhost/a%20b/@x", "http://localhost/a%20b/@x"),
        ("http://1.example", "http://1.example"),
    ],
)
def test_one_spelling_for_each_server(text: str, url: str) -> None:
    assert server_url(text) == url
    assert server_url(url) == url
    assert server_url(text, listed=[url]) == url
    assert server_url(url, listed=[text]) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        "host:8188",
        "/path",
        "?x",
        "http",
        "://host",
        "ws://host",
        "data:,x",
        " http://host",
        "\nhttp://host",
        "ｈttp://host",
        "http\0://host",
        "https+unix://x",
    ],
)
def test_other_schemes(text: str) -> None:
    assert refusal(text).code == "E_URL_SCHEME"


@pytest.mark.parametrize(
    "text",
    [
        "http:host",
        "http:/host",
        "http:///host",
        "http://:80",
        "http://.",
        "http://host:",
        "http://host:0",
        "http://host:65536",
        "http://host:٨٠",
        "http://host:80:80",
        "http://host:-1",
        "http://::1",
        "http://[::1",
        "http://[::1]x",
        "http://[::g]",
        "http://[fe80::1%25eth0]",
        "http://[v1.x]",
        "http://[127.0.0.1]",
        "http://127.0.0.1%2f.evil.example",
        "http://2130706433",
        "http://0x7f000001",
        "http://127.0.0.0x1",
        "http://127.0.0.01",
        "http://0177.0.0.1",
        "http://1.2.3.4.5",
        "http://256.1.1.1",
        "http://a..b",
        "http://-a",
        "http://a-",
        "http://" + "a" * 64,
        "http://" + "a." * 127 + "ab",
        "http://xn--a-.example",
        "http://xn--localhost-",
        "http://xn--99999999.example",
        "http://münchen.example",
        "http://①②⑦.0.0.1",
        "http://127。0。0。1",
        "http://host\t/",
        "http://host\x7f/",
        "http://host/\x85",
        "http://host/a b",
        "http://host/a\\b",
        "http://host\\.evil.example/",
        "http://host/ü",
        "http://host/%zz",
        "http://host/a/../b",
        "http://host/a/%2e%2E/b",
        "http://host/a/..%2fb",
        "http://host/a/..%5cb",
        "http://host/./",
        "http://host?",
        "http://host/?token=secret",
        "http://host#",
        "http://host/" + "a" * 2_000,
        "http://host/\ud800",
    ],
)
def test_hosts_and_paths_that_can_be_misread(text: str) -> None:
    assert refusal(text).code == "E_URL_HOST"


@pytest.mark.parametrize(
    "text",
    [
        "http://169.254.170.2",
        "http://169.254.169.254.",
        "https://METADATA.google.internal.:8188",
        "http://metadata",
        "http://0.1.2.3",
        "http://224.0.0.1",
        "http://255.255.255.255",
        "http://[0:0:0:0:0:0:0:0]",
        "http://[fe80::1]",
        "http://[febf::1]",
        "http://[ff02::1]",
        "http://[fd00:ec2::254]",
        "http://[::ffff:a9fe:a9fe]",
        "http://[::169.254.169.254]",
        "http://[::ffff:0.0.0.0]",
        "http://[64:ff9b::169.254.169.254]",
        "http://[2002:a9fe:a9fe::1]",
        "http://[::ffff:100.100.100.200]",
    ],
)
def test_addresses_without_servers_are_refused_even_if_listed(text: str) -> None:
    assert refusal(text).code == "E_URL_BLOCKED"
    with pytest.raises(ServerFailed) as caught:
        redirect_target("http://127.0.0.1:8188/view", text, LISTED)
    assert caught.value.code == "E_URL_BLOCKED"
    with pytest.raises(InputInvalid):
        server_url(text, listed=[text])


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("http://user:hunter2@host/", "E_URL_USERINFO"),
        ("http://hunter2@host/", "E_URL_USERINFO"),
        ("http://@hunter2/", "E_URL_USERINFO"),
        ("http://a@b@hunter2/", "E_URL_USERINFO"),
        ("http://user:pa@hunter2/ss@host", "E_URL_USERINFO"),
        ("http://user:pa/hunter2@host", "E_URL_HOST"),
        ("http://user:hunter2 x@host", "E_URL_HOST"),
        ("http://host/?token=hunter2", "E_URL_HOST"),
        ("http://host/#hunter2", "E_URL_HOST"),
        ("user:hunter2@host:8188", "E_URL_SCHEME"),
        ("ftp://user:hunter2@host", "E_URL_SCHEME"),
    ],
)
def test_secrets_are_not_told(text: str, code: str) -> None:
    error = refusal(text)
    assert error.code == code
    assert "hunter2" not in f"{error}{error.problem}{error!r}"


@pytest.mark.parametrize(
    ("text", "under"),
    [
        ("https://gate.example/comfy", True),
        ("https://gate.example:443/comfy/view", True),
        ("https://GATE.example/comfy//x", True),
        ("https://gate.example", False),
        ("https://gate.example/comfy2", False),
        ("https://gate.example/Comfy", False),
        ("http://gate.example/comfy", False),
        ("https://gate.example:8443/comfy", False),
        ("https://a.gate.example/comfy", False),
        ("http://127.0.0.1:8188/anything", True),
        ("http://127.0.0.1", False),
        ("http://localhost:8188", False),
    ],
)
def test_listed_addresses(text: str, under: bool) -> None:
    if under:
        assert server_url(text, listed=LISTED)
    else:
        assert refusal(text, LISTED).code == "E_URL_BLOCKED"


# ---- redirects

BASE = "https://gate.example/comfy/view?filename=a.png"


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/comfy/", "https://gate.example/comfy/"),
        ("/comfy", "https://gate.example/comfy"),
        ("x?a=1&b=%20#frag", "https://gate.example/comfy/x?a=1&b=%20"),
        ("?again", "https://gate.example/comfy/view?again"),
        ("./y/../x", "https://gate.example/comfy/x"),
        ("https://GATE.example:443/comfy/x", "https://gate.example/comfy/x"),
        ("//gpu.example:8188/", "https://gpu.example:8188/"),
        ("https://gpu.example:8188/view?x", "https://gpu.example:8188/view?x"),
        ("http://127.0.0.1:8188", "http://127.0.0.1:8188"),
        ("/comfy/我.png", "https://gate.example/comfy/%E6%88%91.png"),
    ],
)
def test_redirects(location: str, target: str) -> None:
    assert redirect_target(BASE, location, LISTED) == target


@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("file:///etc/passwd", "E_URL_SCHEME"),
        ("gopher://127.0.0.1:6379/_x", "E_URL_SCHEME"),
        ("javascript:alert(1)", "E_URL_SCHEME"),
        ("http://169.254.169.254/", "E_URL_BLOCKED"),
        ("//169.254.169.254/latest", "E_URL_BLOCKED"),
        ("http://gate.example/comfy/x", "E_URL_BLOCKED"),
        ("//evil.example/comfy", "E_URL_BLOCKED"),
        ("/admin", "E_URL_BLOCKED"),
        ("../admin", "E_URL_BLOCKED"),
        ("/comfy/../admin", "E_URL_BLOCKED"),
        ("/comfy/%2e%2e/admin", "E_URL_HOST"),
        ("/comfy/..%2fadmin", "E_URL_HOST"),
        ("https://gate.example@evil.example/comfy/", "E_URL_USERINFO"),
        ("https://u:hunter2@gate.example/comfy/", "E_URL_USERINFO"),
        ("https://evil.example#@gate.example/comfy/", "E_URL_HOST"),
        ("https://gate.example\\@evil.example/comfy", "E_URL_HOST"),
        ("/\\evil.example/comfy/", "E_URL_HOST"),
        ("/comfy/\r\nX: y", "E_URL_HOST"),
        ("/co\tmfy/", "E_URL_HOST"),
        ("/comfy/a b", "E_URL_HOST"),
        ("https://gate。example/comfy/", "E_URL_HOST"),
        ("https://127.1:8188/", "E_URL_HOST"),
        ("//[::1", "E_URL_HOST"),
        ("/comfy/\ud800", "E_URL_HOST"),
        ("", "E_URL_HOST"),
    ],
)
def test_redirects_that_are_refused(location: str, code: str) -> None:
    with pytest.raises(ServerFailed) as caught:
        redirect_target(BASE, location, LISTED)
    assert caught.value.code == code
    assert not caught.value.retryable
    assert "hunter2" not in str(caught.value)


# ---- what every other program reads

PIECES = st.sampled_from(
    "http:// https:// / \\ @ # ? : . .. [ ] %2e ::1 127.0.0.1 169.254.169.254 xn-- a ⓛ :80".split()
)


@given(st.lists(PIECES | st.text(max_size=3), max_size=8).map("".join))
@example("//evil.example\\@127.0.0.1:8188")
def test_an_accepted_address_means_the_same_host_to_the_client(rest: str) -> None:
    try:
        url = server_url(f"http://{rest}")
    except InputInvalid:
        return
    ours, sent = urlsplit(url), httpx.URL(url)
    assert server_url(url) == url
    assert sent.raw_host.decode() == ours.hostname
    assert sent.port == ours.port
    assert not sent.userinfo and not sent.query and not sent.fragment


@given(st.lists(PIECES | st.text(max_size=3), max_size=8).map("".join))
@example("///evil.example/comfy/")
@example("//gate.example:443//evil.example")
def test_a_redirect_never_leaves_the_listed_servers(location: str) -> None:
    try:
        target = redirect_target(BASE, location, ["https://gate.example/comfy"])
    except ServerFailed:
        return
    sent = httpx.URL(target)
    assert (sent.scheme, sent.host, sent.port) == ("https", "gate.example", None)
    assert sent.path == "/comfy" or sent.path.startswith("/comfy/")


@pytest.mark.parametrize("unit", ["a", "a.", "1.", ":", "%20", "/", "../", "@", "[", "\u0301\u0323", "xn--"])
def test_long_addresses_are_refused_at_once(unit: str) -> None:
    began = time.perf_counter()
    assert refusal("http://" + unit * 100_000).code
    with pytest.raises(ServerFailed):
        redirect_target(BASE, "https://" + unit * 100_000, LISTED)
    assert time.perf_counter() - began < 1
