"""The display of a running chain: the picture at 80 and 200 columns, and the lines of a pipe."""

from __future__ import annotations

import io
from typing import Any

import msgspec
import pytest
from rich.console import Console

from towpath.adapters.cli import plain_lines, run, run_frame
from towpath.adapters.cli.live_view import Watch
from towpath.adapters.cli.run_figures import RunFigures
from towpath.events import ChainPaused, DecisionApplied, Fact, StepEnded, StepReady, StepRetried, StepStarted
from towpath.model import ApprovalPolicy, ChainStatus, ErrorInfo, Plan, StepPlan, StepStatus
from towpath.ports import RunRow, StepRow

RUN = "01a22c98-2ef5-76d8-b857-9f3299d70805"
ERROR = ErrorInfo(
    "E_STEP_RAISED", "ValueError: a message that is rather long and goes on over the width of the terminal"
)


def planned(*steps: tuple[str, int]) -> Plan:
    return Plan("media", tuple(StepPlan(id=name, kind="python", target="m:f", level=level) for name, level in steps))


def ready(step: str, item: int | None = None, count: int | None = None, *, started: bool = True) -> Fact:
    return StepReady(f"{step}{item}", step, item, "m:f", started, 1, count=count)


def ended(step: str, item: int | None = None, status: str = "completed", **more: Any) -> Fact:
    return StepEnded(f"{step}{item}", step, item, StepStatus(status), **more)


