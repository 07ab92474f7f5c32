"""Cases of the corpus as parameters of tests: every test is named by the id of its case."""

from __future__ import annotations

import json
import re
from functools import cache
from types import ModuleType
from typing import Any

import httpx
import pytest

from tests.corpus import Case, cases

from .conftest import RawAnswer

GROUPS = ("http_auth", "http_body", "artifact_download", "approval_token", "sql", "secrets")


@cache
def cases_by_id() -> dict[str, Case]:
    """Every case of the groups that a server has to do with."""
    return {case.id: case for group in GROUPS for case in cases(group)}


def of_corpus(*rows: str | tuple[Any, ...], names: str = "") -> pytest.MarkDecorator:
    """Run a test once for each row: the case as `wanted`, and what else the row holds under `names`."""
    made, seen = [], dict.fromkeys(cases_by_id(), 0)
    for row in rows:
        case_id, *more = (row,) if isinstance(row, str) else row
        seen[case_id] += 1
        again = f"-{seen[case_id]}" if seen[case_id] > 1 else ""
        made.append(pytest.param(cases_by_id()[case_id], *more, id=case_id + again))
    return pytest.mark.parametrize(", ".join(["wanted", *names.split()]), made)


def played(module: ModuleType) -> set[str]:
    """The ids of the cases that the tests of a module are run with."""
    return {
        row.values[0].id
        for test in vars(module).values()
        for mark in getattr(test, "pytestmark", ())
        if mark.name == "parametrize" and "wanted" in mark.args[0]
        for row in mark.args[1]
    }


def ids(group: str) -> set[str]:
    """The ids of a group."""
    return {case.id for case in cases(group)}


def fits(answer: RawAnswer | httpx.Response, wanted: Case) -> None:
    """Status and code are those that the corpus states."""
    raw = isinstance(answer, RawAnswer)
    status, body = (answer.status, answer.body) if raw else (answer.status_code, answer.content)
    allowed = re.findall(r"\b[1-5]\d\d\b", re.sub(r"never \d+", "", wanted.expect))
    assert str(status) in (allowed or ["400", "422"]), (status, body[:300], wanted.expect)
    if wanted.codes:
        assert json.loads(body)["error"]["code"] in wanted.codes, (body[:300], wanted.codes)
