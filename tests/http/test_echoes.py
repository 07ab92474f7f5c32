"""Refusals that repeat the request: `***` in one would confirm a guess at a secret."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import OpenSite, Site, raw

pytestmark = pytest.mark.anyio

HELD = "canary-7f3aQz81wR"
OTHER = "canary-7f3aQz81wX"


def _odd(guess: str) -> dict[str, Any]:
    """Requests without a key, with a guess in every part that is parsed."""
    text = guess.encode()
    return {
        "a host": {"headers": [(b"host", text)]},
        "a host with a port": {"headers": [(b"host", text + b":80")]},
        "an origin": {"headers": [(b"origin", b"http://" + text)]},
        "a site": {"method": "POST", "headers": [(b"sec-fetch-site", text)]},
        "a parameter twice": {"query": text + b"=1&" + text + b"=2"},
        "a method": {"method": guess},
        "an address": {"path": f"/api/v1/{guess}"},
        "an id": {"path": f"/api/v1/chains/{guess}"},
        "a name to sign in with": {
            "method": "POST",
            "path": "/login",
            "headers": [(b"content-type", b"application/json")],
            "chunks": [b'{"' + text + b'": 1}'],
        },
        "a body of another type": {"method": "POST", "path": "/login", "headers": [(b"content-type", text)]},
        "a size": {"method": "POST", "path": "/login", "headers": [(b"content-length", text)]},
        "the token of a link": {"path": f"/a/{guess}"},
        "a key": {"headers": [(b"authorization", b"Bearer " + text)]},
        "a scheme": {"headers": [(b"authorization", text)]},
    }


@pytest.mark.parametrize("place", _odd(""))
async def test_nobody_learns_whether_a_guess_is_right(
    place: str, open_site: OpenSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers to a right guess and to a wrong one are the same, wherever it is put."""
    monkeypatch.setenv("HTTP_CANARY_KEY", HELD)
    async with open_site() as site:
        told = []
        for guess in (HELD, OTHER):
            request = {"method": "GET", "path": "/api/v1/health", **_odd(guess)[place]}
            answer = await raw(site.app, request.pop("method"), request.pop("path"), **request)
            told.append((answer.status, answer.body))
    assert told[0] == told[1]
    assert b"***" not in told[0][1]
    assert OTHER.encode() not in told[1][1]


async def test_a_key_that_is_refused_again_and_again_is_told_less(site: Site) -> None:
    """A mistake or two are explained; who tries a list of guesses learns nothing from the answers any more."""
    texts = [(await site.get(f"/api/v1/chains?limit=guess{number}")).json()["error"] for number in range(70)]
    assert texts[0]["found"] == "guess0"
    assert all("found" in text for text in texts[:60])
    assert not any("found" in text for text in texts[60:])
    assert {text["code"] for text in texts} == {"E_PARAM_TYPE"}
    other = await site.get("/api/v1/chains?limit=guess", "operator")
    assert other.json()["error"]["found"] == "guess", "another key is not concerned"
