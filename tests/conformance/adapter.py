# ruff: noqa: ASYNC240 - tests and steps meet through files
"""What every adapter must do. A test module takes the suite with `from tests.conformance.adapter import *`
and gives two fixtures:

- `open_engine`: opens an engine on the test's own store, as often as it is called, with the arguments of
  `towpath.open_engine` behind the store's;
- `commits`: the number of transactions that an engine has recorded so far.

Gates have a second half of the suite, `gates.py`, which a test module takes in the same way. Steps meet in
`folder`, see `chain_steps.py`. Every test ends with `settled`, which checks the rows.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import msgspec
import pytest

from tests.conformance import chain_steps as steps
from tests.conformance.chain_steps import TICK, began, let_go, noted
from towpath import (
    ApprovalRefused,
    ChainFailed,
    ChainInvalid,
    Engine,
    FeatureMissing,
    File,
    InputInvalid,
    Run,
    RunRefused,
    StepNotCompleted,
    chain,
)
from towpath.model import ChainStatus, InputSpec, Plan, StepStatus

OpenEngine = Callable[..., AbstractAsyncContextManager[Engine]]
Commits = Callable[[Engine], int]

DONE, FAILED, SKIPPED, CANCELLED = "completed", "failed", "skipped", "cancelled"
WAITS, RUNS, QUEUED, CACHED = "waiting_approval", "executing", "queued", "cached"
FINAL = {status.value for status in StepStatus if status.final}


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Where the steps of a test meet."""
    path = tmp_path / "meeting"
    path.mkdir()
    return str(path)


# ---- looking at the store


async def rows(engine: Engine, run: Run | str) -> dict[str, Any]:
    """The rows of a run by `step` or `step[item]`."""
    run_id = run if isinstance(run, str) else run.id
    found = await engine.get_workflows_by_chain(run_id)
    named: dict[str, Any] = {r.step_id if r.item_index is None else f"{r.step_id}[{r.item_index}]": r for r in found}
    assert len(named) == len(found), "a step or item has two rows"
    return named


async def settled(engine: Engine, run: Run | str) -> dict[str, str]:
    """The statuses of a run's rows, after checking what must hold for any of them (S6.4, T8)."""
    run_id = run if isinstance(run, str) else run.id
    chain_row = await engine.get_chain(run_id)
    if isinstance(run, Run):
        assert chain_row.status == run.status
    assert (chain_row.completed_at is not None) == ChainStatus(chain_row.status).final
    named = await rows(engine, run_id)
    for name, row in named.items():
        assert chain_row.started_at <= row.queued_at, name
        if row.started_at is not None:
            assert row.queued_at <= row.started_at, name
        if row.status in FINAL:
            assert row.completed_at is not None, name
            assert row.completed_at >= (row.started_at or row.queued_at), name
            assert chain_row.completed_at is None or row.completed_at <= chain_row.completed_at, name
        else:
            assert row.completed_at is None, name
            assert not ChainStatus(chain_row.status).final, f"{name} is open in a run that is over"
        if row.status in (DONE, RUNS, WAITS):
            assert row.started_at is not None, name
            assert row.attempt >= 1, name
        if row.status == FAILED:
            assert row.error_code.startswith("E_"), name
            assert row.error_message, name
        await _versions(engine, row)
    return {name: row.status for name, row in named.items()}


async def _versions(engine: Engine, row: Any) -> None:
    """Versions 1..n without gaps, one of them the latest, and a pointer that is one of the latest."""
    kept = await engine.get_artifacts_by_workflow(row.id, include_old_versions=True)
    latest = {a.id for a in kept if a.is_latest}
    for name in {a.name for a in kept}:
        same = [a for a in kept if a.name == name]
        assert sorted(a.version for a in same) == list(range(1, len(same) + 1))
        assert sum(a.is_latest for a in same) == 1
    assert (row.latest_artifact_id in latest) if kept else row.latest_artifact_id is None


async def trail(engine: Engine, run_id: str) -> dict[str, list[str]]:
    """The types of the recorded facts, per step (`""`: of the chain), in order."""
    told: dict[str, list[str]] = {}
    for event in await engine.store.events(run_id):
        data = event["data"]
        item = "" if "item" not in data else f"[{data['item']}]"
        told.setdefault(f"{data['step']}{item}" if "step" in data else "", []).append(event["type"])
    return told


async def until(check: Callable[[], Any], within: float = 10.0) -> None:
    """Wait until `check()` (or what it awaits) is true."""
    with anyio.fail_after(within):
        while True:
            result = check()
            if await result if hasattr(result, "__await__") else result:
                return
            await anyio.sleep(TICK)


async def status_of(engine: Engine, run_id: str, step: str) -> str | None:
    row = (await rows(engine, run_id)).get(step)
    return None if row is None else str(row.status)


async def pending(engine: Engine, run: Run | str, step: str | None = None) -> Any:
    """The only gate of a run (and step) that waits, those of chains inside its steps left out."""
    run_id = run if isinstance(run, str) else run.id
    found = [a for a in await engine.approvals(run_id) if a.run == run_id and step in (None, a.step)]
    assert len(found) == 1
    return found[0]


def of_plan(plan: Plan) -> Any:
    """Something to run, of a plan made by hand."""
    return SimpleNamespace(plan=plan, steps={})


# ---- shapes


@chain
def linear(n: int = 1):
    return steps.double(steps.double(steps.number(n)))


@chain
def diamond(n: int = 1):
    first = steps.number(n)
    return steps.add(steps.double(first), steps.double(first))


@chain
def fan_out(n: int):
    return steps.total(steps.double.map(steps.up_to(n)))


async def test_linear(open_engine: OpenEngine) -> None:
    """Each step gets the value of the one before; the chain's value is what the function returned."""
    async with open_engine() as engine:
        run = await engine.run(linear, n=3)
        assert (run.status, run.value, run["number"].value, run["double"].value) == ("completed", 12, 3, 6)
        assert [s.id for s in run.steps] == ["number", "double", "double_2"]
        assert await settled(engine, run) == {"number": DONE, "double": DONE, "double_2": DONE}
        named = await rows(engine, run)
        assert named["number"].completed_at <= named["double"].queued_at <= named["double_2"].queued_at


async def test_diamond(open_engine: OpenEngine) -> None:
    """A step with two dependencies starts once, after both."""
    async with open_engine() as engine:
        run = await engine.run(diamond, n=2)
        assert run.value == 8
        assert run.plan.levels == (("number",), ("double", "double_2"), ("add",))
        assert set((await settled(engine, run)).values()) == {DONE}
        assert (await trail(engine, run.id))["add"] == ["StepStarted", "StepCompleted"]


async def test_fan_out_over_a_list_known_at_run_time(open_engine: OpenEngine) -> None:
    """One row per element and one for the step with the count; the value is in input order."""
    async with open_engine() as engine:
        run = await engine.run(fan_out, n=5)
        assert run["double"].value == [0, 2, 4, 6, 8]
        assert run.value == 20
        assert [item.value for item in run["double"].items] == [0, 2, 4, 6, 8]
        named = await rows(engine, run)
        assert named["double"].item_count == 5
        assert [named[f"double[{i}]"].parameters for i in range(5)] == [{"n": i} for i in range(5)]
        assert list((await settled(engine, run)).values()) == [DONE] * 8


async def test_an_empty_list_completes_with_an_empty_list(open_engine: OpenEngine) -> None:
    async with open_engine() as engine:
        run = await engine.run(fan_out, n=0)
        assert (run["double"].value, run["double"].items, run.value) == ([], [], 0)
        assert await settled(engine, run) == {"up_to": DONE, "double": DONE, "total": DONE}


async def test_map_over_something_else_than_a_list(open_engine: OpenEngine) -> None:
    """The mapped step fails; its dependents are skipped."""

    @chain
    def over_a_number():
        return steps.total(steps.double.map(steps.number(7)))

    async with open_engine() as engine:
        run = await engine.run(over_a_number)
        assert run["double"].error is not None
        assert run["double"].error.code == "E_FOREACH_TYPE"
        assert await settled(engine, run) == {"number": DONE, "double": FAILED, "total": SKIPPED}


async def test_map_of_map(open_engine: OpenEngine) -> None:
    """A map over a map over a map keeps order and pairs items."""

    @chain
    def thrice(n: int):
        return steps.double.map(steps.double.map(steps.double.map(steps.up_to(n))))

    async with open_engine() as engine:
        run = await engine.run(thrice, n=4)
        assert run.value == [0, 8, 16, 24]
        assert await settled(engine, run) == {
            "up_to": DONE,
            **{f"double{s}{i}": DONE for s in ("", "_2", "_3") for i in ("", "[0]", "[1]", "[2]", "[3]")},
        }


async def test_paired_items_start_when_their_partner_is_recorded(open_engine: OpenEngine, folder: str) -> None:
    """`b.map(a)`: item 0 of b is done while item 1 of a still runs."""

    @chain
    def paired(folder: str):
        return steps.seen.map(steps.item_after.map([0, 1, 2], folder=folder), folder=folder)

    async with open_engine() as engine:
        handle = await engine.start(paired, folder=folder)
        await until(lambda: noted(folder, "second") == ["0"])
        assert noted(folder, "first") == ["0"]
        let_go(folder, "2")
        await until(lambda: noted(folder, "second") == ["0", "2"])
        assert noted(folder, "first") == ["0", "2"]
        let_go(folder, "1")
        run = await handle.result()
        assert run.value == [0, 1, 2]
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_paired_items_skip_with_their_partner(open_engine: OpenEngine) -> None:
    """Where item i of a failed, item i of b is skipped; with `keep` the rest is the value."""

    @chain
    def paired():
        return steps.double.map(steps.boom_if_kept.map([1, 2, 3], bad=[2]))

    async with open_engine() as engine:
        run = await engine.run(paired)
        assert run.status == "partial"
        assert run["boom_if_kept"].value == [1, None, 3]
        assert run["double"].value == [2, None, 6]
        statuses = await settled(engine, run)
        assert (statuses["boom_if_kept[1]"], statuses["double[1]"]) == (FAILED, SKIPPED)
        assert (await rows(engine, run))["double[1]"].error_message == "boom_if_kept[1] failed"


async def test_kept_item_failures_end_partial(open_engine: OpenEngine) -> None:
    """`on_item_failure="keep"`: the step completes, failed places are None, the chain ends partial."""

    @chain
    def kept():
        return steps.total(steps.boom_if_kept.map([1, 2, 3, 4], bad=[2, 4]))

    async with open_engine() as engine:
        run = await engine.run(kept)
        assert (run.status, run["total"].value) == ("partial", 4)
        assert run["boom_if_kept"].error is not None
        assert run["boom_if_kept"].error.failed_items == (1, 3)
        with pytest.raises(ChainFailed):
            run.raise_for_status()
        statuses = await settled(engine, run)
        assert (statuses["boom_if_kept"], statuses["boom_if_kept[1]"], statuses["total"]) == (DONE, FAILED, DONE)