class Seen:
    """A watch whose time stands still, and what it draws."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, plan: Plan, width: int = 80, height: int = 24) -> None:
        self.now = 100.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        self.console = Console(width=width, height=height, file=io.StringIO(), force_terminal=True, color_system=None)
        self.watch = Watch(self.console, plan, RUN)

    def facts(self, *facts: Fact) -> None:
        for fact in facts:
            self.watch.on_fact(RUN, fact)

    def lines(self) -> list[str]:
        with self.console.capture() as captured:
            self.console.print(self.watch._safely())
        return [line.rstrip() for line in captured.get().split("\n")][:-1]


def fan_out(seen: Seen) -> None:
    seen.facts(ready("list"), ended("list"), ready("render", count=60))
    for item in range(16):
        seen.facts(ready("render", item))
    for item in range(12):
        seen.facts(ended("render", item, "failed", error=ERROR) if item == 3 else ended("render", item))
    seen.now += 12.4


def test_a_fan_out_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen(monkeypatch, planned(("list", 0), ("render", 1), ("a_rather_long_name_of_a_step", 2)))
    fan_out(seen)
    assert seen.lines() == [
        "media  99d70805  12.4 s  1 of 3 steps, 1 running",
        "level 1 ✓  list                                          0 ms",
        "level 2 ●  render                       ━━         12/60 12.4 s",
        "           4 running, 44 queued, 1 failed",
        "           render[3]: ValueError: a message that is rather long and goes on",
        "           over the width of the terminal",
        "level 3 ○  a_rather_long_name_of_a_step",
        "Ctrl-C pauses the run",
    ]


def test_a_fan_out_at_200_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen(monkeypatch, planned(("list", 0), ("render", 1)), width=200)
    fan_out(seen)
    assert seen.lines() == [
        f"media  {RUN}  12.4 s  1 of 2 steps, 1 running",
        "level 1 ✓  list                              0 ms",
        "level 2 ●  render ━━━━                 12/60 12.4 s 4 running, 44 queued, 1 failed",
        f"           render[3]: {ERROR.message}",
        "Ctrl-C pauses the run",
    ]


def test_the_progress_of_a_step_has_rate_and_remaining_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """newcomer F3: elapsed time, figures, rate and the time that is left."""
    seen = Seen(monkeypatch, planned(("train", 0)))
    assert seen.watch._frame is not None
    monkeypatch.setattr(seen.watch._frame._progress, "get_time", lambda: seen.now)
    seen.facts(ready("train"))
    for second in range(5):
        seen.watch.figures.reported = {("train", None): (second * 10, 100)}
        seen.now = 100.0 + second
        seen.lines()
    assert seen.lines()[1] == "●  train ━━━━       40/100 4.0 s 10.0/s  6.0 s left"


@pytest.mark.parametrize("figures", [(float("nan"), 5), (-1, 5), (9, 5), (1, float("inf")), (1, 0), (1, None)])
def test_odd_figures_are_drawn(monkeypatch: pytest.MonkeyPatch, figures: tuple[float, float | None]) -> None:
    seen = Seen(monkeypatch, planned(("train", 0)))
    seen.facts(ready("train"))
    seen.watch.figures.reported = {("train", None): figures}
    assert "train" in seen.lines()[1]


def test_progress_without_a_total_is_a_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen(monkeypatch, planned(("crawl", 0)))
    seen.facts(ready("crawl"))
    seen.watch.figures.reported = {("crawl", None): (1234, None)}
    assert seen.lines()[1] == "●  crawl 0 ms 1,234 so far"
    lines = plain_lines.PlainLines(Console(width=200, file=(said := io.StringIO())), seen.watch.figures)
    lines.sign_of_life()
    assert "crawl 1,234 so far" in said.getvalue()
    seen.facts(ended("crawl"))
    assert "so far" not in seen.lines()[1]


def test_items_that_report_move_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = RunFigures(planned(("render", 0)))
    for fact in (ready("render", count=4), ready("render", 0), ready("render", 1), ended("render", 0)):
        figures.take(fact)
    figures.reported = {("render", 1): (1, 2)}
    assert figures.progress_of(figures.steps["render"]) == (1.5, 4)


def test_a_resumed_run_shows_what_was_done_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """newcomer F7: not `○ list`, neither at first nor at last."""
    seen = Seen(monkeypatch, planned(("list", 0), ("render", 1), ("last", 2)))
    items = [StepRow(f"i{k}", "render", k, StepStatus.COMPLETED, 1) for k in range(3)]
    rows = [
        StepRow("r1", "list", None, StepStatus.COMPLETED, 1),
        StepRow("r2", "render", None, StepStatus.EXECUTING, 1, count=4),
        *items,
        StepRow("i3", "render", 3, StepStatus.EXECUTING, 1),
    ]
    seen.watch.begin_with(RunRow(RUN, seen.watch.figures.plan, ChainStatus.PAUSED, {}, tuple(rows)))
    first = seen.lines()
    assert first[1].startswith("level 1 ✓  list")
    assert first[2].startswith("level 2 ·  render ━━━━━━━╸   3/4")
    seen.facts(StepStarted("i3", "render", 3, 2), ended("render", 3), ended("render"))
    assert "✓  render" in seen.lines()[2]
    assert "4/4" in seen.lines()[2]


def test_a_run_of_another_process_has_the_times_of_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """As recorded; of a step that asks people only what was seen of it, because it also waited."""
    plan = planned(("list", 0), ("draw", 1))
    asks = msgspec.structs.replace(plan.steps[1], approval=ApprovalPolicy())
    plan = msgspec.structs.replace(plan, steps=(plan.steps[0], asks))
    seen = Seen(monkeypatch, plan)
    rows = [
        StepRow(name, name, None, StepStatus.COMPLETED, 1, started_at=1_000_000, completed_at=3_500_000)
        for name in ("list", "draw")
    ]
    seen.watch.figures.load(RunRow(RUN, plan, ChainStatus.RUNNING, {}, tuple(rows)))
    first, second = seen.lines()[1:3]
    assert first.endswith("2.5 s")
    assert second == "level 2 ✓  draw"


def test_what_ctrl_c_does_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """It pauses what this process executes; what workers execute goes on."""
    monkeypatch.delenv("TOWPATH_ADAPTER", raising=False)
    assert run._is_ours(None)
    monkeypatch.setenv("TOWPATH_ADAPTER", "temporal://127.0.0.1:7233/default")
    words = run._ON_CTRL_C[run._is_ours(None)]
    seen = Seen(monkeypatch, planned(("draw", 0)))
    seen.watch = Watch(seen.console, planned(("draw", 0)), RUN, on_ctrl_c=words)
    assert seen.lines()[-1] == "Ctrl-C ends this view; the workers go on with the run"


def test_gates_and_pauses_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """newcomer F8: what waits for people does not run."""
    seen = Seen(monkeypatch, planned(("draw", 0), ("sheet", 1)))
    seen.facts(ready("draw", count=2), ready("draw", 0), ready("draw", 1), ready("sheet", count=2))
    seen.facts(ended("draw", 0, "waiting_approval"), ended("draw", 1, "waiting_approval"), ChainPaused("approval"))
    shown = seen.lines()
    assert shown[0] == "media  99d70805  0 ms  paused: approval  0 of 2 steps, 1 waiting, 1 queued"
    assert shown[1].startswith("level 1 ✋ draw")
    assert shown[2].startswith("level 2 ·  sheet")
    assert "2 wait for an approval; see: towpath approvals" in shown
    seen.facts(DecisionApplied("draw0", "draw", 0, "gate", StepStatus.COMPLETED))
    assert "1 waits for an approval; see: towpath approvals" in seen.lines()


@pytest.mark.parametrize("height", [12, 24, 50])
def test_many_steps_keep_the_names_that_matter(monkeypatch: pytest.MonkeyPatch, height: int) -> None:
    """newcomer F7: more than 24 steps, and never more lines than the terminal has."""
    steps = [(f"first_{k}", 0) for k in range(30)] + [(f"second_{k}", 1) for k in range(30)]
    steps += [(f"later_{k}", 2 + k) for k in range(5)]
    seen = Seen(monkeypatch, planned(*steps), height=height)
    for k in range(30):
        seen.facts(ready(f"first_{k}"), ended(f"first_{k}"))
    seen.facts(*(ready(f"second_{k}") for k in range(20)))
    seen.facts(ended("second_7", status="failed", error=ERROR), ended("second_9", status="waiting_approval"))
    shown = "\n".join(seen.lines())
    assert len(seen.lines()) <= height
    for name in ("level 1 ", "30 steps", "second_7", "second_9", "level 3–7", "ValueError: a message"):
        assert name in shown
    assert ("second_0" in shown) == (height > 12)
    assert "first_1" not in shown
    assert ("more: " in shown) == (height < 40)


def test_long_names_are_cut_last(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "a" * 60
    seen = Seen(monkeypatch, planned((name, 0)))
    seen.facts(ready(name, count=1000), *(ready(name, k) for k in range(10)))
    assert name in seen.lines()[1]
    assert "0/1000" in seen.lines()[1]
    assert "10 running, 990 queued" in seen.lines()[2]


def test_the_message_of_ctrl_c_is_part_of_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """newcomer F7: a message beside the picture would leave it twice."""
    seen = Seen(monkeypatch, planned(("a", 0)))
    assert not seen.watch.tell("stopping"), "nothing is drawn yet: it is written to standard error"
    with seen.watch:
        assert seen.watch.tell("stopping")
        shown = seen.lines()
    assert "stopping" in shown
    assert "Ctrl-C pauses the run" not in shown


def test_lines_of_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's id first; a line for each start and end; a sign of life with figures."""
    console = Console(width=200, file=io.StringIO())
    watch = Watch(console, planned(("list", 0), ("render", 1)), RUN)
    with watch:
        for fact in (ready("list"), ended("list"), ready("render", count=2), ready("render", 0)):
            watch.on_fact(RUN, fact)
        watch.on_fact(RUN, StepRetried("render0", "render", 0, 1, ERROR, 0.5))
        watch.on_fact("another", ready("list"))
        watch.figures.reported = {("render", 0): (1, 2)}
        assert watch._lines is not None
        watch._lines.sign_of_life()
        watch.on_fact(RUN, ended("render", 0, "failed", error=ERROR))
    said = [line.split(" ", 1)[1] for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert said[0].endswith(f" run {RUN} of media")
    assert said[1] == "● list  started"
    assert said[2].startswith("✓ list  ")
    assert said[3] == "● render  started, 2 items"
    assert said[4] == f"↻ render[0]: attempt 1 failed: {ERROR.message}; again in 0.5 s"
    assert said[5].startswith("… render 0.5/2, 1 running, 1 queued, ")
    assert said[6] == f"✗ render[0]  {ERROR.message}"
    assert len(said) == 7


def test_gates_of_items_are_lines_of_a_pipe() -> None:
    """Which items wait, and what was decided about them."""
    console = Console(width=200, file=io.StringIO())
    watch = Watch(console, planned(("render", 0)), RUN)
    with watch:
        for fact in (ready("render", count=2), ready("render", 0), ready("render", 1)):
            watch.on_fact(RUN, fact)
        watch.on_fact(RUN, ended("render", 0, "waiting_approval"))
        watch.on_fact(RUN, ended("render", 1, "waiting_approval"))
        watch.on_fact(RUN, DecisionApplied("render0", "render", 0, "gate", StepStatus.COMPLETED))
        watch.on_fact(RUN, DecisionApplied("render1", "render", 1, "gate", StepStatus.EXECUTING))
        watch.on_fact(RUN, ended("render", 1))
    said = [line.split(" ", 1)[1] for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert said[2:] == [
        "✋ render[0]  waits for an approval",
        "✋ render[1]  waits for an approval",
        "✓ render[0]  approved",
        "● render[1]  rejected, runs again",
    ]


@pytest.mark.parametrize("items", [0, 2])
def test_the_time_of_a_step_is_the_time_in_which_it_works(monkeypatch: pytest.MonkeyPatch, items: int) -> None:
    """Not the time in which it waits for people; items count while one of them works."""
    seen = Seen(monkeypatch, planned(("draw", 0)))
    item = 0 if items else None
    seen.facts(ready("draw", count=items or None))
    if items:
        seen.facts(ready("draw", 0), ready("draw", 1))
    seen.now += 2
    seen.facts(ended("draw", item, "waiting_approval"))
    if items:
        seen.facts(ended("draw", 1))
    seen.now += 3600
    assert "2.0 s" in seen.lines()[1]
    seen.facts(DecisionApplied("draw0", "draw", item, "gate", StepStatus.EXECUTING))
    seen.now += 1
    assert "3.0 s" in seen.lines()[1]
    seen.facts(ended("draw", item, "waiting_approval"))
    seen.now += 3600
    seen.facts(DecisionApplied("draw0", "draw", item, "gate", StepStatus.COMPLETED))
    if items:
        seen.facts(ended("draw"))
    assert seen.lines()[1].startswith("✓  draw")
    assert "3.0 s" in seen.lines()[1]


def test_a_run_of_another_process_is_told_by_its_rows() -> None:
    """Point 5, on Temporal: no fact is heard here."""
    console = Console(width=200, file=io.StringIO())
    watch = Watch(console, planned(("list", 0), ("render", 1)), RUN)
    lines = watch._lines
    assert lines is not None
    rows = [StepRow("r1", "list", None, StepStatus.COMPLETED, 1)]
    watch.begin_with(RunRow(RUN, watch.figures.plan, ChainStatus.RUNNING, {}, tuple(rows)))
    for status in (StepStatus.EXECUTING, StepStatus.EXECUTING, StepStatus.FAILED):
        rows[1:] = [StepRow("r2", "render", None, status, 1, error=ERROR if status is StepStatus.FAILED else None)]
        watch.figures.load(RunRow(RUN, watch.figures.plan, ChainStatus.RUNNING, {}, tuple(rows)))
        lines.catch_up()
    said = [line.split(" ", 1)[1] for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert said == ["● render  executing", f"✗ render  failed  {ERROR.message}"]


@pytest.mark.anyio
async def test_a_run_is_told_once_by_who_executes_it() -> None:
    """Its first fact comes while it is asked for as a run of another process; a decision is one, too."""

    class Engine:
        adapter = None
        store = None

        async def progress(self, run_id: str) -> Any:
            watch.on_fact(RUN, DecisionApplied("draw", "draw", None, "gate", StepStatus.COMPLETED))
            return {}

        async def load(self, run_id: str) -> RunRow:
            rows = (StepRow("draw", "draw", None, StepStatus.COMPLETED, 1),)
            return RunRow(RUN, watch.figures.plan, ChainStatus.RUNNING, {}, rows)

    console = Console(width=200, file=io.StringIO())
    watch = Watch(console, planned(("draw", 0)), RUN)
    engine: Any = Engine()
    engine.store = engine
    await watch._ask(engine, RUN)
    said = [line.split(" ", 1)[1] for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert said[1:] == ["✓ draw  approved"]


def test_a_decision_is_told() -> None:
    console = Console(width=200, file=io.StringIO())
    watch = Watch(console, planned(("draw", 0)), RUN)
    watch.on_fact(RUN, ready("draw"))
    for status in (StepStatus.EXECUTING, StepStatus.COMPLETED):
        watch.on_fact(RUN, DecisionApplied("draw0", "draw", None, "gate", status))
    said = [line.split(" ", 1)[1] for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert said[2] == "● draw  rejected, runs again"
    assert said[3].startswith("✓ draw  ")
    assert said[3].endswith("  approved")


@pytest.mark.parametrize("width", [20, 40, 60, 79, 120, 300])
def test_no_line_is_wider_than_the_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    seen = Seen(monkeypatch, planned(("list", 0), ("render", 1), ("a_rather_long_name_of_a_step", 2)), width=width)
    fan_out(seen)
    assert max(map(len, seen.lines())) <= max(width, 22)
    assert any("12/60" in line for line in seen.lines()) or width < 40


def test_a_silent_run_gives_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_lines, "SILENCE", 0.05)
    console = Console(width=200, file=io.StringIO())
    watch = Watch(console, planned(("train", 0)), RUN)
    with watch:
        watch.on_fact(RUN, ready("train"))
        lines = watch._lines
        assert lines is not None
        for _ in range(200):
            if "… train" in console.file.getvalue():  # type: ignore[attr-defined]
                break
            lines._over.wait(0.05)
    assert "… train" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_dumb_terminal_gets_lines() -> None:
    console = Console(width=80, file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    assert Watch(console, planned(("a", 0)))._lines is not None


def test_an_error_of_the_picture_is_shown_instead_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen(monkeypatch, planned(("a", 0)))
    monkeypatch.setattr(run_frame, "_heading", lambda *_: 1 / 0)
    assert seen.lines() == ["media: cannot be shown: ZeroDivisionError"]
