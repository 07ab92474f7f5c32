"""The pure run state: against a naive model in every order, continued from every moment, and by example."""

from __future__ import annotations

import copy
import gc
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.chain_model import Place, Table, Verdict, interpret
from towpath.commands import (
    AskApproval,
    Cancel,
    Collect,
    Command,
    Complete,
    Decide,
    Expand,
    Fail,
    Finish,
    Pause,
    Regenerate,
    RestoredRow,
    Skip,
    Start,
    Wait,
)
from towpath.graph import compile_plan
from towpath.model import ApprovalPolicy, ChainStatus, GateAction, Plan, StepPlan, StepStatus
from towpath.progress import RunState

COMPLETED, FAILED, SKIPPED, CANCELLED = "completed", "failed", "skipped", "cancelled"
EXECUTING, WAITING = StepStatus.EXECUTING, StepStatus.WAITING_APPROVAL


# ---- chains


def step(
    step_id: str,
    *needs: str,
    watches: tuple[str, ...] = (),
    condition: bool = False,
    mapped: bool = False,
    over: str | None = None,
    keep: bool = False,
    gate: bool = False,
    inner: bool = False,
    retries: int = 0,
) -> StepPlan:
    """A step that needs others; `over` names the mapped step whose items it follows."""
    return StepPlan(
        step_id,
        "chain" if inner else "python",
        "tests:nothing",
        depends_on=needs if over is None or over in needs else (over, *needs),
        condition="…" if condition or watches else None,
        watches=watches,
        foreach={"$ref": {"step": over, "keys": []}} if over else None,
        mapped=mapped or over is not None,
        on_item_failure="keep" if keep else "fail",
        approval=ApprovalPolicy(max_retries=retries) if gate else None,
    )


def plan_of(*steps: StepPlan) -> Plan:
    return compile_plan(Plan("test", steps))


@dataclass(frozen=True)
class Case:
    """A chain and what happens in it. `naps` says how often the chain inside a step waits for a person."""

    plan: Plan
    table: Table
    naps: dict[str, int]

    def __repr__(self) -> str:
        keys = ("depends_on", "watches", "mapped", "pairs_with", "on_item_failure", "approval", "condition")
        steps = [f"{s.id}: { {k: getattr(s, k) for k in keys if getattr(s, k)} }" for s in self.plan.steps]
        return "\n  ".join(["Case", *steps, repr(self.table), repr(self.naps)])


@st.composite
def cases(draw: st.DrawFn, rejections: bool = False) -> Case:
    """Random chains: conditions, gates, maps, maps over maps, inner chains, and whatever goes wrong in them."""
    names = draw(st.permutations("abcdefgh"))[: draw(st.integers(1, 8))]
    steps: list[StepPlan] = []
    for i, name in enumerate(names):
        needs = draw(st.lists(st.sampled_from(names[:i]), unique=True, max_size=3)) if i else []
        mapped = [s.id for s in steps if s.mapped]
        kind = draw(st.sampled_from(["plain", "plain", "inner", "mapped", "paired" if mapped else "mapped"]))
        watches = [d for d in needs if kind != "paired" and draw(st.booleans())]
        made = step(
            name,
            *needs,
            watches=tuple(watches),
            condition=kind != "paired" and draw(st.integers(0, 3)) == 0,
            mapped=kind == "mapped",
            over=draw(st.sampled_from(mapped)) if kind == "paired" else None,
            keep=draw(st.booleans()),
            gate=kind != "inner" and draw(st.integers(0, 3)) == 0,
            inner=kind == "inner",
            retries=draw(st.integers(0, 2)),
        )
        steps.append(made)
    return Case(plan_of(*draw(st.permutations(steps))), *draw(happenings(steps, rejections)))


@st.composite
def happenings(draw: st.DrawFn, steps: list[StepPlan], rejections: bool) -> tuple[Table, dict[str, int]]:
    places: list[Place] = [(s.id, k) for s in steps for k in ((0, 1, 2) if s.mapped else (None,))]
    gated = {s.id for s in steps if s.approval is not None}
    gates = [p for p in places if p[0] in gated]
    answers: dict[Place, tuple[str, ...]] = {}
    for place in gates:
        policy = next(s.approval for s in steps if s.id == place[0])
        assert policy is not None
        again = draw(st.integers(0, policy.max_retries + (1 if rejections else 0)))
        answers[place] = ("regenerate",) * again + draw(st.sampled_from([(), (), ("skip",)]))
    table = Table(
        answers=answers,
        failing_again=draw(st.frozensets(st.sampled_from(gates), max_size=2)) if gates else frozenset(),
        conditions={s.id: draw(st.sampled_from([True, True, False, None])) for s in steps if s.condition},
        counts={s.id: draw(st.sampled_from([2, 3, 1, 0, None])) for s in steps if s.mapped and not s.foreach},
        failing=draw(st.frozensets(st.sampled_from(places), max_size=4)),
        rejected=draw(st.frozensets(st.sampled_from(gates), min_size=1)) if rejections and gates else frozenset(),
        uncollectable=frozenset(s.id for s in steps if s.mapped and draw(st.integers(0, 9)) == 0),
    )
    return table, {s.id: draw(st.integers(0, 2)) for s in steps if s.kind == "chain"}


# ---- a driver that checks the protocol while it carries commands out


@dataclass
class Row:
    """What a store would know of a place."""

    status: str
    count: int | None = None
    gate: bool = False
    kept: bool = False
    rejected: bool = False
    regenerations: int = 0

    @property
    def final(self) -> bool:
        return StepStatus(self.status).final


Event = tuple[str, Command | Place]
Choice = Callable[[int], int]