async def test_a_failed_item_fails_the_step_after_the_others_finished(open_engine: OpenEngine) -> None:
    """Without `keep` the step ends failed with `failed_items`, and the other items are done all the same."""

    @chain
    def items():
        return steps.total(steps.boom_if.map([1, 2, 3, 4], bad=[2, 3]))

    async with open_engine() as engine:
        run = await engine.run(items)
        error = run["boom_if"].error
        assert error is not None
        assert (run.status, error.failed_items) == ("failed", (1, 2))
        assert "item 2" in error.message
        assert await settled(engine, run) == {
            "boom_if": FAILED,
            "boom_if[0]": DONE,
            "boom_if[1]": FAILED,
            "boom_if[2]": FAILED,
            "boom_if[3]": DONE,
            "total": SKIPPED,
        }
        with pytest.raises(StepNotCompleted):
            _ = run["boom_if"].value
        assert run["boom_if"].items[3].value == 4


# ---- values


async def test_none_is_a_value(open_engine: OpenEngine) -> None:
    """A step that returned None completed, and None is what the next one gets."""

    @chain
    def none():
        return steps.echo([steps.nothing(), steps.nothing().named("other")])

    async with open_engine() as engine:
        run = await engine.run(none)
        assert run.value == [None, None]
        assert run["nothing"].value is None
        assert await settled(engine, run) == {"nothing": DONE, "other": DONE, "echo": DONE}


@chain
def one_wrong(kind: str):
    return steps.echo(steps.not_data(kind))


@pytest.mark.parametrize(
    "kind",
    ["nan", "infinity", "set", "integer key", "wide", "object", "deep", "reserved", "stored", "generator", "exception"],
)
async def test_values_that_are_refused(open_engine: OpenEngine, kind: str) -> None:
    """What is neither JSON data nor a file fails the step, naming the place; it is not tried again."""
    async with open_engine() as engine:
        run = await engine.run(one_wrong, kind=kind)
        error = run["not_data"].error
        assert error is not None
        assert error.code == "E_VALUE_TYPE"
        assert await settled(engine, run) == {"not_data": FAILED, "echo": SKIPPED}


@chain
def parts_of_a_large_value(size: int):
    return steps.length_of(steps.long_text(size)["text"])


async def test_large_values_are_artifacts_and_read_transparently(open_engine: OpenEngine) -> None:
    """JSON over 64 KiB is kept as the artifact `value`; `.value`, references and later engines read it."""
    async with open_engine() as engine:
        run = await engine.run(parts_of_a_large_value, size=70_000)
        assert run["length_of"].value == 70_000
        assert len(run["long_text"].value["text"]) == 70_000
        assert run["long_text"].artifacts == []
        row = (await rows(engine, run))["long_text"]
        assert len(msgspec.json.encode(row.value)) < 100
        kept = await engine.get_artifacts_by_workflow(row.id)
        assert [(a.name, a.media_type) for a in kept] == [("value", "application/json")]
        parameters = (await rows(engine, run))["length_of"].parameters
        assert len(msgspec.json.encode(parameters)) < 1_000
        assert await settled(engine, run) == {"long_text": DONE, "length_of": DONE}
    async with open_engine() as engine:
        again = await engine.snapshot(run.id)
        assert len(again["long_text"].value["text"]) == 70_000


async def test_a_large_value_is_read_after_resume(open_engine: OpenEngine, folder: str) -> None:
    """A step that starts after a restart gets the large value of one that completed before it."""

    @chain
    def large_then_hold(folder: str):
        large = steps.long_text(100_000)
        return steps.length_of(large["text"]).after(steps.hold(folder, "between").after(large))

    async with open_engine() as engine:
        handle = await engine.start(large_then_hold, folder=folder)
        await began(folder, "between")
    let_go(folder, "between")
    async with open_engine() as engine:
        run = await engine.resume(handle.id)
        assert run["length_of"].value == 100_000
        assert await settled(engine, run) == {"long_text": DONE, "hold": DONE, "length_of": DONE}
        assert (await rows(engine, run))["long_text"].attempt == 1


async def test_parameters_are_recorded(open_engine: OpenEngine) -> None:
    """The row says what the step was called with; an artifact stands there by id, name and version."""

    @chain
    def recorded(n: int):
        return steps.add({"n": [n, steps.number(2)]}["n"][0], steps.number(5).named("five")), steps.describe(
            steps.text_file("x")
        )

    async with open_engine() as engine:
        run = await engine.run(recorded, n=3)
        named = await rows(engine, run)
        assert named["add"].parameters == {"a": 3, "b": 5}
        file = run["text_file"].artifact
        assert named["describe"].parameters == {"file": {"$artifact": file.id, "name": "output", "version": 1}}
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_a_retry_gets_its_arguments_as_they_were(open_engine: OpenEngine) -> None:
    """What one attempt did to its arguments is not there for the next one."""

    @chain
    def changing():
        return steps.changes_its_argument([7]), steps.changes_its_argument.map([[1], [2]])

    async with open_engine() as engine:
        run = await engine.run(changing)
        assert run.value == [[7, 2], [[1, 2], [2, 2]]]
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_positional_arguments_are_there_for_a_retry(open_engine: OpenEngine) -> None:
    @chain
    def positional():
        return steps.by_position(5)

    async with open_engine() as engine:
        run = await engine.run(positional)
        assert (run.value, run["by_position"].attempt) == (5, 2)
        assert await settled(engine, run) == {"by_position": DONE}


# ---- files


async def test_files_anywhere_in_a_value(open_engine: OpenEngine) -> None:
    """bytes, a path, a stream and a File at any depth are kept, named by their place, and handed on."""

    @chain
    def files():
        made = steps.many_files()
        return steps.contents(made), steps.describe(made["deep"]["named"]), made

    async with open_engine() as engine:
        run = await engine.run(files)
        assert {a.name: a.size for a in run["many_files"].artifacts} == {
            "raw": 9,
            "list[0].path": 11,
            "deep.stream": 60_000,
            "deep.named": 10,
            "saved": 11,
            "note.txt": 10,
        }
        assert run["contents"].value == {
            "title": "nested",
            "raw": "raw: 9",
            "list": [{"path": "list[0].path: 11"}, 7, None, True, 1.5],
            "deep": {"stream": "deep.stream: 60000", "named": "deep.named: 10"},
        }
        described = run["describe"].value
        assert (described["filename"], described["same"], described["version"]) == ("report.pdf", True, 1)
        value = run.value[2]
        assert await value["raw"].read_bytes() == b"raw bytes"
        assert value["list"][1:] == [7, None, True, 1.5]
        by_name = {a.name: a for a in run["many_files"].artifacts}
        assert by_name["list[0].path"].filename == "made.txt"
        assert by_name["note.txt"].filename == "note.txt"
        assert by_name["deep.named"].media_type == "application/pdf"
        with pytest.raises(StepNotCompleted, match="6 artifacts"):
            _ = run["many_files"].artifact
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_an_artifact_handed_on_shares_its_bytes(open_engine: OpenEngine) -> None:
    """Returning an Artifact makes a new row for the same digest."""

    @chain
    def handed_on():
        return steps.hand_on(steps.text_file("the same"))

    async with open_engine() as engine:
        run = await engine.run(handed_on)
        first, second = run["text_file"].artifact, run["hand_on"].artifact
        assert (first.digest, second.name) == (second.digest, "kept")
        assert first.id != second.id
        assert await second.read_bytes() == b"the same"
        assert await settled(engine, run) == {"text_file": DONE, "hand_on": DONE}


async def test_a_stream_from_an_async_generator_step(open_engine: OpenEngine) -> None:
    """A step that is an async generator is a stream of bytes, never whole in memory."""

    @chain
    def stream():
        return steps.streamed(40, 50_000)

    async with open_engine() as engine:
        run = await engine.run(stream)
        assert run["streamed"].artifact.size == 2_000_000
        sizes = [len(chunk) async for chunk in run["streamed"].artifact.open()]
        assert sum(sizes) == 2_000_000
        assert len(sizes) > 1
        assert await settled(engine, run) == {"streamed": DONE}


@pytest.mark.parametrize("name", ["saves_twice", "saves_what_it_returns"])
async def test_a_name_used_twice(open_engine: OpenEngine, name: str) -> None:
    @chain
    def twice():
        return getattr(steps, name)()

    async with open_engine() as engine:
        run = await engine.run(twice)
        error = run[name].error
        assert error is not None
        assert error.code == "E_ARTIFACT_NAME_TWICE"
        assert run[name].artifacts == []
        assert await settled(engine, run) == {name: FAILED}


async def test_a_file_called_value(open_engine: OpenEngine) -> None:
    """A user's file may be called `value`, unless the value itself has to be kept under that name."""

    @chain
    def called_value(size: int):
        return steps.file_called_value(size)

    async with open_engine() as engine:
        run = await engine.run(called_value, size=10)
        assert await run["file_called_value"].artifact.read_bytes() == b"a file"
        await settled(engine, run)
        run = await engine.run(called_value, size=70_000)
        assert run["file_called_value"].error is not None
        assert run["file_called_value"].error.code == "E_ARTIFACT_NAME_TWICE"
        assert await settled(engine, run) == {"file_called_value": FAILED}


async def test_the_work_folder_is_removed(open_engine: OpenEngine, folder: str) -> None:
    @chain
    def leaves(folder: str):
        return steps.folder_left(folder)

    async with open_engine() as engine:
        run = await engine.run(leaves, folder=folder, run_id="ü" * 200)
        assert run.status == "completed", run["folder_left"].error
        assert not Path(run.value).exists()
        assert noted(folder, "work-folder") == [run.value]
        assert await settled(engine, run) == {"folder_left": DONE}


# ---- failures and conditions


@chain
def branches():
    bad = steps.boom("no luck")
    lost = steps.echo(bad)
    return steps.echo(lost), steps.double(steps.number(2))


async def test_S6_6_a_failure_skips_dependents_and_lets_others_finish(open_engine: OpenEngine) -> None:
    """Dependents are skipped with the reason, independent branches finish, the chain ends failed."""
    async with open_engine() as engine:
        run = await engine.run(branches)
        assert run.status == "failed"
        assert run.error is not None
        assert run.error.code == "E_STEP_RAISED"
        assert "step boom" in run.error.message
        assert "no luck" in run.error.message
        assert run["double"].value == 4
        assert await settled(engine, run) == {
            "boom": FAILED,
            "echo": SKIPPED,
            "echo_2": SKIPPED,
            "number": DONE,
            "double": DONE,
        }
        named = await rows(engine, run)
        assert named["echo"].error_message == "boom failed"
        assert named["echo_2"].error_message == "echo skipped"
        with pytest.raises(ChainFailed) as failed:
            run.raise_for_status()
        assert failed.value.code == "E_STEP_RAISED"
        with pytest.raises(StepNotCompleted):
            _ = run["boom"].value
        with pytest.raises(ChainFailed):
            _ = run.value


