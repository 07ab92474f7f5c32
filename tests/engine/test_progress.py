"""The pure run state against a naive model: in every order, and continued from every moment."""

from __future__ import annotations

import copy
import random
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
    one_by_one,
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

    def carry_out(self, given: list[Command]) -> None:
        commands = list(one_by_one(given))
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