class Driver:
    """Carries commands out as an adapter does; every event is chosen from all that could come next."""

    def __init__(self, case: Case, rows: dict[Place, Row] | None = None, napped: dict[str, int] | None = None) -> None:
        self.case, self.plan, self.table = case, case.plan, case.table
        self.rows: dict[Place, Row] = rows or {}
        self.napped: dict[str, int] = napped or {}
        self.state = RunState(case.plan)
        self.owed: list[Command] = []
        self.gates: list[Place] = []
        self.asleep: list[Place] = []
        self.begun: set[Place] = set()
        self.decided: set[str] = set()
        self.log: list[Command] = []
        self.end: ChainStatus | None = None
        self.cancelling = self.paused = False
        self.stopped = any(row.rejected for row in self.rows.values())
        for place, row in self.rows.items():
            if row.final or row.gate:
                self.begun.add(place)  # it must not start again
            if row.gate and not row.final:
                self.gates.append(place)

    def begin(self) -> Driver:
        self.carry_out(self.state.begin([self._restored(place, row) for place, row in self.rows.items()]))
        return self

    @staticmethod
    def _restored(place: Place, row: Row) -> RestoredRow:
        gate = row.gate and not row.final
        return RestoredRow(*place, StepStatus(row.status), gate, row.count, row.kept, row.rejected, row.regenerations)

    def reopened(self) -> Driver:
        """Another process that knows only the rows."""
        return Driver(self.case, copy.deepcopy(self.rows), dict(self.napped)).begin()

    # -- events

    @property
    def events(self) -> Sequence[Event]:
        """All that could happen next, in a stable order."""
        steps = sorted(self.owed, key=repr)
        gates, asleep = sorted(self.gates, key=repr), sorted(self.asleep, key=repr)
        return [("answer", c) for c in steps] + [("decide", p) for p in gates] + [("wake", p) for p in asleep]

    def happen(self, event: Event, stopped: bool = False) -> None:
        """Let one of `events` happen; `stopped`: what runs obeys a cancel instead of finishing."""
        kind, what = event
        if kind == "wake":
            assert isinstance(what, tuple)
            self.asleep.remove(what)
            self.begun.discard(what)
            self.carry_out(self.state.woken(*what))
        elif kind == "decide":
            assert isinstance(what, tuple)
            self.gates.remove(what)
            self.carry_out(self._decide(what))
        else:
            assert not isinstance(what, tuple)
            self.owed.remove(what)
            self.carry_out(self._answer(what, stopped and isinstance(what, Start | Collect)))

    def _decide(self, place: Place) -> list[Command]:
        """The next answer at a gate; how many there were is in the row, as in a store."""
        said = self.table.answers.get(place, ())[self.rows[place].regenerations :]
        if place not in self.table.rejected and not said:
            return self.state.approved(*place)
        asked = GateAction(said[0] if place not in self.table.rejected else "stop")
        action = self.state.comes_to(*place, asked)
        policy = self.plan.step(place[0]).approval
        assert policy is not None
        left = policy.max_retries - self.rows[place].regenerations
        assert action == (asked if asked is not GateAction.REGENERATE or left > 0 else GateAction.STOP)
        self.stopped = self.stopped or action is GateAction.STOP
        return self.state.rejected(*place, asked)

    def _answer(self, command: Command, stopped: bool) -> list[Command]:
        state, table = self.state, self.table
        match command:
            case Decide(name):
                holds = table.conditions.get(name, True)
                return state.failed(name) if holds is None else state.decided(name, holds)
            case Expand(name):
                pair = self.plan.step(name).pairs_with
                count = table.counts.get(name, 0) if pair is None else state.count(pair)
                if count is None:
                    return state.failed(name)
                self.rows[name, None] = Row(EXECUTING, count)
                return state.expanded(name, count)
            case Collect(name):
                if stopped:
                    return state.cancelled(name)
                return state.failed(name) if name in table.uncollectable else state.collected(name)
            case Start(name, item):
                if stopped:
                    return state.cancelled(name, item)
                if self.napped.get(name, 0) < self.case.naps.get(name, 0):
                    self.napped[name] = self.napped.get(name, 0) + 1
                    return state.waiting(name, item)
                again = self.rows[name, item].regenerations and (name, item) in table.failing_again
                fails = (name, item) in table.failing or again
                return state.failed(name, item) if fails else state.succeeded(name, item)
        raise AssertionError(command)

    def pause(self) -> None:
        self.paused = True
        self.carry_out(self.state.pause())

    def unpause(self) -> None:
        self.paused = False
        self.carry_out(self.state.unpause())

    def cancel(self) -> None:
        self.cancelling = True
        self.carry_out(self.state.cancel())

    # -- commands

    def carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            assert self.end is None, f"{command} after Finish"
            self._carry_out(command)
        self.log += commands
        for early in commands[:-1]:
            assert not isinstance(early, Pause | Finish), f"{early} is not the last of {commands}"
        assert self.owed or self.end or isinstance(commands[-1], Pause), f"hangs after {self.log[-9:]}"
        assert self.state.waiting_for_people == len(self.gates) + len(self.asleep)

    def _carry_out(self, command: Command) -> None:
        match command:
            case Start(name, item):
                assert not self.plan.step(name).mapped or item is not None
                self._check_start(name, item)
                assert (name, item) not in self.begun, f"{command} twice"
                self.begun.add((name, item))
                self.rows.setdefault((name, item), Row(EXECUTING)).status = EXECUTING
                self.owed.append(command)
            case Decide(name) | Expand(name):
                asked = "condition of " if isinstance(command, Decide) else "items of "
                self._check_start(name, None)
                assert (name, None) not in self.rows and asked + name not in self.decided
                self.decided.add(asked + name)
                self.owed.append(command)
            case Collect(name, failed):
                row = self.rows[name, None]
                items = [self.rows[name, k] for k in range(row.count or 0)]
                assert failed == tuple(k for k, item in enumerate(items) if item.status == FAILED)
                assert all(item.final for item in items)
                self.owed.append(command)
            case AskApproval(name, item):
                assert self.rows[name, item].status == EXECUTING and not self.stopped and not self.cancelling
                self.rows[name, item] = Row(WAITING, gate=True, regenerations=self.rows[name, item].regenerations)
                self.gates.append((name, item))
            case Regenerate(name, item):
                row = self.rows[name, item]
                assert (row.status, row.gate) == (WAITING, True) and not self.stopped and not self.cancelling
                row.status, row.gate, row.regenerations = EXECUTING, False, row.regenerations + 1
                self.begun.discard((name, item))
            case Wait(name, item):
                assert self.rows[name, item].status == EXECUTING and not self.stopped and not self.cancelling
                self.rows[name, item].status = WAITING
                self.asleep.append((name, item))
            case Complete(name, item):
                self._record((name, item), COMPLETED)
                row = self.rows[name, item]
                row.kept = any(self.rows[name, k].status == FAILED for k in range(row.count or 0))
            case Fail(name, item):
                self._record((name, item), FAILED)
                self.rows[name, item].rejected = self.rows[name, item].gate
            case Skip(name, reason, item):
                assert reason
                self._record((name, item), SKIPPED)
            case Cancel(name, item):
                assert self.cancelling or self.stopped
                self._record((name, item), CANCELLED)
            case Pause(reason):
                assert not self.owed
                assert reason == "requested" if self.paused else reason == "approval" and (self.gates or self.asleep)
            case Finish(status):
                assert not self.owed and not self.gates and not self.asleep and self.state.over
                assert all((s.id, None) in self.rows for s in self.plan.steps)
                assert all(row.final for row in self.rows.values())
                self.end = status

    def _check_start(self, name: str, item: int | None) -> None:
        """Nothing starts before what it depends on is recorded, and nothing that may not start any more."""
        assert not self.paused and not self.cancelling
        assert not self.stopped or (name, item) in self.rows, "only what ran may run again after a stop"
        planned = self.plan.step(name)
        for needed in planned.depends_on:
            if needed == planned.pairs_with:
                assert self.rows[needed, None].count is not None
                assert item is None or self.rows[needed, item].status == COMPLETED
            else:
                row = self.rows[needed, None]
                assert row.status == COMPLETED or (row.final and needed in planned.watches)

    def _record(self, place: Place, status: str) -> None:
        row = self.rows.setdefault(place, Row(EXECUTING))
        assert not row.final, f"{place} is {row.status} and becomes {status}"
        row.status = status
        for waiting in (self.gates, self.asleep):
            if place in waiting:
                waiting.remove(place)

    # -- whole runs

    def go_on(self, choose: Choice, stopped: Callable[[], bool] = lambda: False) -> Driver:
        for _ in range(2_000):
            if not self.events:
                break
            self.happen(self.events[choose(len(self.events))], stopped())
        assert self.end is not None, f"ended without Finish: {self.log[-9:]}"
        return self

    @property
    def verdict(self) -> Verdict:
        assert self.end is not None
        return Verdict(self.end.value, {place: str(row.status) for place, row in self.rows.items()})

    def of(self, step_id: str, item: int | None = None) -> str:
        return str(self.rows[step_id, item].status)