async def test_S6_6_a_handled_failure_ends_partial(open_engine: OpenEngine) -> None:
    """A failed step is handled when a direct dependent's condition named its status, held, and completed."""

    @chain
    def handled():
        bad = steps.boom()
        return steps.number(5).named("instead").when("boom.status == 'failed'").after(bad)

    async with open_engine() as engine:
        run = await engine.run(handled)
        assert (run.status, run["instead"].value) == ("partial", 5)
        assert await settled(engine, run) == {"boom": FAILED, "instead": DONE}


@pytest.mark.parametrize(
    ("condition", "status", "last"),
    [
        ("boom.status == 'completed'", "failed", SKIPPED),  # it looked, and did not hold
        ("boom.error.code == 'E_STEP_RAISED'", "partial", DONE),
        ("boom.status != 'completed' and number.output > 3", "failed", SKIPPED),
        ("boom.status in ['failed', 'skipped']", "partial", DONE),
        ("number.output == 1", "failed", SKIPPED),  # does not name the failed one's status
    ],
)
async def test_S6_6_what_counts_as_handled(open_engine: OpenEngine, condition: str, status: str, last: str) -> None:
    @chain
    def maybe_handled():
        bad = steps.boom()
        return steps.nothing().after(bad, steps.number(1)).when(condition)

    async with open_engine() as engine:
        run = await engine.run(maybe_handled)
        assert run.status == status
        assert await settled(engine, run) == {"boom": FAILED, "number": DONE, "nothing": last}


async def test_S6_6_a_handler_that_fails_handles_nothing(open_engine: OpenEngine) -> None:
    @chain
    def twice():
        return steps.boom("second").named("handler").when("boom.status == 'failed'").after(steps.boom())

    async with open_engine() as engine:
        run = await engine.run(twice)
        assert run.status == "failed"
        assert await settled(engine, run) == {"boom": FAILED, "handler": FAILED}


async def test_a_condition_decides(open_engine: OpenEngine) -> None:
    """True runs the step, false skips it and what depends on it; skips alone leave the chain completed."""

    @chain
    def decides(n: int):
        first = steps.number(n)
        yes = steps.double(first).named("yes").when("number.output > 3")
        no = steps.double(first).named("no").when("{{ number.output <= 3 }}")
        return steps.echo(yes).named("after_yes"), steps.echo(no).named("after_no")

    async with open_engine() as engine:
        run = await engine.run(decides, n=7)
        assert run.status == "completed"
        assert await settled(engine, run) == {
            "number": DONE,
            "yes": DONE,
            "no": SKIPPED,
            "after_yes": DONE,
            "after_no": SKIPPED,
        }
        named = await rows(engine, run)
        assert named["no"].error_message == "condition is false"
        assert named["after_no"].error_message == "no skipped"


async def test_a_condition_may_look_at_a_skipped_step(open_engine: OpenEngine) -> None:
    @chain
    def looks():
        skipped = steps.number(1).when("inputs_ok.output == 2").after(steps.number(1).named("inputs_ok"))
        return steps.number(9).named("otherwise").when("number.status == 'skipped'").after(skipped)

    async with open_engine() as engine:
        run = await engine.run(looks)
        assert (run.status, run["otherwise"].value) == ("completed", 9)
        assert await settled(engine, run) == {"inputs_ok": DONE, "number": SKIPPED, "otherwise": DONE}


@pytest.mark.parametrize(
    ("condition", "code"),
    [
        ("number.output", "E_COND_TYPE"),
        ("text.output", "E_COND_TYPE"),
        ("number.output.missing == 1", "E_TEMPLATE_UNDEFINED"),
        ("skipped.output == 1 or skipped.status == 'x'", "E_TEMPLATE_UNDEFINED"),
    ],
)
async def test_S4_6_a_condition_that_cannot_be_evaluated_fails_the_step(
    open_engine: OpenEngine, condition: str, code: str
) -> None:
    """Only a boolean decides; text that says true does not, and nothing is rendered first."""

    @chain
    def wrong():
        first = steps.number(1)
        text = steps.echo("true").named("text")
        skipped = steps.number(1).named("skipped").when("number.output == 2")
        guarded = [skipped] if "skipped" in condition else []
        return steps.nothing().after(first, text, *guarded).when(condition)

    async with open_engine() as engine:
        run = await engine.run(wrong)
        error = run["nothing"].error
        assert error is not None
        assert error.code == code
        statuses = await settled(engine, run)
        assert statuses == {"number": DONE, "text": DONE, "skipped": SKIPPED, "nothing": FAILED}


async def test_S4_6_the_text_of_a_value_is_never_evaluated(open_engine: OpenEngine) -> None:
    """W46: a step's text that looks like a condition is only text."""

    @chain
    def evil(text: str):
        return steps.nothing().after(steps.echo(text)).when("echo.output == 'no'")

    async with open_engine() as engine:
        run = await engine.run(evil, text="x' or True or '{{ 1 == 1 }}")
        assert await settled(engine, run) == {"echo": DONE, "nothing": SKIPPED}


async def test_S4_5_a_part_that_is_not_there(open_engine: OpenEngine) -> None:
    """A reference to a missing part fails the step that wanted it, naming step and key."""

    @chain
    def missing():
        return steps.echo(steps.many_files()["deep"]["nowhere"])

    async with open_engine() as engine:
        run = await engine.run(missing)
        error = run["echo"].error
        assert error is not None
        assert error.code == "E_TEMPLATE_UNDEFINED"
        assert "many_files" in error.message
        assert "nowhere" in error.message
        assert await settled(engine, run) == {"many_files": DONE, "echo": FAILED}


async def test_S4_5_templates_keep_types(open_engine: OpenEngine) -> None:
    """A lone expression keeps its type, "007" stays "007", and a mixed text is text."""

    @chain
    def base():
        return steps.echo(steps.echo({"n": 7, "zeros": "007", "list": [1, {"a": None}]}).named("source"))

    plan = base.plan
    last = replace(
        plan.step("echo"),
        parameters={
            "value": {
                "whole": {"$template": "{{ source.output }}"},
                "zeros": {"$template": "{{ source.output.zeros }}"},
                "deep": {"$template": "{{ source.output.list[1].a }}"},
                "mixed": {"$template": "n={{ source.output.n }} {{ source.status }}"},
                "parameter": {"$template": "{{ source.parameters.value.n }}"},
            }
        },
    )
    plan = replace(plan, steps=(plan.steps[0], last))
    async with open_engine() as engine:
        run = await engine.run(of_plan(plan))
        assert run["echo"].value == {
            "whole": {"n": 7, "zeros": "007", "list": [1, {"a": None}]},
            "zeros": "007",
            "deep": None,
            "mixed": "n=7 completed",
            "parameter": 7,
        }
        assert await settled(engine, run) == {"source": DONE, "echo": DONE}


# ---- attempts and time


async def test_retries_with_growing_waits(open_engine: OpenEngine, folder: str) -> None:
    """Each failed attempt but the last is a fact; the row is one and counts the attempts."""

    @chain
    def retried(folder: str):
        return steps.third_time(folder)

    async with open_engine() as engine:
        run = await engine.run(retried, folder=folder)
        assert (run.value, run["third_time"].attempt) == (3, 3)
        times = [float(line) for line in noted(folder, "third_time")]
        assert times[1] - times[0] >= 0.02
        assert times[2] - times[1] >= 0.04
        assert (await trail(engine, run.id))["third_time"] == [
            "StepStarted",
            "StepRetried",
            "StepStarted",
            "StepRetried",
            "StepStarted",
            "StepCompleted",
        ]
        told = [e["data"] for e in await engine.store.events(run.id) if e["type"] == "StepRetried"]
        assert [(e["attempt"], e["delay"]) for e in told] == [(1, 0.02), (2, 0.04)]
        assert told[0]["error"]["code"] == "E_STEP_RAISED"
        assert await settled(engine, run) == {"third_time": DONE}


async def test_a_step_that_refuses_is_not_tried_again(open_engine: OpenEngine, folder: str) -> None:
    @chain
    def refused(folder: str):
        return steps.refuses(folder)

    async with open_engine() as engine:
        run = await engine.run(refused, folder=folder)
        error = run["refuses"].error
        assert error is not None
        assert (error.code, error.message) == ("E_NO_FACE", "never")
        assert len(noted(folder, "refuses")) == 1
        assert await settled(engine, run) == {"refuses": FAILED}


async def test_a_timeout_is_per_attempt(open_engine: OpenEngine) -> None:
    @chain
    def late():
        return steps.slow()

    async with open_engine() as engine:
        run = await engine.run(late)
        error = run["slow"].error
        assert error is not None
        assert (error.code, run["slow"].attempt) == ("E_STEP_TIMEOUT", 2)
        assert await settled(engine, run) == {"slow": FAILED}


@pytest.mark.parametrize("name", ["tries_long", "waits_long", "takes_long"])
async def test_a_total_timeout_is_over_all_attempts_and_waits(open_engine: OpenEngine, name: str) -> None:
    """Neither many attempts nor a long wait before the next one outlast it."""

    @chain
    def late():
        return getattr(steps, name)()

    async with open_engine() as engine:
        before = time.monotonic()
        run = await engine.run(late)
        assert time.monotonic() - before < 2
        error = run[name].error
        assert error is not None
        assert error.code == "E_STEP_TOTAL_TIMEOUT"
        if name == "waits_long":
            assert "the cause" in error.message
        assert await settled(engine, run) == {name: FAILED}


async def test_a_thread_that_takes_too_long_is_left_to_itself(open_engine: OpenEngine) -> None:
    @chain
    def late():
        return steps.slow_thread()

    async with open_engine() as engine:
        before = time.monotonic()
        run = await engine.run(late)
        assert time.monotonic() - before < 0.45
        assert run["slow_thread"].error is not None
        assert run["slow_thread"].error.code == "E_STEP_TIMEOUT"
        assert await settled(engine, run) == {"slow_thread": FAILED}


# ---- what steps raise


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("cancelled", "CancelledError"),
        ("exit", "SystemExit"),
        ("group", "ExceptionGroup"),
        ("odd", "Odd"),
        ("deep", "at the bottom"),
        ("long", "xxxx"),
    ],
)
async def test_what_a_step_raises_is_its_own_failure(open_engine: OpenEngine, what: str, names: str) -> None:
    """Nothing that a step raises by itself ends the run of others, or vanishes."""

    @chain
    def raising(what: str):
        return steps.raises(what), steps.number(3)

    async with open_engine() as engine:
        run = await engine.run(raising, what=what)
        error = run["raises"].error
        assert error is not None
        assert error.code == "E_STEP_RAISED"
        assert names in error.message
        assert len(error.message) <= 2_000
        assert len(error.traceback.encode()) <= 16 * 1024
        assert "chain_steps.py" in error.traceback
        for ours in ("attempt.py", "local_run.py", "anyio/"):
            assert ours not in error.traceback
        assert await settled(engine, run) == {"raises": FAILED, "number": DONE}
        stored = (await rows(engine, run))["raises"].error
        assert stored["traceback"] == error.traceback


