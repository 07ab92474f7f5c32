"""Limits of steps, counted over all runs of a process: named ones, and one per function (`concurrency=`)."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping

import anyio

from towpath.errors import InputInvalid, shown
from towpath.errors import Place as ErrorPlace
from towpath.logs import guarded_logger
from towpath.model import Plan, StepPlan

_log = guarded_logger("towpath")


class Place:
    """A place in the queue of a step that waits. `granted`: the step is counted, and may start."""

    __slots__ = ("granted", "on_granted", "step")

    def __init__(self, step: StepPlan, on_granted: Callable[[], None]) -> None:
        self.step = step
        self.on_granted = on_granted
        self.granted = False


class Limits:
    """Counts the running steps. `sizes` says how many steps may share each named limit.

    A step that waits keeps its place in the queue: another step may overtake it only if the two share no limit.
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self._sizes = sizes
        self._running: Counter[str] = Counter()
        self._held_idle: Counter[str] = Counter()  # by steps that wait for runs
        self._told: set[str] = set()
        self._waiting: deque[Place] = deque()

    def take(self, step: StepPlan) -> bool:
        """Count a step that starts now. False if a limit is reached, or other steps wait for it already."""
        names = self._of(step).keys()
        first = not any(names & self._of(place.step).keys() for place in self._waiting)
        return first and self._count(step)

    async def wait(self, step: StepPlan) -> None:
        """Count a step as soon as its limits allow it."""
        woken = anyio.Event()
        place = self.ask(step, woken.set)
        try:
            await woken.wait()
        except BaseException:
            self.withdraw(place)
            raise

    def ask(self, step: StepPlan, on_granted: Callable[[], None]) -> Place:
        """A place in the queue. `on_granted` is called when the step is counted, at once or later."""
        place = Place(step, on_granted)
        self._waiting.append(place)
        self._wake()
        return place

    def withdraw(self, place: Place) -> None:
        """Leave the queue, or give the place back: the step does not start."""
        if place.granted:
            self.give_back(place.step)
        else:
            self._waiting.remove(place)
            self._wake()

    def give_back(self, step: StepPlan) -> None:
        """A counted step has ended."""
        names = self._of(step)
        self._running.subtract(names.keys())
        if names:
            self._wake()

    def hold_idle(self, step: StepPlan, count: int) -> None:
        """`count` more (or fewer) counted steps like this one wait for a run. They keep their places: else another
        step would begin between their halves. If that run needs these places too, it waits for ever: the log says so.
        """
        names = self._of(step)
        self._held_idle.update(dict.fromkeys(names, count))
        if names and count > 0:
            self._say_stuck()

    def _say_stuck(self) -> None:
        for place in self._waiting:
            for name, most in self._of(place.step).items():
                if self._held_idle[name] >= most and name not in self._told:
                    self._told.add(name)
                    _log.warning(
                        "step %s waits for limit %s, and all steps that have its places wait for runs: if those runs "
                        "need it, they wait for ever. Remove the limit from the steps that wait for runs.",
                        place.step.id,
                        name,
                    )

    def _count(self, step: StepPlan) -> bool:
        limits = self._of(step)
        if any(self._running[name] >= most for name, most in limits.items()):
            return False
        self._running.update(limits.keys())
        return True

    def _wake(self) -> None:
        """Start what may start, in the order in which it came."""
        blocked: set[str] = set()
        for place in list(self._waiting):
            names = self._of(place.step).keys()
            if not names & blocked and self._count(place.step):
                self._waiting.remove(place)
                place.granted = True
                place.on_granted()
            else:
                blocked |= names
        if self._held_idle.total():
            self._say_stuck()

    def _of(self, step: StepPlan) -> dict[str, int]:
        """The limits of a step. A name that is not known is left out here: such a step is refused before it starts."""
        limits: dict[str, int] = {}
        if step.limit is not None and step.limit in self._sizes:
            limits[step.limit] = self._sizes[step.limit]
        if step.concurrency is not None:
            limits[f"function {step.target}"] = step.concurrency  # no named limit has a space in its name
        return limits


def refuse_unknown_limits(plan: Plan, sizes: Mapping[str, int]) -> None:
    """Refuse a chain that names a limit which this process does not have. Raises InputInvalid (E_LIMIT_UNKNOWN)."""
    for step in plan.steps:
        refuse_unknown_limit(step, sizes)
        if step.chain is not None:
            refuse_unknown_limits(step.chain, sizes)


def refuse_unknown_limit(step: StepPlan, sizes: Mapping[str, int]) -> None:
    """The same for one step."""
    if step.limit is None or step.limit in sizes:
        return
    name = shown(step.limit)
    raise InputInvalid(
        "E_LIMIT_UNKNOWN",
        f"there is no limit {name} here",
        place=ErrorPlace(step=step.id, field="limit"),
        found=step.limit,
        allowed=" ".join(sorted(sizes)) or "no limit is set",
        cure=f'limits = {{ {name} = 2 }} in towpath.toml, or open_engine(limits={{"{name}": 2}})',
    )