def first(_: int) -> int:
    return 0


def last(n: int) -> int:
    return n - 1


def by(seed: int) -> Choice:
    return random.Random(seed).randrange


def run(plan: Plan, choose: Choice = first, **happens: object) -> Driver:
    return Driver(Case(plan, Table(**happens), {})).begin().go_on(choose)  # type: ignore[arg-type]


# ---- R36: the model, in every order


def every_order(case: Case, seeds: list[int]) -> None:
    """Whatever the order of answers, statuses are those of the model; every rule of the protocol holds."""
    expected = interpret(case.plan, case.table)
    for choose in (first, last, *map(by, seeds)):
        assert Driver(case).begin().go_on(choose).verdict == expected


def same_commands(case: Case, seed: int) -> None:
    """The same happenings give the same commands: no chance, no clock, no hash order."""
    assert Driver(case).begin().go_on(by(seed)).log == Driver(case).begin().go_on(by(seed)).log


def rejected_chains(case: Case, seed: int) -> None:
    """A rejection at any moment: the chain fails, gates close, nothing starts; what ended, ended as it would have."""
    expected = interpret(case.plan, case.table)
    driver = Driver(case).begin().go_on(by(seed))
    assert driver.verdict.chain == expected.chain
    assert driver.stopped or driver.verdict == expected
    for place, status in driver.verdict.places.items():
        assert status in (expected.places.get(place), SKIPPED, CANCELLED)
        assert expected.places.get(place, SKIPPED) == SKIPPED or status != SKIPPED or place not in driver.begun


def continued(case: Case, seed: int, moments: list[int]) -> None:
    """I11: broken off at any moments and continued from rows alone, a run ends as if nobody had broken it off."""
    expected = interpret(case.plan, case.table)
    driver, choose = Driver(case).begin(), by(seed)
    for moment in moments:
        for _ in range(moment):
            if driver.events:
                driver.happen(driver.events[choose(len(driver.events))])
        if driver.end is None:
            driver = driver.reopened()
    assert driver.go_on(choose).verdict == expected


def continued_after_a_stop(case: Case, seed: int, moment: int) -> None:
    """I11: a run that a rejection stopped stays stopped when another process continues it.

    Only a condition or a count that fails in the very moment of the stop is recorded or not, as it comes.
    """
    conditions: dict[str, bool | None] = {s: bool(holds) for s, holds in case.table.conditions.items()}
    counts: dict[str, int | None] = {s: count or 0 for s, count in case.table.counts.items()}
    case = replace(case, table=replace(case.table, conditions=conditions, counts=counts))
    driver, choose = Driver(case).begin(), by(seed)
    while driver.events and not driver.stopped:
        driver.happen(driver.events[choose(len(driver.events))])
    for _ in range(moment):
        if driver.events:
            driver.happen(driver.events[choose(len(driver.events))])
    if driver.end is None:
        other = driver.reopened().go_on(choose)
        assert other.verdict == driver.go_on(first).verdict


def paused_in_between(case: Case, seed: int, moments: list[int]) -> None:
    """Pause and go on, at any moments and across processes: nothing starts meanwhile, the end is the same."""
    expected = interpret(case.plan, case.table)
    driver, choose = Driver(case).begin(), by(seed)
    for n, moment in enumerate(moments):
        if driver.end is None:
            driver.pause()
        for _ in range(moment):
            if driver.events:
                driver.happen(driver.events[choose(len(driver.events))])
        if driver.end is None:
            if n % 2:
                driver.unpause()
            else:
                driver = driver.reopened()
    if driver.paused and driver.end is None:
        driver.unpause()
    assert driver.go_on(choose).verdict == expected