@pytest.mark.parametrize("what", ["exit", "stop", "cancelled"])
async def test_what_a_thread_raises(open_engine: OpenEngine, what: str) -> None:
    @chain
    def raising(what: str):
        return steps.raises_in_thread(what), steps.number(3)

    async with open_engine() as engine:
        with anyio.fail_after(5):
            run = await engine.run(raising, what=what)
        assert run["raises_in_thread"].error is not None
        assert run["raises_in_thread"].error.code == "E_STEP_RAISED"
        assert await settled(engine, run) == {"raises_in_thread": FAILED, "number": DONE}


# ---- starting


async def test_S6_1_the_record_is_there_before_the_first_step(open_engine: OpenEngine, folder: str) -> None:
    """With its whole definition; a second start with the same id attaches to the run."""

    @chain
    def held(folder: str):
        return steps.hold(folder, "only")

    async with open_engine() as engine:
        handle = await engine.start(held, folder=folder, run_id="mine")
        await began(folder, "only")
        row = await engine.get_chain("mine")
        assert (row.name, row.status, row.inputs) == ("held", "running", {"folder": folder})
        assert [s["id"] for s in row.chain_definition["steps"]] == ["hold"]
        assert (await rows(engine, "mine"))["hold"].status == RUNS
        ends: list[Run] = []

        async def attach() -> None:
            ends.append(await engine.run(held, folder=folder, run_id="mine"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(attach)
            tasks.start_soon(attach)
            await anyio.sleep(0.05)
            let_go(folder, "only")
        assert [(r.id, r.status) for r in ends] == [("mine", "completed")] * 2
        assert (await handle.result()).status == "completed"
        after = await engine.run(held, folder=folder, run_id="mine")
        assert after.value == "only"
        assert noted(folder, "only.began") == ["1"]
        assert await settled(engine, after) == {"hold": DONE}


async def test_a_run_id_of_another_chain(open_engine: OpenEngine) -> None:
    """Another chain, another version of the chain, other inputs: the old result would be taken for the new one."""

    def version(by: int) -> Any:
        @chain
        def versioned(n: int):
            return steps.add(n, by)

        return versioned

    async with open_engine() as engine:
        await engine.run(linear, n=1, run_id="taken")
        with pytest.raises(RunRefused) as refused:
            await engine.run(diamond, n=1, run_id="taken")
        assert refused.value.code == "E_RUN_CHAIN"
        with pytest.raises(RunRefused) as refused:
            await engine.run(linear, n=2, run_id="taken")
        assert refused.value.code == "E_RUN_INPUTS"
        assert (await engine.run(linear, n=1, run_id="taken")).status == "completed"
        assert (await engine.run(version(2), n=1, run_id="versioned")).value == 3
        with pytest.raises(RunRefused) as refused:
            await engine.start(version(3), n=1, run_id="versioned")
        assert refused.value.code == "E_RUN_CHAIN"
        assert (await engine.run(version(2), n=1, run_id="versioned")).value == 3
        for wrong in ("", "a/b", ".hidden", "x" * 201, "line\nbreak"):
            with pytest.raises(InputInvalid, match="run id"):
                await engine.run(linear, run_id=wrong)
        assert set((await settled(engine, "taken")).values()) == {DONE}


@chain
def with_inputs(
    text: str,
    count: int = 2,
    share: float = 0.5,
    flag: bool = True,
    data: dict[str, Any] | None = None,
):
    return steps.echo({"all": [text, count, share, flag, data]})


async def test_inputs_and_defaults(open_engine: OpenEngine) -> None:
    async with open_engine() as engine:
        run = await engine.run(with_inputs, text="007", data={"a": [1, None]})
        assert run.value == {"all": ["007", 2, 0.5, True, {"a": [1, None]}]}
        row = await engine.get_chain(run.id)
        assert row.inputs == {"text": "007", "count": 2, "share": 0.5, "flag": True, "data": {"a": [1, None]}}
        taken = await engine.run(with_inputs, inputs={"text": "x"}, share=1, flag=False)
        assert taken.value == {"all": ["x", 2, 1, False, None]}
        assert await settled(engine, run) == {"echo": DONE}


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({}, "E_INPUT_MISSING"),
        ({"text": "x", "colour": "red"}, "E_INPUT_UNKNOWN"),
        ({"text": 7}, "E_INPUT_TYPE"),
        ({"text": "x", "count": "2"}, "E_INPUT_TYPE"),
        ({"text": "x", "count": True}, "E_INPUT_TYPE"),
        ({"text": "x", "count": 2.0}, "E_INPUT_TYPE"),
        ({"text": "x", "flag": 1}, "E_INPUT_TYPE"),
        ({"text": "x", "share": "0.5"}, "E_INPUT_TYPE"),
        ({"text": "x", "share": float("nan")}, "E_VALUE_TYPE"),
        ({"text": "x", "data": {1: 2}}, "E_VALUE_TYPE"),
        ({"text": "x", "data": object()}, "E_INPUT_TYPE"),
    ],
)
async def test_inputs_that_are_refused(open_engine: OpenEngine, given: dict[str, Any], code: str) -> None:
    """Before anything is recorded."""
    async with open_engine() as engine:
        with pytest.raises(Exception, match=code):
            await engine.run(with_inputs, inputs=given)
        assert await engine.list_chains() == []


@chain
def with_files(photo: File, more: dict[str, Any] | None = None):
    return steps.describe(photo), steps.contents(more)


async def test_file_inputs(open_engine: OpenEngine, tmp_path: Path) -> None:
    """Files among the inputs are artifacts of a completed row with the step id `inputs`."""
    path = tmp_path / "cat.txt"
    path.write_bytes(b"meow" * 10_000)
    async with open_engine() as engine:
        for given in (path, str(path), File(path.read_bytes(), filename="cat.txt")):
            run = await engine.run(with_files, photo=given, more={"deep": [b"bytes"]})
            assert run["describe"].value["filename"] == "cat.txt"
            assert (run["describe"].value["name"], run["describe"].value["size"]) == ("photo", 40_000)
            assert run["contents"].value == {"deep": ["more.deep[0]: 5"]}
            assert await settled(engine, run) == {"inputs": DONE, "describe": DONE, "contents": DONE}
        handed_on = await engine.run(with_files, photo=run["describe"].value and await _input(engine, run))
        assert handed_on["describe"].value["size"] == 40_000
        with pytest.raises(InputInvalid) as wrong:
            await engine.run(with_files, photo=7)
        assert wrong.value.code == "E_INPUT_TYPE"
        with pytest.raises(Exception, match="E_VALUE_FILE"):
            await engine.run(with_files, photo=tmp_path / "nowhere.png")


async def _input(engine: Engine, run: Run) -> bytes:
    row = (await rows(engine, run))["inputs"]
    artifact = await engine.get_latest_artifact(row.id, "photo")
    assert artifact.name == "photo"
    return Path(artifact.local_path).read_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"cache": True},
        {"server": "gpu-1"},
        {"requires": {"tags": ["a100"]}},
        {"kind": "workflow"},
    ],
    ids=str,
)
async def test_what_is_not_built_is_refused_before_anything_starts(
    open_engine: OpenEngine, changes: dict[str, Any]
) -> None:
    """No row of `chains`, also where the key stands in a chain inside a step."""
    plan = linear.plan
    bad = replace(plan, steps=(*plan.steps[:2], replace(plan.steps[2], **changes)))
    nest = replace(nested.plan, steps=(replace(nested.plan.steps[0], chain=bad), *nested.plan.steps[1:]))
    target = replace(plan, inputs=(InputSpec("n", "integer", False, 1, target="78.image"),))
    async with open_engine() as engine:
        for refused in (bad, nest, target):
            with pytest.raises(FeatureMissing) as missing:
                await engine.run(of_plan(refused), n=1)
            assert missing.value.code == "E_FEATURE_MISSING"
            assert missing.value.problem.cure
        assert await engine.list_chains() == []


# ---- order and limits


async def test_S6_3_a_step_waits_for_its_own_dependencies_only(open_engine: OpenEngine, folder: str) -> None:
    """The right branch ends while the left one's first step still runs."""

    @chain
    def two_branches(folder: str):
        left = steps.echo(steps.hold(folder, "left")).named("left_end")
        return left, steps.double(steps.double(steps.number(1)))

    async with open_engine() as engine:
        handle = await engine.start(two_branches, folder=folder)
        await began(folder, "left")
        await until(lambda: _is(engine, handle.id, "double_2", DONE))
        assert await status_of(engine, handle.id, "hold") == RUNS
        let_go(folder, "left")
        run = await handle.result()
        assert set((await settled(engine, run)).values()) == {DONE}


async def _is(engine: Engine, run_id: str, step: str, status: str) -> bool:
    return await status_of(engine, run_id, step) == status


async def test_S6_2_the_level_is_recorded_while_running(open_engine: OpenEngine, folder: str) -> None:
    @chain
    def levels(folder: str):
        return steps.hold(folder, "c", steps.hold(folder, "b", steps.hold(folder, "a").named("a")).named("b")).named(
            "c"
        )

    assert levels.plan.levels == (("a",), ("b",), ("c",))
    async with open_engine() as engine:
        handle = await engine.start(levels, folder=folder)
        for level, name in enumerate("abc"):
            await began(folder, name)
            assert (await engine.get_chain(handle.id)).current_level == level
            assert (await engine.get_chain(handle.id)).status == "running"
            let_go(folder, name)
        run = await handle.result()
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_S6_7_concurrency_holds_under_a_thousand_ready_steps(open_engine: OpenEngine, commits: Commits) -> None:
    """Never more than the engine's limit at a time, and far fewer transactions than steps."""

    @chain
    def wide():
        return [steps.work(n) for n in range(1_000)]

    steps.Busy.reset()
    async with open_engine(concurrency=50) as engine:
        before = commits(engine)
        run = await engine.run(wide)
        assert run.value == list(range(1_000))
        assert steps.Busy.most == 50
        assert commits(engine) - before < 300
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_a_thousand_ready_steps_take_few_commits(open_engine: OpenEngine, commits: Commits) -> None:
    @chain
    def wide():
        return [steps.number(n) for n in range(1_000)]

    async with open_engine() as engine:
        before = commits(engine)
        run = await engine.run(wide)
        assert commits(engine) - before < 100
        assert len(await rows(engine, run)) == 1_000
        assert run.status == "completed"


async def test_S6_7_a_chains_own_limit(open_engine: OpenEngine) -> None:
    @chain(concurrency=3)
    def narrow():
        return steps.work.map(steps.up_to(60))

    steps.Busy.reset()
    async with open_engine() as engine:
        run = await engine.run(narrow)
        assert (steps.Busy.most, run.value) == (3, list(range(60)))
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_runs_share_the_slots_fairly(open_engine: OpenEngine) -> None:
    """A run that comes second does not wait for the end of the first."""

    @chain
    def many(whose: str, n: int):
        return steps.work.map(steps.up_to(n), whose=whose)

    steps.Busy.reset()
    async with open_engine(concurrency=4) as engine:
        first = await engine.start(many, whose="a", n=200)
        await until(lambda: steps.Busy.order.count("a") > 10)
        second = await engine.start(many, whose="b", n=40)
        ends = [await first.result(), await second.result()]
        assert [r.status for r in ends] == ["completed", "completed"]
        last_b = max(i for i, whose in enumerate(steps.Busy.order) if whose == "b")
        assert "a" in steps.Busy.order[last_b:], "the second run had to wait for the end of the first"
        assert steps.Busy.most <= 4
        for run in ends:
            assert set((await settled(engine, run)).values()) == {DONE}


