"""Failures, what handles them, and conditions."""

from __future__ import annotations

import pytest

from tests.conformance import chain_steps as steps
from tests.conformance.runs import DONE, FAILED, SKIPPED, OpenEngine, rows, settled
from towpath import ChainFailed, StepNotCompleted, chain


@chain
def branches():
    bad = steps.boom("no luck")
    lost = steps.echo(bad)
    return steps.echo(lost), steps.double(steps.number(2))


async def test_S6_6_a_failure_skips_dependents_and_lets_others_finish(open_engine: OpenEngine) -> None:
    """Dependents are skipped with the reason, independent branches finish, the chain ends failed."""
    async with open_engine() as engine:
        run = await engine.run(branches, check=False)
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
        run = await engine.run(maybe_handled, check=False)
        assert run.status == status
        assert await settled(engine, run) == {"boom": FAILED, "number": DONE, "nothing": last}


async def test_S6_6_a_handler_that_fails_handles_nothing(open_engine: OpenEngine) -> None:
    @chain
    def twice():
        return steps.boom("second").named("handler").when("boom.status == 'failed'").after(steps.boom())

    async with open_engine() as engine:
        run = await engine.run(twice, check=False)
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
        run = await engine.run(wrong, check=False)
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