def cancelled_at_every_moment(case: Case, seed: int, paused: bool) -> None:
    """Cancel at every moment: all rows end, the chain is cancelled, nothing starts any more."""
    for moment in range(100):
        choose, obeys = by(seed), random.Random(seed + moment)
        driver = Driver(case).begin()
        for n in range(moment):
            if driver.events:
                driver.happen(driver.events[choose(len(driver.events))])
            if paused and n == moment // 2 and driver.end is None:
                driver.pause()
        if driver.end is not None or (paused and not driver.events):
            break
        before = list(driver.log)
        driver.paused = False
        driver.cancel()
        driver.state.cancel() if driver.end is None else None  # asking twice is harmless
        driver.go_on(choose, lambda r=obeys: r.random() < 0.7)  # type: ignore[misc]
        assert driver.end is ChainStatus.CANCELLED
        assert not [c for c in driver.log[len(before) :] if isinstance(c, Start | Decide | Expand | AskApproval | Wait)]


Seeds = st.integers(0, 2**32)
Moments = st.lists(st.integers(0, 6), min_size=1, max_size=6)
PROPERTIES: dict[str, tuple[Callable[..., None], tuple[st.SearchStrategy[object], ...]]] = {
    "R36_every_order": (every_order, (cases(), st.lists(Seeds, min_size=2, max_size=2))),
    "R36_same_commands": (same_commands, (cases(), Seeds)),
    "R36_rejected": (rejected_chains, (cases(rejections=True), Seeds)),
    "R36_I11_continued": (continued, (cases(), Seeds, Moments)),
    "R36_I11_continued_after_a_stop": (continued_after_a_stop, (cases(rejections=True), Seeds, st.integers(0, 6))),
    "R36_paused": (paused_in_between, (cases(), Seeds, Moments)),
    "R36_cancelled_at_every_moment": (cancelled_at_every_moment, (cases(), Seeds, st.booleans())),
}


def check(name: str, examples: int) -> None:
    holds, strategies = PROPERTIES[name]
    settings(max_examples=examples, deadline=None)(given(*strategies)(holds))()


@pytest.mark.parametrize("name", PROPERTIES)
def test_property(name: str) -> None:
    check(name, 200)


@pytest.mark.full
@pytest.mark.parametrize("name", PROPERTIES)
def test_property_at_length(name: str) -> None:
    check(name, 3_000)


def all_orders(driver: Driver) -> Iterator[Driver]:
    """Every way in which a run can go from here."""
    if not driver.events:
        yield driver
    for n in range(len(driver.events)):
        branch = copy.deepcopy(driver)
        branch.happen(branch.events[n])
        yield from all_orders(branch)


SMALL = {
    "diamond": (step("a"), step("b", "a"), step("c", "a", gate=True), step("d", "b", "c")),
    "handled": (step("a"), step("b"), step("c", "a", "b", watches=("a",)), step("d", "a")),
    "paired": (step("a", mapped=True, keep=True), step("b", over="a"), step("c", "b", watches=("b",))),
    "paired with more": (step("a", mapped=True), step("b"), step("c", "b", over="a"), step("d", "a", watches=("a",))),
}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("lost", [None, ("a", None), ("a", 1), ("b", None), ("b", 0), ("c", None), ("c", 0)])
def test_R36_all_orders_of_small_chains(name: str, lost: Place | None) -> None:
    case = Case(plan_of(*SMALL[name]), Table(counts={"a": 2}, failing=frozenset([lost] if lost else [])), {})
    expected = interpret(case.plan, case.table)
    ends = [driver.verdict for driver in all_orders(Driver(case).begin())]
    assert ends
    assert all(end == expected for end in ends)


# ---- R38: size

Shape = Callable[[int], Plan]


def line(n: int) -> Plan:
    return Plan("line", tuple(step(f"s{i}", *([f"s{i - 1}"] if i else [])) for i in range(n)))


def wide(n: int) -> Plan:
    names = [f"s{i}" for i in range(n)]
    return Plan("wide", (*map(step, names), step("join", *names)))


def mapped(n: int) -> Plan:
    return Plan("mapped", (step("list"), step("each", "list", mapped=True), step("sum", "each")))


def followed(n: int) -> Plan:
    paired = replace(step("next", over="each"), pairs_with="each")
    return Plan("followed", (step("each", mapped=True), paired, step("sum", "next")))


def diamonds(n: int) -> Plan:
    steps: list[StepPlan] = []
    for i in range(0, n, 3):
        steps += [step(f"a{i}", *([f"d{i - 3}"] if i else [])), step(f"b{i}", *([f"d{i - 3}"] if i else []))]
        steps.append(step(f"d{i}", f"a{i}", f"b{i}"))
    return Plan("diamonds", tuple(steps))


def maps_in_a_line(n: int) -> Plan:
    later = [replace(step(f"s{i}", over=f"s{i - 1}"), pairs_with=f"s{i - 1}") for i in range(1, n)]
    return Plan("maps", (step("s0", mapped=True), *later))


def joined_late(n: int) -> Plan:
    """A mapped step that follows another one and needs n more steps beside it."""
    names = [f"s{i}" for i in range(n)]
    paired = replace(step("next", *names, over="each"), pairs_with="each")
    return Plan("late", (step("each", mapped=True), *map(step, names), paired))


SHAPES: dict[str, tuple[Shape, Callable[[int], int]]] = {
    "line": (line, lambda n: 0),
    "wide": (wide, lambda n: 0),
    "mapped": (mapped, lambda n: n),
    "followed": (followed, lambda n: n),
    "diamonds": (diamonds, lambda n: 0),
    "maps_in_a_line": (maps_in_a_line, lambda n: 2),
    "joined_late": (joined_late, lambda n: 2),
}


def drive(plan: Plan, count: int, lost: frozenset[Place] = frozenset()) -> tuple[int, ChainStatus]:
    """The bare loop of a driver: number of commands, and how the chain ended."""
    state = RunState(plan)
    todo = state.begin()
    for command in todo:  # grows while it is read
        match command:
            case Start(name, item):
                todo += state.failed(name, item) if (name, item) in lost else state.succeeded(name, item)
            case Expand(name):
                todo += state.expanded(name, count)
            case Collect(name):
                todo += state.collected(name)
    end = todo[-1]
    assert isinstance(end, Finish)
    return len(todo), end.status


def seconds_per_command(work: Callable[[], int]) -> float:
    """Best of three, without the garbage collector, whose work depends on all else in the process."""
    best = float("inf")
    for _ in range(3):
        gc.collect()
        gc.disable()
        try:
            began = time.process_time()
            commands = work()
            best = min(best, (time.process_time() - began) / commands)
        finally:
            gc.enable()
    return best


