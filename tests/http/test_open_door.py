"""The open door: no request gets a byte of a file outside the store, or blocks other requests.

Every way in which text could become a file is in the table `WAYS`; every address is walked with every role.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from towpath import chain

from .conftest import OpenSite, RawAnswer, Site, raw
from .serving import PATIENCE
from .steps import shout, write

pytestmark = pytest.mark.anyio

CANARY = "canary-52d0aa"
INNER = """
name: inner
inputs: { f: { type: file } }
steps:
  - { id: loud, python: "tests.http.steps:shout", parameters: { note: "{{ inputs.f }}" } }
"""
OUTER = """
name: outer
inputs: { t: { type: string, default: "%s" } }
steps:
  - { id: sub, chain: inner, parameters: { f: "{{ inputs.t }}" } }
"""
ONE = """
name: one
inputs: { f: { type: file%s } }
steps:
  - { id: loud, python: "tests.http.steps:shout", parameters: { note: "{{ inputs.f }}" } }
"""
PLAIN = """
name: plain
inputs: { any: { type: json, default: null } }
steps:
  - { id: told, python: "tests.http.steps:write", parameters: { text: %s } }
"""


@chain
def noted(text: str) -> Any:
    note = write(text)
    return shout(note).with_approval()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file outside the store, and one without a suffix in the folder of the chains; requests may read neither."""
    path = tmp_path / "outside" / "canary.txt"
    path.parent.mkdir()
    path.write_text(f"name: {CANARY}\nsteps: [{CANARY}]\n")
    return path


@pytest.fixture
def chains(tmp_path: Path, canary: Path) -> Path:
    """The folder that the server was given. What its author wrote may read files of the folder, and of nothing else."""
    folder = tmp_path / "chains"
    folder.mkdir()
    (folder / "inner.yaml").write_text(INNER)
    (folder / "good.yaml").write_text(ONE % ", source: logo.txt")
    (folder / "logo.txt").write_text("logo")
    (folder / "uses.yaml").write_text("name: uses\nsteps: [{ id: sub, chain: good }]\n")
    (folder / "out.yaml").write_text(ONE % f', source: "{canary}"')
    (folder / "up.yaml").write_text(ONE % ", source: ../outside/canary.txt")
    (folder / "given.yaml").write_text(ONE % f', default: "{canary}"')
    (folder / "linked.yaml").write_text(ONE % ", source: link.txt")
    (folder / "link.txt").symlink_to(canary)
    (folder / "below.yaml").write_text("name: below\nsteps: [{ id: sub, chain: up }]\n")
    (folder / "alias.yaml").symlink_to(canary)
    (folder / "env").write_text(f"name: {CANARY}\nsteps: [{CANARY}]\n")
    (folder / "settings.json").write_text(json.dumps({CANARY: {CANARY: CANARY}}))
    (folder / ".env").write_text(f"KEY={CANARY}\n")
    return folder


Way = Callable[[Path], dict[str, Any]]