async def test_a_cancelled_run_leaves_its_place_to_others(open_engine: OpenEngine, folder: str) -> None:
    """A run waits for a slot behind one that is cancelled while a third keeps the other slot."""

    @chain
    def long_one(folder: str, name: str):
        return steps.hold(folder, name)

    @chain
    def queue(folder: str):
        return [steps.hold(folder, f"q{n}") for n in range(3)]

    async with open_engine(concurrency=2) as engine:
        long = await engine.start(long_one, folder=folder, name="long")
        await began(folder, "long")
        first = await engine.start(queue, folder=folder)
        await began(folder, "q0")
        second = await engine.start(long_one, folder=folder, name="second")
        await until(lambda: _is(engine, second.id, "hold", QUEUED))
        await first.cancel()
        let_go(folder, "second")
        with anyio.fail_after(3):
            assert (await second.result()).status == "completed"
        let_go(folder, "long")
        assert (await long.result()).status == "completed"
        assert await settled(engine, await first.result()) == {
            "hold": CANCELLED,
            "hold_2": CANCELLED,
            "hold_3": CANCELLED,
        }


# ---- chains inside steps


@chain
def inner(n: int = 1):
    made = steps.text_file("from inside")
    return {"n": steps.double(n), "file": made}


@chain
def nested(n: int):
    part = inner(n)
    return steps.add(part["n"], 1), steps.read_text(part["file"])


async def child_of(engine: Engine, run: Run | str, step: str) -> Any:
    """The chain run inside a step."""
    row = (await rows(engine, run))[step]
    found = [c for c in await engine.list_chains(limit=1000) if c.parent_workflow_id == row.id]
    assert len(found) == 1
    return found[0]


async def test_a_chain_as_a_step(open_engine: OpenEngine) -> None:
    """It is a run of its own below the step's row; its value and its files go up."""
    async with open_engine() as engine:
        run = await engine.run(nested, n=4)
        assert run.value == [9, "from inside"]
        assert run["inner"].value["n"] == 8
        assert await run["inner"].artifact.read_bytes() == b"from inside"
        child = await child_of(engine, run, "inner")
        assert (child.name, child.status, child.inputs) == ("inner", "completed", {"n": 4})
        assert await settled(engine, child.id) == {"text_file": DONE, "double": DONE}
        assert await settled(engine, run) == {"inner": DONE, "add": DONE, "read_text": DONE}


async def test_a_chain_inside_a_chain_inside_a_chain(open_engine: OpenEngine) -> None:
    """With one slot: the steps of inner chains do not wait for the slots of those around them."""

    @chain
    def middle(n: int):
        return steps.double(inner(n)["n"])

    @chain
    def outer():
        return steps.double(middle(middle(1).named("first")))

    async with open_engine(concurrency=1) as engine:
        with anyio.fail_after(10):
            run = await engine.run(outer)
        assert run.value == 32
        first = await child_of(engine, run, "first")
        innermost = await child_of(engine, first.id, "inner")
        assert (first.status, innermost.name, innermost.status) == ("completed", "inner", "completed")
        for run_id in (run.id, first.id, innermost.id):
            assert set((await settled(engine, run_id)).values()) == {DONE}


async def test_a_failure_inside_fails_the_step(open_engine: OpenEngine) -> None:
    @chain
    def failing():
        return steps.boom("deep down")

    @chain
    def around():
        return steps.echo(failing())

    async with open_engine() as engine:
        run = await engine.run(around)
        assert run.error is not None
        assert "deep down" in run.error.message
        assert await settled(engine, run) == {"failing": FAILED, "echo": SKIPPED}
        child = await child_of(engine, run, "failing")
        assert await settled(engine, child.id) == {"boom": FAILED}


async def test_an_input_that_the_inner_chain_refuses(open_engine: OpenEngine) -> None:
    """The inner chain's inputs are known only when the step starts: the step fails, not the engine."""

    @chain
    def around():
        return inner(steps.echo("not a number"))

    async with open_engine() as engine:
        run = await engine.run(around)
        assert run["inner"].error is not None
        assert run["inner"].error.code == "E_INPUT_TYPE"
        assert await settled(engine, run) == {"echo": DONE, "inner": FAILED}


async def test_a_cancel_goes_down(open_engine: OpenEngine, folder: str) -> None:
    @chain
    def holding(folder: str):
        return steps.echo(steps.hold(folder, "inside"))

    @chain
    def around(folder: str):
        return steps.echo(holding(folder))

    async with open_engine() as engine:
        handle = await engine.start(around, folder=folder)
        await began(folder, "inside")
        child = await child_of(engine, handle.id, "holding")
        await handle.cancel()
        with anyio.fail_after(2):
            run = await handle.result()
        assert run.status == "cancelled"
        assert await settled(engine, run) == {"holding": CANCELLED, "echo": CANCELLED}
        assert await settled(engine, child.id) == {"hold": CANCELLED, "echo": CANCELLED}
        assert noted(folder, "inside.cancelled")
        assert not noted(folder, "inside.ended")


@chain
def gate_inside(text: str):
    return steps.read_text(steps.draft(text))


@chain
def around_a_gate(text: str):
    return steps.echo(gate_inside(text))


@chain
def around_around(text: str):
    return steps.echo(around_a_gate(text))


@pytest.mark.parametrize("reopened", [False, True])
async def test_a_gate_two_chains_down(open_engine: OpenEngine, reopened: bool) -> None:
    """The steps around it wait too, the run pauses, and after the approval everything completes."""
    async with open_engine() as engine:
        run = await engine.run(around_around, text="deep")
        assert (run.status, run.reason) == ("paused", "approval")
        assert await settled(engine, run) == {"around_a_gate": WAITS}
        middle = await child_of(engine, run, "around_a_gate")
        innermost = await child_of(engine, middle.id, "gate_inside")
        assert (middle.status, innermost.status) == ("paused", "paused")
        assert await settled(engine, innermost.id) == {"draft": WAITS}
        if not reopened:
            gate = await pending(engine, innermost.id)
            await engine.approve(gate.id, by="anna")
            run = await engine.resume(run.id)
    if reopened:
        async with open_engine() as engine:
            gate = await pending(engine, innermost.id)
            await engine.approve(gate.id, by="anna")
            named = await engine.resume(innermost.id)  # the whole tree goes on, whichever part was named
            assert (named.id, named.status) == (innermost.id, "completed")
    async with open_engine() as engine:
        done = await engine.snapshot(run.id)
        assert done.value == "deep"
        for run_id in (run.id, middle.id, innermost.id):
            assert (await engine.get_chain(run_id)).status == "completed"
            assert set((await settled(engine, run_id)).values()) == {DONE}


async def test_a_gate_inside_decided_while_the_rest_runs(open_engine: OpenEngine, folder: str) -> None:
    """The run need not pause for a gate inside a step to be decided and to go on."""

    @chain
    def beside(folder: str):
        return gate_inside("x"), steps.hold(folder, "beside")

    async with open_engine() as engine:
        handle = await engine.start(beside, folder=folder)
        await began(folder, "beside")
        await until(lambda: _is(engine, handle.id, "gate_inside", WAITS))
        child = await child_of(engine, handle.id, "gate_inside")
        await engine.approve((await pending(engine, child.id)).id, by="anna")
        await until(lambda: _is(engine, handle.id, "gate_inside", DONE), within=2)
        let_go(folder, "beside")
        run = await handle.result()
        assert run.value == ["x", "beside"]
        assert await settled(engine, run) == {"gate_inside": DONE, "hold": DONE}


async def test_cancel_while_a_chain_inside_waits_for_a_person(open_engine: OpenEngine, folder: str) -> None:
    """The chain inside ends with its step, and its gate is closed: nobody is asked in vain."""

    @chain
    def beside(folder: str):
        return gate_inside("x"), steps.hold(folder, "beside")

    async with open_engine() as engine:
        handle = await engine.start(beside, folder=folder)
        await began(folder, "beside")
        await until(lambda: _is(engine, handle.id, "gate_inside", WAITS))
        child = await child_of(engine, handle.id, "gate_inside")
        await handle.cancel()
        run = await handle.result()
        assert await settled(engine, run) == {"gate_inside": CANCELLED, "hold": CANCELLED}
        assert (await engine.get_chain(child.id)).status == "cancelled"
        assert (await settled(engine, child.id))["draft"] == CANCELLED
        assert await engine.approvals() == []


@pytest.mark.parametrize("inside_runs", [True, False])
async def test_reject_ends_chains_inside_too(open_engine: OpenEngine, folder: str, inside_runs: bool) -> None:
    """After a rejection the run does not wait for the gate of a chain inside a step, reached or not."""

    @chain
    def slow_gate(folder: str):
        return steps.read_text(steps.draft("inside").after(steps.hold(folder, "inside")))

    @chain
    def two_gates(folder: str):
        return steps.draft("outside"), slow_gate(folder), steps.hold(folder, "beside")

    async with open_engine() as engine:
        if not inside_runs:
            let_go(folder, "inside")
        handle = await engine.start(two_gates, folder=folder)
        await began(folder, "inside", "beside")
        await until(lambda: _is(engine, handle.id, "slow_gate", RUNS if inside_runs else WAITS))
        await until(lambda: _is(engine, handle.id, "draft", WAITS))
        child = await child_of(engine, handle.id, "slow_gate")
        await engine.reject((await pending(engine, handle.id)).id, by="anna")
        let_go(folder, "inside", "beside")
        with anyio.fail_after(3):
            run = await handle.result()
        assert run.status == "failed"
        statuses = await settled(engine, run)
        assert (statuses["draft"], statuses["slow_gate"], statuses["hold"]) == (FAILED, CANCELLED, DONE)
        assert (await engine.get_chain(child.id)).status == "cancelled"
        assert await engine.approvals() == []


async def test_start_continues_a_paused_run(open_engine: OpenEngine) -> None:
    """The handle of a run that was paused does not tell its old end: it is in hand when `start` returns."""

    @chain
    def simple():
        return steps.read_text(steps.draft("x"))

    async with open_engine() as engine:
        run = await engine.run(simple, run_id="mine")
        await engine.approve((await pending(engine, run)).id, by="anna")
        handle = await engine.start(simple, run_id="mine")
        run = await handle.result()
        assert run.value == "x"
        assert await settled(engine, run) == {"draft": DONE, "read_text": DONE}
        again = await engine.start(simple, run_id="mine")
        assert (await again.result()).value == "x"


# ---- cancel and pause


@chain
def held_pair(folder: str):
    return steps.echo([steps.hold(folder, "a").named("a"), steps.hold(folder, "b").named("b")])


