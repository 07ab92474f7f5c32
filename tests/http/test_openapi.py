"""The OpenAPI document says what is routed, and schemathesis finds no 5xx against it."""

from __future__ import annotations

import copy
import os
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import jsonschema_rs
import pytest

from towpath.adapters.http.routes import API, api_document

from .conftest import OpenSite, Site
from .serving import PATIENCE, on_a_socket
from .steps import plain, story

pytestmark = pytest.mark.anyio


async def test_the_document_is_the_table(site: Site) -> None:
    """Every route but the document's own, with its role; every reference leads somewhere."""
    document = (await site.get("/api/v1/openapi.json")).json()
    said = {(method.upper(), path, at["x-role"]) for path, m in document["paths"].items() for method, at in m.items()}
    assert said == {(row.method, f"/api/v1{row.path}", row.role) for row in API if row.path != "/openapi.json"}
    schemas = document["components"]["schemas"]
    assert all(ref.rpartition("/")[2] in schemas for ref in references(document))
    ids = [at["operationId"] for m in document["paths"].values() for at in m.values()]
    assert len(ids) == len(set(ids))


def references(part: Any) -> list[str]:
    if isinstance(part, dict):
        own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
        return own + [ref for inner in part.values() for ref in references(inner)]
    return [ref for inner in part for ref in references(inner)] if isinstance(part, list) else []


async def test_the_document_is_openapi() -> None:
    """What an independent reader of the format takes."""
    document = api_document()
    assert document["openapi"] == "3.1.0"
    assert len(document["components"]["schemas"]) > 20
    for schema in document["components"]["schemas"].values():
        assert jsonschema_rs.validator_for({**schema, "components": document["components"]}) is not None


async def test_answers_have_the_shape_that_the_document_says(site: Site) -> None:
    """Real answers against the schemas of the document."""
    document = api_document()
    run = await site.engine.run(plain)
    waits = await site.engine.run(story)
    (gate,) = await site.engine.approvals()
    artifact = run["write"].artifact.id
    workflow = (await site.engine.get_workflows_by_chain(run.id))[0].id
    places = {"chains": run.id, "artifacts": artifact, "approvals": gate["id"], "workflows": workflow}
    checked = 0
    for path, methods in document["paths"].items():
        kind = path.split("/")[3]
        if "get" not in methods or ("{" in path and kind not in places):
            continue
        content = methods["get"]["responses"]["200"]["content"]
        if "application/json" not in content:
            continue
        answer = await site.get(path.replace("{id}", places.get(kind, "")), "admin")
        assert answer.status_code == 200, path
        schema = {**content["application/json"]["schema"], "components": document["components"]}
        jsonschema_rs.validate(schema, answer.json())
        checked += 1
    assert checked >= 18
    assert waits.status == "paused"


async def test_schemathesis_finds_no_5xx(open_site: OpenSite) -> None:
    """Generated requests for every operation, right and wrong ones, with the least key that it takes: never a 5xx."""
    import schemathesis
    from anyio.to_thread import run_sync

    async with open_site() as site:
        run = await site.engine.run(plain)
        await site.engine.run(story)
        (gate,) = await site.engine.approvals()
        step = gate["workflow_id"]
        real = {"chains": run.id, "artifacts": gate["artifact_ids"][0], "approvals": gate["id"], "workflows": step}
        async with on_a_socket(site.app) as url:
            found = await run_sync(_fuzz, schemathesis, _fuzzed(real), url, {**site.keys, "anyone": ""})
        assert found == []


def _fuzzed(real: dict[str, str]) -> dict[str, Any]:
    """The document without its security (every request has a key), with ids that exist among those to try."""
    document: dict[str, Any] = copy.deepcopy(api_document())
    del document["security"], document["components"]["securitySchemes"]
    for path, methods in document["paths"].items():
        for method, at in methods.items():
            for parameter in at["parameters"]:
                kind = path.split("/")[3]
                if parameter["in"] == "path" and kind in real:
                    there = [] if method == "delete" else [real[kind]]  # else there would be nothing left to try
                    parameter["schema"] = {"type": "string", "enum": [*there, "unknown"]}
    return document


def _fuzz(schemathesis: Any, document: dict[str, Any], url: str, keys: dict[str, str]) -> list[str]:
    """What answered 5xx, each with the request that did it."""
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=url)
    bad: list[str] = []
    tried: Counter[str] = Counter()
    answered: Counter[int] = Counter()
    found: set[str] = set()

    for result in schema.get_all_operations():
        operation = result.ok()
        method, path = operation.method.lower(), operation.path
        key = keys[document["paths"][path][method]["x-role"]]
        headers = {"Authorization": f"Bearer {key}"} if key else {}

        def play(case: Any, place: str, headers: dict[str, str]) -> None:
            answer = case.call(headers=headers, timeout=PATIENCE)
            tried[place] += 1
            answered[answer.status_code] += 1
            if answer.status_code < 300:
                found.add(place)
            if answer.status_code >= 500:
                bad.append(f"{case.method} {case.formatted_path}: {answer.status_code} {answer.text[:200]}")

        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            cases = operation.as_strategy(generation_mode=mode)
            _examples(cases, partial(play, place=f"{method} {path}", headers=headers), mode.is_negative)

    every = {f"{method} {path}" for path, methods in document["paths"].items() for method in methods}
    assert set(tried) == every
    assert tried.total() > 10 * len(every), tried
    looked_at = {place for place in every if place.startswith("get")}
    assert looked_at - found <= {"get /api/v1/transfers/{id}"}, "there is no transfer; all else is shown"
    assert answered[401] + answered[403] + answered[429] == 0, "every request gets past the door"
    return bad


def _examples(cases: Any, play: Callable[[Any], None], may_be_none: bool) -> None:
    """Play generated cases; of a request that takes nothing there are no wrong ones."""
    from hypothesis import HealthCheck, Phase, Verbosity, given, settings
    from hypothesis.errors import Unsatisfiable

    @given(case=cases)
    @settings(
        max_examples=int(os.environ.get("TOWPATH_FUZZ", "15")),
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )
    def played(case: Any) -> None:
        play(case)

    try:
        played()
    except Unsatisfiable:
        if not may_be_none:
            raise