def stays_linear(small: Callable[[], int], large: Callable[[], int]) -> bool:
    """Ten times the work costs at most three times as much per command; quadratic work fails every time."""
    return any(seconds_per_command(large) < 3 * seconds_per_command(small) for _ in range(5))


@pytest.mark.parametrize("name", SHAPES)
def test_R38_cost_per_command_does_not_grow(name: str) -> None:
    shape, count = SHAPES[name]
    small, large = shape(1_000), shape(10_000)
    assert drive(large, count(10_000))[1] is ChainStatus.COMPLETED
    assert stays_linear(lambda: drive(small, count(1_000))[0], lambda: drive(large, count(10_000))[0])


@pytest.mark.parametrize("name", SHAPES)
def test_R38_a_failure_at_the_root_reaches_10_000_dependents(name: str) -> None:
    shape, count = SHAPES[name]
    root = shape(10_000).steps[0]
    lost: Place = (root.id, 0) if root.mapped else (root.id, None)
    assert drive(shape(10_000), count(10_000), frozenset([lost]))[1] is ChainStatus.FAILED


def test_R38_a_lost_item_runs_down_10_000_waiting_maps() -> None:
    """All maps of the line are open and wait for item 0 of the first when it fails: no recursion."""
    state = RunState(maps_in_a_line(10_000))
    state.begin()
    for n in range(10_000):
        state.expanded(f"s{n}", 1)
    commands = state.failed("s0", 0)
    assert len(commands) == 2 * 10_000 + 1
    assert commands[-1] == Finish(ChainStatus.FAILED)


@pytest.mark.parametrize("name", SHAPES)
def test_R38_restore_and_cancel_cost_the_same_per_step(name: str) -> None:
    shape, count = SHAPES[name]

    def restore(n: int) -> Callable[[], int]:
        plan, items = shape(n), count(n)
        rows = [RestoredRow(s.id, None, EXECUTING, count=items if s.mapped else None) for s in plan.steps]
        rows += [RestoredRow(s.id, k, EXECUTING) for s in plan.steps if s.mapped for k in range(items)]

        def again() -> int:
            state = RunState(plan)
            started = state.begin(rows)
            todo = state.cancel()
            for command in started:
                assert isinstance(command, Start)
                todo += state.cancelled(command.step, command.item)
            assert todo[-1] == Finish(ChainStatus.CANCELLED)
            return len(rows)

        return again

    assert stays_linear(restore(1_000), restore(10_000))


# ---- starting


def test_S6_3_levels_are_no_barriers() -> None:
    """The right branch's second step starts before the left branch's first has ended."""
    state = RunState(plan_of(step("left"), step("right"), step("left_2", "left"), step("right_2", "right")))
    assert state.begin() == [Start("left"), Start("right")]
    assert state.succeeded("right") == [Complete("right"), Start("right_2")]


def test_a_step_starts_when_the_last_of_its_dependencies_is_recorded() -> None:
    state = RunState(plan_of(step("a"), step("b"), step("c", "a", "b")))
    state.begin()
    assert state.succeeded("b") == [Complete("b")]
    assert state.succeeded("a") == [Complete("a"), Start("c")]
    assert state.succeeded("c") == [Complete("c"), Finish(ChainStatus.COMPLETED)]
    assert state.over


def test_an_over_run_has_nothing_more_to_say() -> None:
    state = RunState(plan_of(step("a")))
    state.begin()
    state.succeeded("a")
    assert state.cancel() == state.pause() == state.unpause() == []


# ---- "Result of a chain"


def test_S6_6_a_failed_step_skips_its_dependents_and_other_branches_finish() -> None:
    """Failed step: dependents skipped with the reason, independent branches finish, the chain ends failed."""
    plan = plan_of(step("a"), step("b", "a"), step("c", "b"), step("other"), step("other_2", "other"))
    driver = run(plan, failing=frozenset([("a", None)]))
    assert driver.log.count(Skip("b", "a failed")) == driver.log.count(Skip("c", "b skipped")) == 1
    assert driver.of("other_2") == COMPLETED
    assert driver.end is ChainStatus.FAILED


def test_S6_6_a_handled_failure_is_partial() -> None:
    """Handled: a direct dependent whose condition names its status held and which completed."""
    plan = plan_of(step("a"), step("b", "a", watches=("a",)))
    driver = run(plan, failing=frozenset([("a", None)]))
    assert driver.of("b") == COMPLETED
    assert driver.end is ChainStatus.PARTIAL


@pytest.mark.parametrize("how", ["false", "failed", "indirect", "not named"])
def test_S6_6_a_failure_not_handled_is_failed(how: str) -> None:
    """Not handled: the condition is false, the handler fails, is not a direct dependent, or names another step."""
    plan = plan_of(step("x"), step("a", "x"), step("b", "a", "x", watches=("a",)), step("c", "b", watches=("b",)))
    if how == "not named":
        plan = plan_of(step("x"), step("a", "x"), step("b", "a", "x", watches=("x",)))
    lost = {("a", None)} | ({("b", None)} if how in ("failed", "indirect") else set())
    driver = run(plan, conditions={"b": how != "false"}, failing=frozenset(lost))
    assert driver.end is ChainStatus.FAILED


def test_any_unhandled_failure_outweighs_the_handled_ones() -> None:
    """`failed` if any failed step is unhandled, else `partial` if any step failed."""
    plan = plan_of(step("a"), step("b", "a", watches=("a",)), step("c"))
    assert run(plan, failing=frozenset([("a", None), ("c", None)])).end is ChainStatus.FAILED


def test_one_handler_of_several_is_enough() -> None:
    """At least one direct dependent has to handle it; the others are skipped."""
    plan = plan_of(step("a"), step("b", "a", watches=("a",)), step("c", "a"), step("d", "a", watches=("a",)))
    driver = run(plan, conditions={"d": False}, failing=frozenset([("a", None)]))
    assert [driver.of(s) for s in "bcd"] == [COMPLETED, SKIPPED, SKIPPED]
    assert driver.end is ChainStatus.PARTIAL


def test_skips_alone_leave_a_chain_completed() -> None:
    """A false condition skips the step, its dependents are skipped, the chain completes."""
    driver = run(plan_of(step("a", condition=True), step("b", "a")), conditions={"a": False})
    assert Skip("a", "condition is false") in driver.log
    assert Skip("b", "a skipped") in driver.log
    assert driver.end is ChainStatus.COMPLETED