async def test_cancel(open_engine: OpenEngine, folder: str) -> None:
    """Recorded at once; what runs is cancelled, what has not begun is too; a second cancel is refused."""
    async with open_engine() as engine:
        handle = await engine.start(held_pair, folder=folder)
        other = await engine.start(linear, n=1)
        await began(folder, "a", "b")
        await handle.cancel()
        with anyio.fail_after(1):
            run = await handle.result()
        assert run.status == "cancelled"
        assert noted(folder, "a.cancelled")
        assert noted(folder, "b.cancelled")
        assert await settled(engine, run) == {"a": CANCELLED, "b": CANCELLED, "echo": CANCELLED}
        assert (await trail(engine, run.id))["a"] == ["StepStarted", "StepCancelled"]
        assert "CancelRequested" in (await trail(engine, run.id))[""]
        with pytest.raises(RunRefused) as over:
            await handle.cancel()
        assert over.value.code == "E_RUN_OVER"
        assert (await other.result()).status == "completed"
        with pytest.raises(RunRefused) as missing:
            await engine.cancel("nobody")
        assert missing.value.code == "E_RUN_MISSING"


async def test_cancel_from_another_engine(open_engine: OpenEngine, folder: str) -> None:
    """Within a second, though this engine does not work on the run."""
    async with open_engine() as engine, open_engine() as other:
        handle = await engine.start(held_pair, folder=folder)
        await began(folder, "a", "b")
        seen = await other.get(handle.id)
        assert await seen.status() == "running"
        assert await seen.cancel() == "running"
        with anyio.fail_after(1.2):
            run = await seen.result()
        assert run.status == "cancelled"
        assert await settled(other, run) == {"a": CANCELLED, "b": CANCELLED, "echo": CANCELLED}


async def test_cancel_a_mapped_step(open_engine: OpenEngine, folder: str) -> None:
    @chain
    def mapped(folder: str):
        return steps.total(steps.item_after.map([0, 1, 2], folder=folder))

    async with open_engine() as engine:
        handle = await engine.start(mapped, folder=folder)
        await until(lambda: _is(engine, handle.id, "item_after[0]", DONE))
        await handle.cancel()
        with anyio.fail_after(1):
            run = await handle.result()
        assert await settled(engine, run) == {
            "item_after": CANCELLED,
            "item_after[0]": DONE,
            "item_after[1]": CANCELLED,
            "item_after[2]": CANCELLED,
            "total": CANCELLED,
        }


async def test_cancel_while_a_step_waits_for_its_next_try(open_engine: OpenEngine, folder: str) -> None:
    @chain
    def napping(folder: str):
        return steps.naps(folder)

    async with open_engine() as engine:
        handle = await engine.start(napping, folder=folder)
        await until(lambda: _told(engine, handle.id, "naps", "StepRetried"))
        await handle.cancel()
        with anyio.fail_after(1):
            run = await handle.result()
        assert (run.status, len(noted(folder, "naps.began"))) == ("cancelled", 1)
        assert await settled(engine, run) == {"naps": CANCELLED}


async def _told(engine: Engine, run_id: str, step: str, kind: str) -> bool:
    return kind in (await trail(engine, run_id)).get(step, [])


async def test_cancel_while_a_thread_works(open_engine: OpenEngine, folder: str) -> None:
    """A thread cannot be stopped; the run does not wait for it, and what it returns counts for nothing."""

    @chain
    def threaded(folder: str):
        return steps.echo(steps.hold_thread(folder, "thread"))

    async with open_engine() as engine:
        handle = await engine.start(threaded, folder=folder)
        await began(folder, "thread")
        await handle.cancel()
        with anyio.fail_after(1):
            run = await handle.result()
        let_go(folder, "thread")
        await until(lambda: noted(folder, "thread.ended"))
        assert await settled(engine, run) == {"hold_thread": CANCELLED, "echo": CANCELLED}


async def test_pause_and_resume(open_engine: OpenEngine, folder: str) -> None:
    """What runs is finished, nothing new starts; `resume` goes on, also in another engine."""

    @chain
    def line(folder: str):
        return steps.echo(steps.hold(folder, "first"))

    async with open_engine() as engine:
        handle = await engine.start(line, folder=folder)
        await began(folder, "first")
        assert await handle.pause() == "running"
        let_go(folder, "first")
        run = await handle.result()
        assert (run.status, run.reason) == ("paused", "requested")
        statuses = await settled(engine, run)
        assert statuses.get("echo", QUEUED) == QUEUED
        assert statuses["hold"] == DONE
    async with open_engine() as engine:
        run = await engine.resume(handle.id)
        assert (run.status, run.value) == ("completed", "first")
        assert noted(folder, "first.began") == ["1"]
        assert await settled(engine, run) == {"hold": DONE, "echo": DONE}
        with pytest.raises(RunRefused) as over:
            await engine.resume(run.id)
        assert over.value.code == "E_RUN_OVER"


async def test_closing_the_engine_interrupts_and_resume_goes_on(open_engine: OpenEngine, folder: str) -> None:
    """S6.9 without the kill: what was recorded is not done again, what was not recorded is."""

    @chain
    def line(folder: str):
        first = steps.third_time(folder)
        return steps.hold(folder, "second").after(first)

    async with open_engine() as engine:
        handle = await engine.start(line, folder=folder)
        await began(folder, "second")
    async with open_engine() as engine:
        run = await engine.snapshot(handle.id)
        assert (run.status, run.reason) == ("paused", "interrupted")
        assert (await settled(engine, run))["third_time"] == DONE
        let_go(folder, "second")
        run = await engine.resume(handle.id)
        assert run.value == "second"
        assert noted(folder, "second.began") == ["1", "2"]
        assert len(noted(folder, "third_time")) == 3
        assert await settled(engine, run) == {"third_time": DONE, "hold": DONE}


async def test_cancel_a_paused_run(open_engine: OpenEngine) -> None:
    """Nobody works on it, so it is over at once, its gate closed."""

    @chain
    def gated():
        return steps.read_text(steps.draft("x"))

    async with open_engine() as engine:
        run = await engine.run(gated)
        gate = await pending(engine, run)
        assert await engine.cancel(run.id) == "cancelled"
        run = await engine.snapshot(run.id)
        assert run.status == "cancelled"
        assert (await engine.get_approval(gate.id)).status == "cancelled"
        with pytest.raises(ApprovalRefused) as late:
            await engine.approve(gate.id, by="anna")
        assert late.value.code == "E_APPROVAL_DECIDED"
        assert (await settled(engine, run))["draft"] == CANCELLED


async def test_cancel_a_paused_run_with_a_gate_inside(open_engine: OpenEngine) -> None:
    async with open_engine() as engine:
        run = await engine.run(around_a_gate, text="x")
        child = await child_of(engine, run, "gate_inside")
        assert await engine.cancel(run.id) == "cancelled"
        assert (await engine.get_chain(child.id)).status == "cancelled"
        assert (await settled(engine, child.id))["draft"] == CANCELLED
        assert (await settled(engine, run.id))["gate_inside"] == CANCELLED


# ---- gates


@chain
def gated(folder: str):
    checked = steps.draft("the draft")
    return steps.read_text(checked), steps.double(steps.hold(folder, "beside", 4))


async def test_H3_a_gate_waits_while_other_branches_go_on(open_engine: OpenEngine, folder: str) -> None:
    """A row, not a coroutine: it is there after a restart; approving it lets the next step start."""
    async with open_engine() as engine:
        handle = await engine.start(gated, folder=folder)
        await until(lambda: _is(engine, handle.id, "draft", WAITS))
        assert await handle.status() == "running"
        let_go(folder, "beside")
        run = await handle.result()
        assert (run.status, run.reason, run["double"].value) == ("paused", "approval", 8)
        assert await settled(engine, run) == {"draft": WAITS, "hold": DONE, "double": DONE}
        gate = await pending(engine, run)
        assert (gate.step_id, gate.artifact_ids) == ("draft", [run["draft"].artifact.id])
        assert run["draft"].artifact.row.approval_status == "pending"
        assert (await trail(engine, run.id))["draft"] == ["StepStarted", "ApprovalRequested", "StepWaiting"]
    async with open_engine() as engine:
        assert (await engine.snapshot(handle.id)).status == "paused", "opening a store starts no work"
        await engine.approve(gate.id, by="anna", reason="fine")
        run = await engine.resume(handle.id)
        assert run.value == ["the draft", 8]
        row = await engine.get_approval(gate.id)
        assert (row.status, row.decided_by, row.reason, row.delivered) == ("approved", "anna", "fine", True)
        kept = await engine.get_artifact(run["draft"].artifact.id)
        assert (kept.approval_status, kept.approved_by) == ("approved", "anna")
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_a_gate_decided_while_the_run_goes_on(open_engine: OpenEngine, folder: str) -> None:
    """In process and from another engine: the owner acts within a second."""
    async with open_engine() as engine, open_engine() as other:
        for who in (engine, other):
            for file in Path(folder).iterdir():
                file.unlink()
            handle = await engine.start(gated, folder=folder)
            await until(lambda: _is(engine, handle.id, "draft", WAITS))  # noqa: B023 - used at once
            await who.approve((await pending(who, handle.id)).id, by="anna")
            await until(lambda: _is(engine, handle.id, "read_text", DONE), within=1.2)  # noqa: B023
            let_go(folder, "beside")
            run = await handle.result()
            assert run.status == "completed"
            assert set((await settled(engine, run)).values()) == {DONE}


async def test_reject_stops_the_chain(open_engine: OpenEngine, folder: str) -> None:
    """The row fails, running steps finish, nothing new starts, queued ones included; the chain fails."""

    @chain(concurrency=1)
    def busy(folder: str):
        gate = steps.draft("x")
        held = steps.hold(folder, "running").named("running")
        queued = steps.hold(folder, "queued").named("queued")
        return steps.read_text(gate), steps.echo(held), queued

    async with open_engine() as engine:
        handle = await engine.start(busy, folder=folder)
        await began(folder, "running")
        assert await status_of(engine, handle.id, "queued") == QUEUED
        await engine.reject((await pending(engine, handle.id)).id, by="anna", reason="ugly")
        await until(lambda: _is(engine, handle.id, "draft", FAILED))
        let_go(folder, "running", "queued")
        run = await handle.result()
        assert run.status == "failed"
        assert run.error is not None
        assert run.error.code == "E_REJECTED"
        assert "ugly" in run.error.message
        assert not noted(folder, "queued.began")
        assert noted(folder, "running.ended")
        statuses = await settled(engine, run)
        assert (statuses["draft"], statuses["running"], statuses["read_text"]) == (FAILED, DONE, SKIPPED)
        assert statuses["queued"] in (SKIPPED, CANCELLED)
        assert statuses["echo"] == SKIPPED


