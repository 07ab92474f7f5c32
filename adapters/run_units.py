"""How the facts of one run reach the store: gathered for a moment, then handed over as one unit.

A unit is recorded as a whole or not at all. The steps that it starts may begin when it is durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from towpath.events import ChainEnded, ChainPaused, Fact
from towpath.ports import Birth, EngineStore, Lease

from .step_executor import Work
from .task_group import callback_context

UNIT = 64  # facts after which a unit is handed over at once
LARGEST = 1_000  # facts of one unit: a transaction must not keep others waiting


class RunUnits:
    """The facts of a run that are not durable yet.

    A new run (`birth`) is recorded with its first unit. `on_durable` gets the facts of each recorded unit, and the work
    that it starts. `on_failure` gets the error of a unit that was not recorded: nothing of the run may be recorded
    after it.
    """

    def __init__(
        self,
        store: EngineStore,
        lease: Lease,
        birth: Birth | None,
        on_durable: Callable[[Sequence[Fact], Sequence[Work]], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._store = store
        self._lease = lease
        self._birth = birth
        self._on_durable = on_durable
        self._on_failure = on_failure
        self._loop = asyncio.get_running_loop()
        self._context = callback_context()
        self._listening = callback_context()  # listeners see the variables of whoever started the run
        self._facts: list[Fact] = []
        self._starting: list[Work] = []
        self._in_flight = 0
        self._planned = self._failed = False

    def add(self, facts: list[Fact], starting: list[Work], *, now: bool = False) -> None:
        """Record facts soon, together with others that come before the loop goes on. `now`: no others will come."""
        self._facts += facts
        self._starting += starting
        if not self._facts and not self._starting:
            return
        if now or len(self._facts) >= UNIT:
            self._flush()
        elif not self._planned:
            self._planned = True
            self._loop.call_soon(self._flush_planned, context=self._context)

    def _flush_planned(self) -> None:
        self._planned = False
        self._flush()

    def _flush(self) -> None:
        facts = self._facts
        if self._failed or (facts and self._in_flight and _ends(facts[-1]) and len(facts) <= LARGEST):
            return  # if an earlier unit is refused, the end must not be recorded: `done` calls this again
        if len(facts) > LARGEST:
            self._facts = facts[LARGEST:]
            self._hand_over(facts[:LARGEST], [])
            return
        starting, self._facts, self._starting = self._starting, [], []
        if facts:
            self._hand_over(facts, starting)
        else:
            self._on_durable((), starting)

    def _hand_over(self, facts: list[Fact], starting: list[Work]) -> None:
        def done(error: Exception | None) -> None:
            self._in_flight -= 1
            try:
                self._listening.run(self._recorded, facts, starting, error)
            except Exception as failed:
                self._fail(failed)

        self._in_flight += 1
        try:
            self._submit(facts, done)
        except Exception as error:  # any: without these facts no later ones may be recorded
            self._in_flight -= 1
            self._fail(error)

    def _submit(self, facts: list[Fact], done: Callable[[Exception | None], None]) -> None:
        birth, self._birth = self._birth, None
        if birth is None:
            self._store.record_soon(self._lease, facts, done)
        else:
            self._store.record_born(birth, facts, done)

    def _recorded(self, facts: Sequence[Fact], starting: Sequence[Work], error: Exception | None) -> None:
        if error is not None:
            raise error
        if not self._failed:
            self._on_durable(facts, starting)
            if self._facts and not self._planned:
                self._flush()

    def _fail(self, error: BaseException) -> None:
        self._failed = True
        self._on_failure(error)


def _ends(fact: Fact) -> bool:
    return isinstance(fact, ChainEnded | ChainPaused)