def test_a_condition_may_look_at_a_skipped_step() -> None:
    """Dependents of a skipped step are skipped unless their own condition looks at its status."""
    plan = plan_of(step("a", condition=True), step("b", "a", watches=("a",)))
    driver = run(plan, conditions={"a": False})
    assert driver.of("b") == COMPLETED
    assert driver.end is ChainStatus.COMPLETED


def test_a_condition_is_evaluated_once_all_direct_dependencies_are_over() -> None:
    state = RunState(plan_of(step("a"), step("b"), step("c", "a", "b", watches=("a",))))
    state.begin()
    assert state.failed("a") == [Fail("a")]
    assert state.succeeded("b") == [Complete("b"), Decide("c")]
    assert state.decided("c", holds=True) == [Start("c")]


def test_a_condition_that_does_not_name_the_lost_dependency_is_not_evaluated() -> None:
    """If a direct dependency did not complete and the condition does not name its status: skipped unevaluated."""
    driver = run(plan_of(step("a"), step("b"), step("c", "a", "b", watches=("a",))), failing=frozenset([("b", None)]))
    assert Skip("c", "b failed") in driver.log
    assert Decide("c") not in driver.log


def test_a_condition_that_cannot_be_evaluated_fails_the_step() -> None:
    """An undefined output in a condition: the step fails."""
    driver = run(plan_of(step("a"), step("b", "a", condition=True)), conditions={"b": None})
    assert driver.of("b") == FAILED
    assert driver.end is ChainStatus.FAILED


def test_a_cancelled_chain_is_cancelled_whatever_failed() -> None:
    """`cancelled` if cancelled; else `failed` …"""
    driver = Driver(Case(plan_of(step("a"), step("b"), step("c", "b")), Table(failing=frozenset([("a", None)])), {}))
    driver.begin().happen(("answer", Start("a")))
    driver.cancel()
    driver.go_on(first, lambda: True)
    assert [driver.of(s) for s in "abc"] == [FAILED, CANCELLED, CANCELLED]
    assert driver.end is ChainStatus.CANCELLED


# ---- "Fan-out"


def test_an_empty_list_completes() -> None:
    state = RunState(plan_of(step("a", mapped=True)))
    assert state.begin() == [Expand("a")]
    assert state.expanded("a", 0) == [Collect("a")]
    assert state.collected("a") == [Complete("a"), Finish(ChainStatus.COMPLETED)]


def test_one_item_per_element() -> None:
    state = RunState(plan_of(step("a", mapped=True)))
    state.begin()
    assert state.expanded("a", 2) == [Start("a", 0), Start("a", 1)]
    assert state.succeeded("a", 1) == [Complete("a", 1)]
    assert state.succeeded("a", 0) == [Complete("a", 0), Collect("a")]
    assert (state.count("a"), state.completed_items("a")) == (2, [True, True])


def test_when_an_item_fails_the_others_finish_and_the_step_fails_naming_it() -> None:
    driver = run(plan_of(step("a", mapped=True)), counts={"a": 4}, failing=frozenset([("a", 1), ("a", 3)]))
    assert [driver.of("a", k) for k in range(4)] == [COMPLETED, FAILED, COMPLETED, FAILED]
    assert driver.log[-2:] == [Fail("a", None, (1, 3)), Finish(ChainStatus.FAILED)]


def test_failed_items_are_named_in_order_whichever_failed_first() -> None:
    driver = run(plan_of(step("a", mapped=True)), last, counts={"a": 3}, failing=frozenset([("a", 0), ("a", 2)]))
    assert Fail("a", None, (0, 2)) in driver.log


def test_kept_failures_complete_the_step_and_make_the_chain_partial() -> None:
    """With `keep` the step completes, failed places are null (the driver is told which), the chain is partial."""
    plan = plan_of(step("a", mapped=True, keep=True), step("b", "a"))
    driver = run(plan, counts={"a": 3}, failing=frozenset([("a", 1)]))
    assert Collect("a", (1,)) in driver.log
    assert (driver.of("a"), driver.of("b"), driver.end) == (COMPLETED, COMPLETED, ChainStatus.PARTIAL)


def test_kept_failures_of_a_step_taken_over_by_a_rerun_still_make_the_chain_partial() -> None:
    rows = [RestoredRow("a", None, StepStatus.CACHED, count=1, failed_items=True)]
    assert RunState(plan_of(step("a", mapped=True))).begin(rows) == [Finish(ChainStatus.PARTIAL)]


def test_item_i_starts_when_item_i_of_the_step_before_is_recorded() -> None:
    state = RunState(plan_of(step("a", mapped=True), step("b", over="a")))
    state.begin()
    assert state.expanded("a", 2) == [Start("a", 0), Start("a", 1), Expand("b")]
    assert state.expanded("b", 2) == []
    assert state.succeeded("a", 1) == [Complete("a", 1), Start("b", 1)]


def test_a_map_over_a_map_waits_for_its_other_dependencies_only() -> None:
    """Items start as soon as the other dependency is recorded, though the map before is still at work."""
    state = RunState(plan_of(step("a", mapped=True), step("x"), step("b", "x", over="a")))
    state.begin()
    state.expanded("a", 2)
    assert state.succeeded("a", 0) == [Complete("a", 0)]
    assert state.succeeded("x") == [Complete("x"), Expand("b")]
    assert state.expanded("b", 2) == [Start("b", 0)]


def test_item_i_is_skipped_if_item_i_of_the_step_before_failed() -> None:
    plan = plan_of(step("a", mapped=True, keep=True), step("b", over="a"))
    driver = run(plan, counts={"a": 2}, failing=frozenset([("a", 0)]))
    assert Skip("b", "a[0] failed", 0) in driver.log
    assert (driver.of("b", 1), driver.of("b"), driver.end) == (COMPLETED, COMPLETED, ChainStatus.PARTIAL)


def test_a_map_over_a_failed_map_is_skipped_though_some_items_ran() -> None:
    """A dependency that did not complete skips the step, here once its started items are over."""
    plan = plan_of(step("a", mapped=True), step("b", over="a"))
    driver = run(plan, counts={"a": 2}, failing=frozenset([("a", 0)]))
    assert (driver.of("b", 1), driver.of("b")) == (COMPLETED, SKIPPED)
    assert Skip("b", "a failed") in driver.log