@pytest.mark.parametrize("decision", ["approve", "reject"])
async def test_H5_a_decision_without_an_engine_is_applied_at_resume(open_engine: OpenEngine, decision: str) -> None:
    """The functions of the store decide; the first decision stands, whoever comes second."""

    @chain
    def simple():
        return steps.read_text(steps.draft("x"))

    async with open_engine() as engine:
        run = await engine.run(simple)
        gate = await pending(engine, run)
    async with open_engine() as engine:
        await getattr(engine._gates, decision)(gate.id, "anna")  # what another process would call
        for again in (engine.approve, engine.reject):
            with pytest.raises(ApprovalRefused) as second:
                await again(gate.id, by="bert")
            assert second.value.code == "E_APPROVAL_DECIDED"
        assert await status_of(engine, run.id, "draft") == WAITS
        assert (await engine.get_approval(gate.id)).delivered is False
    async with open_engine() as engine:
        run = await engine.resume(run.id)
        expected = (DONE, DONE) if decision == "approve" else (FAILED, SKIPPED)
        statuses = await settled(engine, run)
        assert (statuses["draft"], statuses["read_text"]) == expected
        row = await engine.get_approval(gate.id)
        assert (row.decided_by, row.delivered) == ("anna", True)


async def test_F3_an_edit_is_what_the_next_step_gets(open_engine: OpenEngine) -> None:
    """A new version does not decide; approving needs the versions that were seen (E_APPROVAL_STALE)."""

    @chain
    def edited():
        checked = steps.draft("first")
        return steps.read_text(checked), steps.describe(checked)

    async with open_engine() as engine:
        run = await engine.run(edited)
        gate = await pending(engine, run)
        old = run["draft"].artifact
        row = (await rows(engine, run))["draft"]
        new = await engine.create_artifact(row.id, data=b"second", parent_artifact_id=old.id, created_by="anna")
        assert (new.version, new.name) == (2, "output")
        assert await status_of(engine, run.id, "draft") == WAITS
        for seen in (None, [old.id], [], [old.id, new.id]):
            with pytest.raises(ApprovalRefused) as stale:
                await engine.approve(gate.id, by="anna", seen=seen)
            assert stale.value.code == "E_APPROVAL_STALE"
        await engine.approve(gate.id, by="anna", seen=[new.id])
        run = await engine.resume(run.id)
        assert run["read_text"].value == "second"
        assert run["describe"].value["version"] == 2
        assert run["draft"].artifact.version == 2
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_an_edit_while_the_run_goes_on(open_engine: OpenEngine, folder: str) -> None:
    """The engine that works on the run hands on the new version too."""
    async with open_engine() as engine:
        handle = await engine.start(gated, folder=folder)
        await until(lambda: _is(engine, handle.id, "draft", WAITS))
        row = (await rows(engine, handle.id))["draft"]
        gate = await pending(engine, handle.id)
        new = await engine.create_artifact(row.id, data=b"better", parent_artifact_id=gate.artifact_ids[0])
        await engine.approve(gate.id, by="anna", seen=[new.id])
        let_go(folder, "beside")
        run = await handle.result()
        assert run["read_text"].value == "better"
        assert set((await settled(engine, run)).values()) == {DONE}


@pytest.mark.parametrize("live", [True, False])
async def test_a_gate_on_a_value_shows_it_as_an_artifact(open_engine: OpenEngine, folder: str, live: bool) -> None:
    """A person sees data as the artifact `value`; an edited version is the value that goes on."""

    @chain
    def proposed(folder: str):
        return steps.add(steps.proposal(20), 1), steps.hold(folder, "beside")

    async with open_engine() as engine:
        if not live:
            let_go(folder, "beside")
        handle = await engine.start(proposed, folder=folder)
        await until(lambda: _is(engine, handle.id, "proposal", WAITS))
        gate = await pending(engine, handle.id)
        row = (await rows(engine, handle.id))["proposal"]
        shown = await engine.get_artifacts_by_workflow(row.id)
        assert [(a.name, a.media_type) for a in shown] == [("value", "application/json")]
        assert gate.artifact_ids == [shown[0].id]
        new = await engine.create_artifact(row.id, data=b"41", parent_artifact_id=shown[0].id, filename="v.json")
        if not live:
            assert (await handle.result()).status == "paused"
        await engine.approve(gate.id, by="anna", seen=[new.id])
        let_go(folder, "beside")
        run = await handle.result() if live else await engine.resume(handle.id)
        assert run["proposal"].value == 41
        assert run["add"].value == 42
        assert (await engine.snapshot(run.id))["proposal"].value == 41
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_a_gate_per_item(open_engine: OpenEngine) -> None:
    """The step waits until all items are decided; items are approved one by one."""

    @chain
    def gated_items():
        return steps.read_text.map(steps.draft.map(["a", "b", "c"]))

    async with open_engine() as engine:
        run = await engine.run(gated_items)
        gates = sorted(await engine.approvals(run.id), key=lambda g: g.item_index)  # no order among items is promised
        assert [g.item_index for g in gates] == [0, 1, 2]
        statuses = await settled(engine, run)
        assert [statuses[f"draft[{i}]"] for i in range(3)] == [WAITS] * 3
        await engine.approve(gates[1].id, by="anna")
        run = await engine.resume(run.id)
        assert run.status == "paused"
        statuses = await settled(engine, run)
        assert (statuses["draft[1]"], statuses["read_text[1]"], statuses["draft[0]"]) == (DONE, DONE, WAITS)
        for gate in await engine.approvals(run.id):
            await engine.approve(gate.id, by="anna")
        run = await engine.resume(run.id)
        assert run.value == ["a", "b", "c"]
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_H5_two_gates_are_independent(open_engine: OpenEngine) -> None:
    @chain
    def two():
        return steps.read_text(steps.draft("a").named("a")), steps.read_text(steps.draft("b").named("b"))

    async with open_engine() as engine:
        run = await engine.run(two)
        assert len(await engine.approvals(run.id)) == 2
        await engine.approve((await pending(engine, run, "b")).id, by="anna")
        run = await engine.resume(run.id)
        assert await settled(engine, run) == {"a": WAITS, "b": DONE, "read_text_2": DONE}
        await engine.approve((await pending(engine, run, "a")).id, by="anna")
        run = await engine.resume(run.id)
        assert run.value == ["a", "b"]
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_run_with_wait_returns_after_the_decision(open_engine: OpenEngine) -> None:
    @chain
    def simple():
        return steps.read_text(steps.draft("x"))

    async with open_engine() as engine, open_engine() as other, anyio.create_task_group() as tasks:

        async def decide() -> None:
            await until(lambda: other.approvals("waited"))
            await anyio.sleep(0.05)
            await other.approve((await pending(other, "waited")).id, by="anna")

        tasks.start_soon(decide)
        with anyio.fail_after(5):
            run = await engine.run(simple, run_id="waited", wait=True)
        assert run.value == "x"
        assert await settled(engine, run) == {"draft": DONE, "read_text": DONE}


async def test_decisions_about_nothing(open_engine: OpenEngine) -> None:
    async with open_engine() as engine:
        with pytest.raises(ApprovalRefused) as missing:
            await engine.approve("nobody", by="anna")
        assert missing.value.code == "E_APPROVAL_MISSING"
        assert await engine.approvals() == []


# ---- again


@chain
def made_of_parts(n: int, folder: str = ""):
    base = steps.text_file("base")
    return steps.add(steps.double(n), 1), steps.describe(base)


async def test_rerun_from_a_step(open_engine: OpenEngine) -> None:
    """A new run: steps outside the part are rows `cached` with the same blobs and new ids."""
    async with open_engine() as engine:
        old = await engine.run(made_of_parts, n=2)
        run = await engine.rerun(old, from_steps=["double"])
        assert (run.status, run.value[0]) == ("completed", 5)
        assert run.id != old.id
        assert await settled(engine, run) == {"double": DONE, "add": DONE, "text_file": CACHED, "describe": CACHED}
        row = await engine.get_chain(run.id)
        assert (row.parent_run_id, row.regenerated_from_step_id) == (old.id, "double")
        before, after = old["text_file"].artifact, run["text_file"].artifact
        assert (before.digest, after.version) == (after.digest, 1)
        assert before.id != after.id
        assert await after.read_bytes() == b"base"
        assert await settled(engine, old) == dict.fromkeys(("text_file", "double", "add", "describe"), DONE)


async def test_rerun_with_other_inputs_and_parameters(open_engine: OpenEngine) -> None:
    """What uses a changed input (as an argument, for its fan-out or its condition) runs again."""

    @chain
    def uses(n: int, names: list[str], on: bool, other: int = 0):
        a = steps.double(n)
        b = steps.echo.map(names)
        c = steps.number(3).when("inputs.on")
        return a, b, c, steps.number(other).named("unused")

    async with open_engine() as engine:
        old = await engine.run(uses, n=1, names=["x"], on=True)
        run = await engine.rerun(old, inputs={"n": 5})
        assert run["double"].value == 10
        assert {n: s for n, s in (await settled(engine, run)).items() if s == DONE} == {"double": DONE}
        run = await engine.rerun(old, inputs={"names": ["y", "z"]})
        assert run["echo"].value == ["y", "z"]
        assert (await settled(engine, run))["double"] == CACHED
        run = await engine.rerun(old.id, inputs={"on": False})
        assert (await settled(engine, run))["number"] == SKIPPED
        run = await engine.rerun(old, parameters={"double.n": 50})
        assert run["double"].value == 100
        assert (await rows(engine, run))["double"].parameters == {"n": 50}
        for wrong in ({"nothing.n": 1}, {"double": 1}):
            with pytest.raises(InputInvalid) as parameter:
                await engine.rerun(old, parameters=wrong)
            assert parameter.value.code == "E_PARAMETER"
        with pytest.raises(InputInvalid) as step:
            await engine.rerun(old, from_steps=["nothing"])
        assert step.value.code == "E_STEP_UNKNOWN"
        with pytest.raises(InputInvalid) as unknown:
            await engine.rerun(old, inputs={"colour": 1})
        assert unknown.value.code == "E_INPUT_UNKNOWN"


async def test_rerun_of_what_did_not_complete(open_engine: OpenEngine) -> None:
    """Without `from_steps` the failed step and its descendants run again; the rest is taken over."""

    @chain
    def flaky():
        return steps.echo(steps.boom_if(steps.number(1), [1]))

    async with open_engine() as engine:
        old = await engine.run(flaky)
        assert old.status == "failed"
        run = await engine.rerun(old, parameters={"boom_if.bad": []})
        assert (run.status, run.value) == ("completed", 1)
        assert await settled(engine, run) == {"number": CACHED, "boom_if": DONE, "echo": DONE}
        assert (await settled(engine, old))["echo"] == SKIPPED, "a run that is over is never changed"
        again = await engine.rerun(old)
        assert again.status == "failed"
        assert await settled(engine, again) == {"number": CACHED, "boom_if": FAILED, "echo": SKIPPED}


