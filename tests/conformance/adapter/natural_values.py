"""Natural values: what a step may return besides JSON data and files, and what the next step gets by its annotation."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from tests.conformance import chain_steps as steps
from tests.conformance import natural_steps as natural
from tests.conformance.chain_steps import began, let_go
from tests.conformance.natural_steps import NATURAL, RECEIVED, REFUSED, TAKES, Config, Report
from tests.conformance.runs import DONE, FAILED, OpenEngine, of_plan, rows, settled
from towpath import Artifact, ChainStatus, chain


def _form(value: Any) -> Any:
    """A value of a run for comparing: a file is its media type."""
    return value.media_type if isinstance(value, Artifact) else value


@pytest.mark.parametrize("kind", ["natural", "natural_in_a_thread", "natural_in_a_process"])
async def test_natural_values_are_kept(open_engine: OpenEngine, kind: str) -> None:
    """F2: what has one obvious JSON form has that form, and what has one obvious file is a file; also in the row."""
    make = getattr(natural, kind)
    names = list(NATURAL) if kind != "natural_in_a_process" else ["np.float32", "dataclass", "pydantic", "frame", "set"]

    @chain
    def all_of_them(names: list[str]):
        return make.map(names)

    async with open_engine() as engine:
        run = await engine.run(all_of_them, names=names)
        assert run.status is ChainStatus.COMPLETED, run.error
        got = {name: _form(value) for name, value in zip(names, run.value, strict=True)}
        assert got == {name: NATURAL[name][1] for name in names}
        kept = await rows(engine, run)
        for number, name in enumerate(names):
            if not isinstance(run.value[number], Artifact):
                row = kept[f"{kind}[{number}]"].value
                assert msgspec.json.encode(row) == msgspec.json.encode(NATURAL[name][1]), name


@pytest.mark.parametrize("resumed", [False, True])
async def test_values_come_back_by_annotation(open_engine: OpenEngine, folder: str, resumed: bool) -> None:
    """F2: the same value before and after a resume, for each annotation of the table."""

    @chain
    def there_and_back(folder: str):
        held = steps.hold(folder, "between")
        made = {name: natural.given(name).named(f"given_{name}") for name in TAKES}
        return {name: takes(made[name]).after(held) for name, takes in TAKES.items()}

    async with open_engine() as engine:
        handle = await engine.start(there_and_back, folder=folder)
        await began(folder, "between")
        if not resumed:
            let_go(folder, "between")
            run = await handle.result()
    if resumed:
        let_go(folder, "between")
        async with open_engine() as engine:
            run = await engine.resume(handle.id)
    assert run.status is ChainStatus.COMPLETED, run.error
    seen = {name: natural._seen(make()) for name, (_, make) in RECEIVED.items()}
    assert run.value == seen


async def test_refused_values_say_type_and_cure(open_engine: OpenEngine) -> None:
    """F2, python-trial 24: in the row, and so everywhere; and what can be kept is kept with the failed attempt."""

    @chain
    def all_of_them(kinds: list[str]):
        here = natural.refused.with_options(on_item_failure="keep").map(kinds)
        there = natural.refused_in_a_thread.with_options(on_item_failure="keep").map(kinds)
        return steps.echo([here, there])

    kinds = list(REFUSED)
    async with open_engine() as engine:
        run = await engine.run(all_of_them, kinds=kinds)
        assert run["echo"].value == [[None] * len(kinds)] * 2
        kept = await rows(engine, run)
        for step in ("refused", "refused_in_a_thread"):
            for number, kind in enumerate(kinds):
                row = kept[f"{step}[{number}]"]
                said = row.error_message
                assert row.error_code in ("E_VALUE_TYPE", "E_CODEC"), kind
                for part in ("wrong", *REFUSED[kind][1:], "what could be kept is in: rescued"):
                    assert part in said, (kind, said)
                left = run[step].artifacts[number]
                assert left.row.workflow_id == row.id
                assert left.name == "rescued"
                data = msgspec.json.decode(await left.read_bytes())
                assert data["kept"] == 1
                assert "$refused" in str(data["wrong"]), kind


async def test_natural_values_as_inputs_defaults_literals_and_parameters(open_engine: OpenEngine) -> None:
    """A chain is given what a step may return; a frame too, as a file of the inputs."""

    @chain
    def trained(report: Report, config: Config, days: set[dt.date] = {dt.date(2024, 5, 6)}):  # noqa: B006
        there = natural.report_in_a_process(report, config)
        first = natural.is_report(there, config, days)
        second = natural.is_report(report, Config(lr=there["accuracy"]), {dt.date(2024, 1, 1)}).named("second")
        return first, second, natural.is_figure(natural.natural("image"), natural.natural("figure").named("fig"))

    report, config = Report(0.5, natural.frame()), Config(lr=2)
    async with open_engine() as engine:
        run = await engine.run(trained, report=report, config=config)
        assert run.status is ChainStatus.COMPLETED, run.error
        made = natural._seen(Report(2, natural.frame()))
        first, second, picture = run.value
        assert first == f"{made} {config!r} [datetime.date(2024, 5, 6)]"
        assert second == f"{natural._seen(report)} {Config(lr=2)!r} [datetime.date(2024, 1, 1)]"
        assert picture == "(2, 3) fig.png"
        again = await engine.rerun(run, from_steps=["second"], parameters={"second.config": Config(lr=3)})
        assert again.value[1] == f"{natural._seen(report)} {Config(lr=3)!r} [datetime.date(2024, 1, 1)]"
        same = await engine.run(trained, report=report, config=config, run_id=run.id)
        assert same.id == run.id


async def test_an_argument_that_does_not_fit_fails_the_step(open_engine: OpenEngine) -> None:
    """E_ARGUMENT_TYPE with the place inside the argument; it is not tried again."""

    @chain
    def wrong(data: dict[str, Any]):
        return natural.TAKES["config"](data)

    async with open_engine() as engine:
        run = await engine.run(wrong, check=False, data={"lr": "much"})
        error = run["takes_config"].error
        assert error is not None
        assert error.code == "E_ARGUMENT_TYPE"
        assert "value.lr" in error.message
        assert "much" in error.message
        assert run["takes_config"].artifacts == []


async def test_what_was_rescued_is_handed_to_no_later_step(open_engine: OpenEngine) -> None:
    """Files, saved files and data of a refused value are artifacts of the failed item, and of nothing else."""

    @chain
    def partly():
        made = natural.partly.with_options(on_item_failure="keep").map([0, 1])
        return natural.named(made)

    async with open_engine() as engine:
        plan = partly.plan
        last = replace(plan.step("named"), parameters={"files": {"$template": "{{ partly.output.files }}"}})
        run = await engine.run(of_plan(replace(plan, steps=(plan.steps[0], last))))
        assert run.status is ChainStatus.PARTIAL
        kept = await rows(engine, run)
        names = {a.name for a in await engine.get_artifacts_by_workflow(kept["partly[1]"].id)}
        assert names == {"rescued", "rescued-table", "rescued-saved"}
        assert run["partly"].value[1] is None
        assert set(run["partly"].value[0]) == {"table", "more"}
        assert run["named"].value == ["partly-table.parquet", "partly-saved.txt"]
        assert await settled(engine, run) == {"partly": DONE, "partly[0]": DONE, "partly[1]": FAILED, "named": DONE}