def test_a_list_that_cannot_be_had_fails_the_step() -> None:
    driver = run(plan_of(step("a", mapped=True), step("b", over="a")), counts={"a": None})
    assert (driver.of("a"), driver.of("b")) == (FAILED, SKIPPED)


def test_a_gate_on_a_mapped_step_asks_per_item_and_waits_for_all() -> None:
    """One approval per item; the step waits until all are decided."""
    state = RunState(plan_of(step("a", mapped=True, gate=True)))
    state.begin()
    state.expanded("a", 2)
    assert state.succeeded("a", 0) == [AskApproval("a", 0)]
    assert state.succeeded("a", 1) == [AskApproval("a", 1), Pause("approval")]
    assert state.waiting_for_people == 2
    assert state.approved("a", 1) == [Complete("a", 1), Pause("approval")]
    assert state.approved("a", 0) == [Complete("a", 0), Collect("a")]


# ---- "Gates"


def test_an_approved_step_is_completed_and_only_then_its_dependents_start() -> None:
    state = RunState(plan_of(step("a", gate=True), step("b", "a")))
    state.begin()
    assert state.succeeded("a") == [AskApproval("a"), Pause("approval")]
    assert state.approved("a") == [Complete("a"), Start("b")]


def test_a_step_that_fails_asks_nobody() -> None:
    state = RunState(plan_of(step("a", gate=True)))
    state.begin()
    assert state.failed("a") == [Fail("a"), Finish(ChainStatus.FAILED)]


def test_the_chain_is_paused_only_when_nothing_else_can_run() -> None:
    state = RunState(plan_of(step("a", gate=True), step("b")))
    state.begin()
    assert state.succeeded("a") == [AskApproval("a")]
    assert state.succeeded("b") == [Complete("b"), Pause("approval")]


def test_reject_stop_starts_nothing_new_lets_running_steps_finish_and_fails_the_chain() -> None:
    plan = plan_of(
        step("a", gate=True), step("b"), step("c", "b"), step("d", gate=True), step("e", "a", watches=("a",))
    )
    state = RunState(plan)
    state.begin()
    state.succeeded("a")
    state.succeeded("d")
    stopped = "the chain was stopped by a rejection"
    assert state.rejected("a") == [Fail("a"), Cancel("d"), Skip("c", stopped), Skip("e", stopped)]
    assert state.waiting_for_people == 0
    assert state.succeeded("b") == [Complete("b"), Finish(ChainStatus.FAILED)]


def test_work_that_ends_after_a_stop_is_not_asked_about_and_not_completed() -> None:
    state = RunState(plan_of(step("a", gate=True), step("b", gate=True), step("c", inner=True)))
    state.begin()
    state.succeeded("a")
    state.rejected("a")
    assert state.succeeded("b") == [Cancel("b")]
    assert state.waiting("c") == [Cancel("c"), Finish(ChainStatus.FAILED)]


def test_a_rejected_item_stops_the_chain_even_where_failures_are_kept() -> None:
    plan = plan_of(step("a", mapped=True, gate=True, keep=True))
    driver = run(plan, counts={"a": 1}, rejected=frozenset([("a", 0)]))
    assert (driver.of("a", 0), driver.end) == (FAILED, ChainStatus.FAILED)


def test_a_stop_outlives_the_process() -> None:
    """Another process that continues the run starts nothing either, and the chain ends failed."""
    rows = [RestoredRow("a", None, StepStatus.FAILED, rejected=True), RestoredRow("b", None, EXECUTING)]
    state = RunState(plan_of(step("a", gate=True), step("b"), step("c", "b", "a", watches=("a",))))
    assert state.begin(rows) == [Start("b"), Skip("c", "the chain was stopped by a rejection")]
    assert state.succeeded("b") == [Complete("b"), Finish(ChainStatus.FAILED)]


def test_cancel_closes_gates() -> None:
    """Cancel: the row that waits ends cancelled."""
    state = RunState(plan_of(step("a", gate=True), step("b", "a")))
    state.begin()
    state.succeeded("a")
    assert state.cancel() == [Cancel("a"), Cancel("b"), Finish(ChainStatus.CANCELLED)]


def test_a_step_waits_while_the_chain_inside_it_waits() -> None:
    """A chain inside a step that waits: its row waits too, and it goes on after the decision inside."""
    state = RunState(plan_of(step("a", inner=True)))
    state.begin()
    assert state.waiting("a") == [Wait("a"), Pause("approval")]
    assert state.woken("a") == [Start("a")]
    assert state.succeeded("a") == [Complete("a"), Finish(ChainStatus.COMPLETED)]


def test_a_chain_inside_that_starts_to_wait_after_a_cancel_is_cancelled() -> None:
    state = RunState(plan_of(step("a", inner=True)))
    state.begin()
    assert state.cancel() == []
    assert state.waiting("a") == [Cancel("a"), Finish(ChainStatus.CANCELLED)]


# ---- pause, and continuing


def test_pause_holds_back_what_would_start_until_unpause() -> None:
    state = RunState(plan_of(step("a"), step("b", "a"), step("c", "a", condition=True)))
    state.begin()
    assert state.pause() == []
    assert state.succeeded("a") == [Complete("a"), Pause("requested")]
    assert state.unpause() == [Start("b"), Decide("c")]


def test_what_was_held_back_is_cancelled_without_having_started() -> None:
    state = RunState(plan_of(step("a", mapped=True), step("b")))
    state.begin()
    state.pause()
    state.succeeded("b")
    assert state.expanded("a", 1) == [Pause("requested")]
    assert state.cancel() == [Cancel("a", 0), Cancel("a"), Finish(ChainStatus.CANCELLED)]