WAYS: dict[str, tuple[Way, str]] = {
    # A chain in the request: nobody who could read here wrote it.
    "a default": (lambda p: {"yaml": ONE % f', default: "{p}"'}, "E_INPUT_SOURCE"),
    "a default that is not used": (
        lambda p: {"yaml": ONE % f', default: "{p}"', "inputs": {"f": {"base64": "YQ=="}}},
        "E_INPUT_SOURCE",
    ),
    "a relative default": (lambda p: {"yaml": ONE % ", default: outside/canary.txt"}, "E_INPUT_SOURCE"),
    "a default upwards": (lambda p: {"yaml": ONE % ", default: ../outside/canary.txt"}, "E_INPUT_SOURCE"),
    "the environment": (lambda p: {"yaml": ONE % ", default: /proc/self/environ"}, "E_INPUT_SOURCE"),
    "a source": (lambda p: {"yaml": ONE % f', source: "{p}"'}, "E_INPUT_SOURCE"),
    "a source of the folder": (lambda p: {"yaml": ONE % ", source: logo.txt"}, "E_INPUT_SOURCE"),
    "a source and a target": (lambda p: {"yaml": ONE % f', source: "{p}", target: a.txt'}, "E_INPUT_SOURCE"),
    # What a request gives.
    "text": (lambda p: {"chain": "inner", "inputs": {"f": str(p)}}, "E_INPUT_TYPE"),
    "an address": (lambda p: {"chain": "inner", "inputs": {"f": f"file://{p}"}}, "E_INPUT_TYPE"),
    "a path in a mapping": (lambda p: {"chain": "inner", "inputs": {"f": {"path": str(p)}}}, "E_INPUT_TYPE"),
    "a list": (lambda p: {"chain": "inner", "inputs": {"f": [str(p)]}}, "E_INPUT_TYPE"),
    "text for the author's file": (lambda p: {"chain": "good", "inputs": {"f": str(p)}}, "E_INPUT_TYPE"),
    "a reference": (lambda p: {"chain": "inner", "inputs": {"f": {"$artifact": str(p)}}}, "E_INPUT_TYPE"),
    "a reference in data": (
        lambda p: {"yaml": PLAIN % "x", "inputs": {"any": {"$artifact": str(p)}}},
        "E_VALUE_TYPE",
    ),
    "a kept value in data": (lambda p: {"yaml": PLAIN % "x", "inputs": {"any": {"$stored": str(p)}}}, "E_VALUE_TYPE"),
    "an artifact that is a path": (
        lambda p: {"chain": "inner", "inputs": {"f": {"artifact": str(p)}}},
        "E_ARTIFACT_MISSING",
    ),
    # Chains of the folder that lead out of it.
    "the author's source elsewhere": (lambda p: {"chain": "out"}, "E_INPUT_SOURCE"),
    "the author's source upwards": (lambda p: {"chain": "up.yaml"}, "E_INPUT_SOURCE"),
    "the author's default elsewhere": (lambda p: {"chain": "given"}, "E_INPUT_SOURCE"),
    "the author's source by a link": (lambda p: {"chain": "linked"}, "E_INPUT_SOURCE"),
    "the author's source in a chain inside": (lambda p: {"chain": "below"}, "E_INPUT_SOURCE"),
    "such a chain inside a chain that is sent": (
        lambda p: {"yaml": "name: a\nsteps: [{ id: s, chain: up }]\n"},
        "E_INPUT_SOURCE",
    ),
    # Files as chains and workflows: what is wrong with them would be told.
    "a chain upwards": (lambda p: {"chain": "../outside/canary.txt"}, "E_REF_PATH"),
    "a chain elsewhere": (lambda p: {"chain": str(p)}, "E_REF_PATH"),
    "a chain by a link": (lambda p: {"chain": "alias"}, "E_REF_PATH"),
    "a file that is no chain": (lambda p: {"chain": "env"}, "E_CHAIN_FILE"),
    "a hidden file": (lambda p: {"chain": ".env"}, "E_CHAIN_FILE"),
    "a file that is no chain, as a chain inside": (
        lambda p: {"yaml": "name: a\nsteps: [{ id: s, chain: env }]\n"},
        "E_CHAIN_FILE",
    ),
    "a hidden file as a chain inside": (
        lambda p: {"yaml": 'name: a\nsteps: [{ id: s, chain: ".env" }]\n'},
        "E_CHAIN_FILE",
    ),
    "settings as a workflow": (lambda p: {"yaml": "name: a\nsteps: [{ id: s, workflow: settings }]\n"}, "E_"),
    "a file as a workflow": (lambda p: {"yaml": "name: a\nsteps: [{ id: s, workflow: env }]\n"}, "E_"),
    "a workflow upwards": (
        lambda p: {"yaml": "name: a\nsteps: [{ id: s, workflow: ../outside/canary.txt }]\n"},
        "E_REF_PATH",
    ),
}

TEXT: dict[str, Way] = {
    # Taken, and text it stays.
    "a chain inside": lambda p: {"yaml": OUTER % p},
    "a chain inside, by the request": lambda p: {"yaml": OUTER % "x", "inputs": {"t": str(p)}},
    "a step's parameter": lambda p: {"yaml": PLAIN % f'"file://{p}"'},
    "data": lambda p: {"yaml": PLAIN % "x", "inputs": {"any": {"path": str(p), "deep": [str(p)]}}},
    "a file's name": lambda p: {"chain": "inner", "inputs": {"f": {"base64": "YQ==", "filename": str(p)}}},
}


@asynccontextmanager
async def opened(open_site: OpenSite, chains: Path, execute: bool) -> AsyncIterator[Site]:
    async with open_site(execute=execute, chains=chains, changes_a_minute=100_000) as site:
        yield site