async def test_rerun_of_a_partial_run(open_engine: OpenEngine) -> None:
    """A mapped step that kept failures runs again with all its items."""

    @chain
    def partial():
        return steps.total(steps.boom_if_kept.map(steps.up_to(3), bad=[1]))

    async with open_engine() as engine:
        old = await engine.run(partial)
        assert old.status == "partial"
        run = await engine.rerun(old, parameters={"boom_if_kept.bad": []})
        assert (run.status, run.value) == ("completed", 3)
        assert (await settled(engine, run))["up_to"] == CACHED
        taken = await engine.rerun(old, from_steps=["total"])
        assert (taken.status, taken["boom_if_kept"].value) == ("partial", [0, None, 2])
        statuses = await settled(engine, taken)
        assert (statuses["boom_if_kept"], statuses["boom_if_kept[1]"], statuses["total"]) == (CACHED, FAILED, DONE)


async def test_rerun_takes_over_mapped_files_large_values_and_inner_chains(open_engine: OpenEngine) -> None:
    @chain
    def all_kinds(photo: File):
        texts = steps.text_file.map(["a", "b"])
        large = steps.long_text(70_000)
        part = inner(3)
        last = steps.number(0).after(texts, large, part, steps.describe(photo))
        return steps.read_text.map(texts), steps.length_of(large["text"]), steps.add(part["n"], last), part["file"]

    async with open_engine() as engine:
        old = await engine.run(all_kinds, photo=b"photo bytes")
        run = await engine.rerun(old, from_steps=["number"])
        statuses = await settled(engine, run)
        assert statuses["inputs"] == DONE
        assert {n for n, s in statuses.items() if s == DONE} == {"inputs", "number", "add"}
        assert run.value[:3] == [["a", "b"], 70_000, 6]
        assert await run.value[3].read_bytes() == b"from inside"
        assert len(run["long_text"].value["text"]) == 70_000
        assert run["long_text"].artifacts == []
        assert [await item.artifact.read_bytes() for item in run["text_file"].items] == [b"a", b"b"]


async def test_a_run_that_is_not_over_cannot_be_rerun(open_engine: OpenEngine) -> None:
    @chain
    def simple():
        return steps.draft("x")

    async with open_engine() as engine:
        run = await engine.run(simple)
        with pytest.raises(RunRefused) as active:
            await engine.rerun(run)
        assert active.value.code == "E_RUN_ACTIVE"
        with pytest.raises(RunRefused) as missing:
            await engine.rerun("nobody")
        assert missing.value.code == "E_RUN_MISSING"
        assert await settled(engine, run) == {"draft": WAITS}


# ---- looking


async def test_the_trail_of_a_run(open_engine: OpenEngine) -> None:
    """F1: facts per step in order, between the chain's own."""

    @chain
    def story():
        return steps.echo(steps.boom_if_kept.map([1, 2], bad=[2])), steps.number(1).when("echo.output == 3")

    async with open_engine() as engine:
        run = await engine.run(story)
        assert await trail(engine, run.id) == {
            "": ["ChainCreated", "ChainStarted", "ChainEnded"],
            "boom_if_kept": ["StepStarted", "StepCompleted"],
            "boom_if_kept[0]": ["StepStarted", "StepCompleted"],
            "boom_if_kept[1]": ["StepStarted", "StepFailed"],
            "echo": ["StepStarted", "StepCompleted"],
            "number": ["StepSkipped"],
        }
        told = await engine.store.events(run.id)
        assert [e["seq"] for e in told] == sorted(e["seq"] for e in told)
        assert all(a["at"] <= b["at"] for a, b in itertools.pairwise(told))
        assert told[-1]["type"] == "ChainEnded"
        assert told[-1]["data"]["status"] == "partial"
        await settled(engine, run)


async def test_events_of_a_handle_follow_the_run(open_engine: OpenEngine, folder: str) -> None:
    """`handle.events()` tells what was and what comes, and ends with the run."""

    @chain
    def held(folder: str):
        return steps.echo(steps.hold(folder, "it"))

    async with open_engine() as engine:
        handle = await engine.start(held, folder=folder)
        told: list[str] = []
        with anyio.fail_after(5):
            async for event in handle.events():
                told.append(event["type"])
                if event["type"] == "StepStarted":
                    let_go(folder, "it")
        assert told == [
            "ChainCreated",
            "ChainStarted",
            "StepStarted",
            "StepCompleted",
            "StepStarted",
            "StepCompleted",
            "ChainEnded",
        ]
        run = await handle.result()
        later = [e["type"] async for e in handle.events(after=0)]
        assert later == told
        assert await settled(engine, run) == {"hold": DONE, "echo": DONE}


async def test_a_handle_of_any_run(open_engine: OpenEngine) -> None:
    async with open_engine() as engine:
        run = await engine.run(linear, n=1)
    async with open_engine() as engine:
        handle = await engine.get(run.id)
        assert (await handle.result()).value == 4
        assert await handle.status() == "completed"
        with pytest.raises(RunRefused) as missing:
            await engine.get("nobody")
        assert missing.value.code == "E_RUN_MISSING"
        assert (await engine.snapshot(run.id)).plan == linear.plan
        await settled(engine, run)


async def test_a_run_and_its_steps(open_engine: OpenEngine) -> None:
    """The API of Run and StepRun on a run that failed half way."""
    async with open_engine() as engine:
        for run in (await engine.run(branches, run_id="r"), await engine.snapshot("r")):
            assert run.id == "r"
            assert run["boom"].status == StepStatus.FAILED
            assert run["boom"].attempt == 1
            assert run["echo"].attempt == 0
            assert run["number"].error is None
            assert run["number"].artifacts == []
            assert run["number"].items == []
            with pytest.raises(StepNotCompleted, match="skipped"):
                _ = run["echo"].value
            with pytest.raises(StepNotCompleted, match="0 artifacts"):
                _ = run["number"].artifact
            with pytest.raises(KeyError, match="it has boom"):
                _ = run["bom"]
            assert "failed" in repr(run)
            assert "skipped" in repr(run["echo"])
            await settled(engine, run)


async def test_a_step_knows_where_it_is(open_engine: OpenEngine) -> None:
    @chain
    def knows():
        return steps.says()

    async with open_engine() as engine:
        run = await engine.run(knows, run_id="here")
        assert run.value == {"run": "here", "step": "says", "item": None, "attempt": 1, "key": "here/says"}
        assert await settled(engine, run) == {"says": DONE}


async def test_logs_are_kept_and_seen_while_the_step_runs(open_engine: OpenEngine, folder: str) -> None:
    @chain
    def logging(folder: str):
        return steps.logs(folder)

    async with open_engine() as engine:
        handle = await engine.start(logging, folder=folder)
        await began(folder, "logs")
        await until(lambda: _logged(engine, handle.id, "the first line"), within=2)
        assert engine.adapter.progress(handle.id) == {"logs": (2, 8)}
        let_go(folder, "logs")
        run = await handle.result()
        kept = await engine.store.logs(run.id)
        assert [(r["step_id"], r["attempt"]) for r in kept] == [("logs", 1)]
        lines = kept[0]["text"].splitlines()
        assert "INFO    the first line" in lines[0]
        assert "WARNING the last line" in lines[1]
        assert await settled(engine, run) == {"logs": DONE}


async def _logged(engine: Engine, run_id: str, text: str) -> bool:
    return any(text in r["text"] for r in await engine.store.logs(run_id))


async def test_two_engines_on_one_store(open_engine: OpenEngine) -> None:
    """Both work at the same time; each sees the other's runs."""
    ends: list[Run] = []
    async with open_engine() as one, open_engine() as two:

        async def several(engine: Engine, n: int) -> None:
            for k in range(5):
                ends.append(await engine.run(fan_out, n=n + k))  # noqa: PERF401 - one after the other

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(several, one, 3)
            tasks.start_soon(several, two, 10)
        assert len(ends) == 10
        for run in ends:
            assert run.status == "completed"
            assert (await two.snapshot(run.id)).value == (await one.snapshot(run.id)).value
            assert set((await settled(two, run)).values()) == {DONE}


async def test_a_chain_that_makes_no_sense_is_refused_when_described(open_engine: OpenEngine) -> None:  # noqa: C901
    """Wrong uses of references are ChainInvalid with a place, never an error of Python's from our inside."""

    def wrong(function: Callable[..., Any]) -> str:
        with pytest.raises(ChainInvalid) as refused:
            _ = chain(function).plan
        return refused.value.code

    def number_key():
        return steps.echo({1: steps.number(1)})

    def mark_key():
        return steps.echo({"$ref": steps.number(1)})

    def gate_on_an_input(n):
        n.with_approval()
        return steps.number(n)

    def input_when(n):
        return steps.number(n.when("1 == 1"))

    def empty():
        return None

    def asks():
        return steps.number(2) if steps.number(1) else None

    def walks():
        return [steps.number(n) for n in steps.up_to(3)]

    def circle():
        a = steps.number(1)
        return a.after(steps.double(a))

    def two_of_a_name():
        return steps.number(1).named("x"), steps.number(2).named("x")

    def reserved():
        return steps.number(1).named("inputs")

    def unknown_in_condition():
        return steps.number(1).when("nobody.status == 'completed'")

    def later_in_condition():
        return steps.number(1).named("a").when("b.output == 1"), steps.number(1).named("b")

    def a_set():
        return steps.echo({1, 2})

    def bytes_in_a_chain():
        return steps.echo(b"bytes")

    def wrong_arguments():
        return steps.number(1, 2, 3)

    def default(n={1}):  # noqa: B006
        return steps.number(1)

    stolen: list[Any] = []

    def lends():
        stolen.append(steps.number(1))
        return stolen[0]

    def steals():
        return steps.double(stolen[0])

    _ = chain(lends).plan
    assert wrong(number_key) == "E_VALUE_TYPE"
    assert wrong(mark_key) == "E_VALUE_TYPE"
    assert wrong(gate_on_an_input) == "E_CHAIN_TRACE"
    assert wrong(input_when) == "E_CHAIN_TRACE"
    assert wrong(empty) == "E_CHAIN_EMPTY"
    assert wrong(asks) == "E_CHAIN_TRACE"
    assert wrong(walks) == "E_CHAIN_TRACE"
    assert wrong(circle) == "E_CHAIN_CYCLE"
    assert wrong(two_of_a_name) == "E_CHAIN_DUPLICATE_STEP"
    assert wrong(reserved) == "E_STEP_ID"
    assert wrong(unknown_in_condition).startswith("E_")
    assert wrong(later_in_condition).startswith("E_")
    assert wrong(a_set) == "E_VALUE_TYPE"
    assert wrong(bytes_in_a_chain) == "E_VALUE_TYPE"
    assert wrong(wrong_arguments) == "E_STEP_ARGUMENTS"
    assert wrong(default) == "E_VALUE_TYPE"
    assert wrong(steals) == "E_TEMPLATE_UNKNOWN"
    async with open_engine() as engine:
        assert await engine.list_chains() == []


async def test_names_given_late(open_engine: OpenEngine) -> None:
    """`.named` counts wherever the step was referred to before."""

    @chain
    def late():
        a = steps.number(1)
        b = steps.double(a).after(a)
        a.named("renamed")
        return b

    async with open_engine() as engine:
        run = await engine.run(late)
        assert await settled(engine, run) == {"renamed": DONE, "double": DONE}
