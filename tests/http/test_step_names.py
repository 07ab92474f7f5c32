"""Steps that a request names: known by their names, and refused where two functions go by one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.http.conftest import OpenSite
from tests.http.test_deciding import until
from towpath import step

pytestmark = pytest.mark.anyio


def make(k: int, name: str) -> Any:
    @step(name=name)
    def times(x: int) -> int:
        return x * k

    return times


double, triple = make(2, "times"), make(3, "times")
four, five = make(4, "by_four"), make(5, "by_five")


def chain_of(*targets: str) -> str:
    steps = [
        f"  - {{id: s{i}, python: '{__name__}:{target}', parameters: {{x: 5}}}}" for i, target in enumerate(targets)
    ]
    return "\n".join(["name: named", "steps:", *steps])


@pytest.mark.parametrize("execute", [True, False])
async def test_a_name_of_two_functions_is_refused_before_anything_is_recorded(
    open_site: OpenSite, execute: bool
) -> None:
    """Otherwise one of both would run, and it would not be known which one."""
    async with open_site(execute=execute) as site:
        answer = await site.post("/api/v1/chains", "operator", json={"yaml": chain_of("by_four", "times")})
        assert answer.status_code >= 400
        assert answer.json()["error"]["code"] == "E_STEP_NAME_TWICE"
        assert (await site.get("/api/v1/chains")).json()["rows"] == []


async def test_steps_of_a_factory_are_known_by_their_names(open_site: OpenSite) -> None:
    """Given names, and the names that the module has for them."""
    async with open_site(execute=True) as site:
        yaml = chain_of("by_four", "by_five", "triple", "double")
        answer = await site.post("/api/v1/chains", "operator", json={"yaml": yaml, "run_id": "named"})
        assert answer.status_code == 202, answer.text
        await until(site, "named", "completed")
        run = await site.engine.snapshot("named")
        assert [one.value for one in run.steps] == [20, 25, 15, 10]


async def test_of_requests_that_ask_for_one_run_id_at_once_one_is_started(open_site: OpenSite) -> None:
    """The other callers get an error; none of them gets the result of another run."""
    async with open_site(execute=False) as site:
        targets = ["by_four", "by_five", "by_four", "by_five"]
        asked = [{"yaml": chain_of(target), "run_id": "race"} for target in targets]
        answers = await asyncio.gather(*(site.post("/api/v1/chains", "operator", json=body) for body in asked))
        assert sorted(answer.status_code for answer in answers) == [202, 409, 409, 409]
        assert {a.json()["error"]["code"] for a in answers if a.status_code == 409} == {"E_RUN_EXISTS"}
        (started,) = (target for target, answer in zip(targets, answers, strict=True) if answer.status_code == 202)
        assert (await site.engine.store.load("race")).plan.steps[0].target == f"{__name__}:{started}"