def test_a_resumed_run_goes_on_from_its_rows() -> None:
    """Completed steps are not run again, unfinished ones are, gates still wait, missing items start.

    The order of the rows does not matter.
    """
    plan = plan_of(step("a"), step("b"), step("c", gate=True), step("d", "a", mapped=True), step("e", "a", "b"))
    rows = [
        RestoredRow("inputs", None, StepStatus.COMPLETED),
        RestoredRow("a", None, StepStatus.COMPLETED),
        RestoredRow("b", None, StepStatus.QUEUED),
        RestoredRow("c", None, WAITING, waits_for_person=True),
        RestoredRow("d", None, EXECUTING, count=3),
        RestoredRow("d", 0, StepStatus.COMPLETED),
        RestoredRow("d", 1, EXECUTING),
        RestoredRow("d", 2, EXECUTING),
    ]
    assert RunState(plan).begin(rows) == RunState(plan).begin(reversed(rows))
    state = RunState(plan)
    assert state.begin(rows[:-1]) == [Start("b"), Start("d", 1), Start("d", 2)]
    assert state.waiting_for_people == 1


def test_items_that_a_cancel_dropped_are_not_waited_for() -> None:
    """Items without a row in a mapped step that is over were never started, and never will be."""
    rows = [
        RestoredRow("a", None, StepStatus.CANCELLED, count=2),
        RestoredRow("a", 0, StepStatus.COMPLETED),
        RestoredRow("b", None, EXECUTING, count=2),
        RestoredRow("b", 0, EXECUTING),
    ]
    state = RunState(plan_of(step("a", mapped=True), step("b", over="a")))
    assert state.begin(rows) == [Start("b", 0), Skip("b", "a[1] cancelled", 1)]
    assert state.cancel() == []
    assert state.cancelled("b", 0) == [Cancel("b", 0), Cancel("b"), Finish(ChainStatus.CANCELLED)]


def test_a_mapped_step_whose_items_are_all_over_is_gathered_again() -> None:
    rows = [RestoredRow("a", None, EXECUTING, count=1), RestoredRow("a", 0, StepStatus.FAILED)]
    state = RunState(plan_of(step("a", mapped=True, keep=True)))
    assert state.begin(rows) == [Collect("a", (0,))]
    assert state.collected("a") == [Complete("a"), Finish(ChainStatus.PARTIAL)]


def test_a_decision_about_what_does_not_wait_is_a_mistake_of_the_driver() -> None:
    state = RunState(plan_of(step("a", gate=True)))
    state.begin()
    with pytest.raises(AssertionError, match="a does not wait"):
        state.approved("a")


# ---- H4: answers at a gate


def at_gate(retries: int = 0) -> RunState:
    """A step that waits, one that needs it, and one that looks at its status."""
    state = RunState(plan_of(step("a", gate=True, retries=retries), step("b", "a"), step("c", "a", watches=("a",))))
    state.begin()
    state.succeeded("a")
    return state


def test_H4_skip_skips_the_step_and_what_needs_it_and_the_chain_goes_on() -> None:
    state = at_gate()
    assert state.rejected("a", None, GateAction.SKIP) == [Skip("a", "rejected"), Skip("b", "a skipped"), Decide("c")]
    assert state.decided("c", holds=True) == [Start("c")]
    assert state.succeeded("c") == [Complete("c"), Finish(ChainStatus.COMPLETED)]


def test_H4_regenerate_runs_the_step_again_and_asks_again() -> None:
    state = at_gate(retries=1)
    assert state.rejected("a", None, GateAction.REGENERATE) == [Regenerate("a"), Start("a")]
    assert state.succeeded("a") == [AskApproval("a"), Pause("approval")]
    assert state.approved("a") == [Complete("a"), Start("b"), Decide("c")]


@pytest.mark.parametrize("spent", [0, 2])
def test_H4_when_max_retries_are_spent_regenerate_acts_as_stop(spent: int) -> None:
    """Counted here, or told by a store: a run continued elsewhere has no more regenerations than it had."""
    plan = plan_of(step("a", gate=True, retries=2), step("b", "a"))
    rows = [RestoredRow("a", None, WAITING, waits_for_person=True, regenerations=spent)]
    state = RunState(plan)
    state.begin(rows)
    for _ in range(2 - spent):
        assert state.comes_to("a", None, GateAction.REGENERATE) is GateAction.REGENERATE
        assert state.rejected("a", None, GateAction.REGENERATE) == [Regenerate("a"), Start("a")]
        state.succeeded("a")
    assert state.comes_to("a", None, GateAction.REGENERATE) is GateAction.STOP
    stopped = Skip("b", "the chain was stopped by a rejection")
    assert state.rejected("a", None, GateAction.REGENERATE) == [Fail("a"), stopped, Finish(ChainStatus.FAILED)]


def test_H4_a_skipped_item_leaves_its_place_empty_and_the_step_completes() -> None:
    """The item that follows it is skipped too; a chain with skips alone is completed."""
    plan = plan_of(step("a", mapped=True, gate=True), step("b", over="a"))
    driver = run(plan, counts={"a": 2}, answers={("a", 0): ("skip",)})
    assert [driver.of("a", 0), driver.of("a", 1), driver.of("b", 0), driver.of("b", 1)] == [
        SKIPPED,
        COMPLETED,
        SKIPPED,
        COMPLETED,
    ]
    assert (driver.of("a"), driver.of("b"), driver.end) == (COMPLETED, COMPLETED, ChainStatus.COMPLETED)


def test_H4_items_have_their_own_regenerations() -> None:
    """One item of two spends its only one; the other still has its own."""
    plan = plan_of(step("a", mapped=True, gate=True, retries=1))
    once = {("a", 0): ("regenerate",), ("a", 1): ("regenerate",)}
    assert run(plan, counts={"a": 2}, answers=once).end is ChainStatus.COMPLETED
    twice = {("a", 0): ("regenerate", "regenerate"), ("a", 1): ("regenerate",)}
    assert run(plan, counts={"a": 2}, answers=twice).end is ChainStatus.FAILED


def test_H3_a_regeneration_that_was_broken_off_is_started_again() -> None:
    """Its row is executing; that it was made again before is known from the store."""
    state = RunState(plan_of(step("a", gate=True, retries=1)))
    assert state.begin([RestoredRow("a", None, EXECUTING, regenerations=1)]) == [Start("a")]
    state.succeeded("a")
    assert state.rejected("a", None, GateAction.REGENERATE) == [Fail("a"), Finish(ChainStatus.FAILED)]


def test_a_regeneration_asked_for_while_pausing_waits_for_unpause() -> None:
    state = at_gate(retries=1)
    state.pause()
    assert state.rejected("a", None, GateAction.REGENERATE) == [Regenerate("a"), Pause("requested")]
    assert state.unpause() == [Start("a")]