def kept_nothing(store: Path) -> None:
    for path in store.parent.rglob("*"):
        if path.is_file() and not {"outside", "chains"} & set(path.parts):
            assert CANARY.encode() not in path.read_bytes().replace(b"CANARY", b"canary"), path


async def over(site: Site, run_id: str) -> dict[str, Any]:
    with anyio.fail_after(PATIENCE):
        while True:
            row: dict[str, Any] = (await site.get(f"/api/v1/chains/{run_id}")).json()
            if row["completed_at"] is not None or row["status"] == "paused":
                return row
            await anyio.sleep(0.02)


@pytest.mark.parametrize("execute", [False, True])
async def test_no_way_from_text_to_a_file(
    open_site: OpenSite, store: Path, chains: Path, canary: Path, execute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before anything is recorded, with a cure, and without a byte of what was named."""
    monkeypatch.chdir(store.parent)
    async with opened(open_site, chains, execute) as site:
        for name, (way, code) in WAYS.items():
            answer = await site.post("/api/v1/chains", "operator", json=way(canary))
            assert answer.status_code in (404, 422), (name, answer.text)
            problem = answer.json()["error"]
            codes = {problem["code"], *(one["code"] for one in problem.get("problems", ()))}
            assert any(one.startswith(code) for one in codes), (name, answer.text)
            assert CANARY not in answer.text, name
        assert (await site.get("/api/v1/chains")).json()["rows"] == []
        assert CANARY not in (await site.get("/api/v1/chain-files")).text
    kept_nothing(store)


@pytest.mark.parametrize("execute", [False, True])
async def test_text_stays_text(open_site: OpenSite, store: Path, chains: Path, canary: Path, execute: bool) -> None:
    async with opened(open_site, chains, execute) as site:
        for name, way in TEXT.items():
            answer = await site.post("/api/v1/chains", "operator", json=way(canary))
            assert answer.status_code == 202 or name == "a file's name", (name, answer.text)
            if execute and answer.status_code == 202:
                row = await over(site, answer.json()["id"])
                steps = {one["step_id"]: one["error_code"] for one in row["steps"]}
                assert steps.get("sub", "E_INPUT_TYPE") == "E_INPUT_TYPE", (name, steps)
    kept_nothing(store)


@pytest.mark.parametrize("execute", [False, True])
async def test_what_the_author_of_a_chain_in_the_folder_wrote(open_site: OpenSite, chains: Path, execute: bool) -> None:
    """A chain of the folder may read files of that folder, also as a chain inside another one."""
    async with opened(open_site, chains, execute) as site:
        for name in ("good", "uses"):
            answer = await site.post("/api/v1/chains", "operator", json={"chain": name})
            assert answer.status_code == 202, answer.text
            if execute:
                assert (await over(site, answer.json()["id"]))["status"] == "completed"
        rows = {one["chain"]: one for one in (await site.get("/api/v1/chain-files")).json()["rows"]}
        assert rows["good.yaml"]["valid"] and rows["uses.yaml"]["valid"]
        for name in ("out", "up", "given", "linked", "below", "alias"):
            assert not rows[f"{name}.yaml"]["valid"], name


async def test_nothing_that_changes_a_run_opens_a_file(
    open_site: OpenSite, store: Path, chains: Path, canary: Path
) -> None:
    """A rerun with other inputs or parameters, a decision with parameters, an edited value: all text."""
    async with opened(open_site, chains, execute=True) as site:
        logo = {"base64": base64.b64encode(b"logo").decode()}
        made = (await site.post("/api/v1/chains", "operator", json={"chain": "inner", "inputs": {"f": logo}})).json()
        await over(site, made["id"])
        again = f"/api/v1/chains/{made['id']}/rerun"
        for given in (str(canary), f"file://{canary}", {"path": str(canary)}, [str(canary)], {"$artifact": "x"}):
            answer = await site.post(again, "operator", json={"inputs": {"f": given}})
            assert (answer.status_code, answer.json()["error"]["code"]) == (422, "E_INPUT_TYPE"), answer.text
        answer = await site.post(again, "operator", json={"inputs": {"f": logo}})
        assert answer.status_code == 202
        outer = (await site.post("/api/v1/chains", "operator", json={"yaml": OUTER % "x"})).json()
        await over(site, outer["id"])
        again = f"/api/v1/chains/{outer['id']}/rerun"
        for body in ({"parameters": {"sub.f": str(canary)}}, {"inputs": {"t": str(canary)}}):
            answer = await site.post(again, "operator", json=body)
            assert answer.status_code == 202, answer.text
            row = await over(site, answer.json()["id"])
            assert [one["error_code"] for one in row["steps"] if one["step_id"] == "sub"] == ["E_INPUT_TYPE"]
    kept_nothing(store)


# ---- every address with every role

EDGE = "multipart/form-data; boundary=x"


def hostile(canary: Path, size: int) -> list[tuple[str, bytes]]:
    """Bodies of a size, each with the path of the canary where a path could be taken for one."""
    names = ",".join(f'"{at}":1' for at in range(size // 8))
    form = "&".join(f"f{at}={canary}" for at in range(size // 40))
    part = f'--x\r\nContent-Disposition: form-data; name="file"; filename="{canary.name}"\r\n\r\n'
    return [
        ("application/json", f'{{{names},"0":2}}'.encode()),
        ("application/json", b'"' + b'\\"' * (size // 2)),
        ("application/json", json.dumps({"yaml": ONE % f', default: "{canary}"' + "\n" * size}).encode()),
        (
            "application/json",
            json.dumps({"chain": str(canary), "inputs": {"f": [str(canary)] * (size // 40)}}).encode(),
        ),
        ("application/json", json.dumps({"inputs": {"f": str(canary)}, "parameters": {"sub.f": str(canary)}}).encode()),
        ("application/x-www-form-urlencoded", form.encode()),
        ("application/x-www-form-urlencoded", b"%" * size),
        (EDGE, (part + "\r\n--" * (size // 4)).encode()),
        (EDGE, (f"--x\r\na: {canary}\r\n" * (size // 40)).encode()),
        (f"file://{canary}", str(canary).encode()),
    ]


@pytest.mark.parametrize("execute", [False, True])
async def test_every_address_with_every_role_and_hostile_bodies(
    open_site: OpenSite, store: Path, chains: Path, canary: Path, execute: bool
) -> None:
    """No response holds a byte of the canary, and none is a server error.

    Without a key, only the small body of a login is read; of a body ten times as large, not more is read.
    """
    async with opened(open_site, chains, execute) as site:
        run = await site.engine.run(noted, text="a")
        ids = [run.id, "1", str(canary).replace("/", "%2F"), "..%2F..%2Foutside%2Fcanary.txt", "%00", "last"]
        read: dict[tuple[str, str, int], list[int]] = {}
        for row in site.app.state.table.rows:
            if row.path.endswith("/events"):
                continue  # endless by design; it reads no body
            for role in (None, *site.keys):
                headers = [] if role is None else [(b"authorization", f"Bearer {site.keys[role]}".encode())]
                for at, size in enumerate((400, 4_000)):
                    bodies = [("", b"")] if row.method == "GET" else hostile(canary, size)
                    for number, (kind, body) in enumerate(bodies):
                        path = re.sub(r"{\w+(:int)?}", ids[(number + at) % len(ids)], row.path)
                        answer, taken = await _asked(site, row.method, path, [*headers], kind, body, canary)
                        assert answer.status < 500, (row, role, kind, body[:80], answer.body)
                        assert CANARY.encode() not in answer.body, (row, role, kind)
                        if role is None:
                            read.setdefault((row.method, row.path, number), []).append(taken)
        for (method, path, _), (small, large) in read.items():
            if path not in ("/login", "/logout"):
                assert small == large == 0, f"{method} {path} reads a body of nobody"
            assert large <= 16 * 1024
    kept_nothing(store)


async def _asked(
    site: Site, method: str, path: str, headers: list[tuple[bytes, bytes]], kind: str, body: bytes, canary: Path
) -> tuple[RawAnswer, int]:
    """The answer to a body in pieces, and how many bytes of it were taken."""
    taken = 0

    class Pieces(list[bytes]):
        def pop(self, at: Any = -1) -> bytes:
            nonlocal taken
            piece = super().pop(at)
            taken += len(piece)
            return piece

    pieces = [body[at : at + 1_000] for at in range(0, len(body), 1_000)] or [b""]
    query = f"next={canary}&filename={canary.name}".encode() if "versions" in path else b""
    kinds = [(b"content-type", kind.encode())] if kind else []
    answer = await raw(site.app, method, path, [*headers, *kinds], Pieces(pieces), query)
    return answer, taken
