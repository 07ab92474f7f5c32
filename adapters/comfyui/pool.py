"""Which server gets a prompt: one that fits the step, is healthy and has a free slot; the least loaded first."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import count

import anyio

from towpath.errors import InputInvalid, ServerFailed
from towpath.model import Json, StepPlan

from .client import ComfyClient, Health
from .connection import Connection, Timeouts
from .servers import Server

STRATEGIES = ("least_loaded", "round_robin", "random")
PROBE = 5.0  # seconds that a server may take to answer one question
RESERVED = 30.0  # seconds for which a pick counts as load
CHECK_EVERY = 5.0  # seconds between health checks while prompts are in flight or steps wait for a slot

_next_pick = count(1)


@dataclass(frozen=True, slots=True)
class Need:
    """What a step requires of its server: a name, or tags, or neither."""

    server: str | None = None
    tags: frozenset[str] = frozenset()

    def fits(self, server: Server) -> bool:
        return self.server in (None, server.name, server.url) and self.tags <= server.tags

    def __str__(self) -> str:
        tags = f"the tags {', '.join(sorted(self.tags))}" if self.tags else ""
        return " and ".join(part for part in (f"the name {self.server}" if self.server else "", tags) if part)


def need_of(step: StepPlan) -> Need:
    """What a step requires of its server."""
    tags: Json = step.requires.get("tags") or ()
    return Need(step.server, frozenset(tags))


@dataclass(slots=True)
class Picks:
    """How often and how lately a server was picked. `last` orders picks; `reservations` are times when they expire."""

    last: int = 0
    reservations: list[float] = field(default_factory=list)

    def reserved(self) -> int:
        """Picks that still count as load."""
        now = anyio.current_time()
        self.reservations = [until for until in self.reservations if until > now]
        return len(self.reservations)


@dataclass(slots=True, eq=False)
class Member:
    """One server of the pool: its connection, its last health check, and the slots of it that are in use here.

    `sent` holds the names of files on the server by digest, `sending` a lock for each digest.
    """

    server: Server
    client: ComfyClient
    picks: Picks = field(default_factory=Picks)
    in_flight: int = 0
    health: Health | None = None
    trouble: str = ""
    sent: dict[str, str] = field(default_factory=dict)
    sending: dict[str, anyio.Lock] = field(default_factory=dict)

    @property
    def connection(self) -> Connection:
        return self.client.connection

    @property
    def healthy(self) -> bool:
        """Whether the last request to it succeeded, or none was made."""
        return not self.connection.backoff.failures

    @property
    def load(self) -> int:
        """Prompts that a new one would wait for: of this process, of others, and picks that were not used yet."""
        others = max(self.health.queue - self.in_flight, 0) if self.health is not None else 0
        return self.in_flight + self.picks.reserved() + others

    async def check_health(self) -> None:
        """Ask the server for its health, and set `health` or `trouble`."""
        try:
            with anyio.fail_after(PROBE):
                self.health = await self.client.health()
            self.trouble = ""
        except TimeoutError:
            if self.healthy:  # otherwise the time may have passed in the backoff, before any request
                self.connection.backoff.failed()
            self.trouble = f"no answer within {PROBE:g} s"
        except ServerFailed as error:
            self.trouble = error.problem.message
            if error.retryable and self.healthy:
                self.connection.backoff.failed()

    async def probe(self) -> None:
        """Return if the server answers now. Raises ServerFailed: E_SERVER_…."""
        healthy = self.healthy
        with anyio.move_on_after(PROBE):
            await self.connection.json("GET", "/prompt", retry=False)
            return
        if healthy:
            self.connection.backoff.failed()
        raise self.connection.error("E_SERVER_TIMEOUT", f"no answer within {PROBE:g} s")


@dataclass(slots=True, eq=False)
class Slot:
    """A slot of a server, in use until it is given back."""

    member: Member
    need: Need


class ServerPool:
    """The configured servers. Use it as `async with ServerPool(servers) as pool`. Raises InputInvalid (E_STRATEGY)."""

    def __init__(
        self, servers: Sequence[Server], strategy: str = "least_loaded", timeouts: Timeouts | None = None
    ) -> None:
        check_strategy(strategy)
        self.strategy = strategy
        self.timeouts = timeouts or Timeouts()
        self.members: Sequence[Member] = [
            Member(server, ComfyClient(Connection(server, self.timeouts))) for server in servers
        ]
        self._waiting: dict[Callable[[], None], set[Need]] = {}
        self._aside: dict[Callable[[], None], list[Slot]] = {}

    async def __aenter__(self) -> ServerPool:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        async with AsyncExitStack() as connections:
            for member in self.members:
                connections.push_async_callback(member.connection.close)

    def member(self, name: str) -> Member | None:
        """The server of that name or address."""
        return next((m for m in self.members if name in (m.server.name, m.server.url)), None)

    def fitting(self, need: Need) -> list[Member]:
        """The servers that a step may use, busy or not. Raises ServerFailed (E_SERVER_NONE)."""
        found = [m for m in self.members if need.fits(m.server)]
        if not found:
            raise ServerFailed(
                "E_SERVER_NONE",
                f"no server has {need}" if str(need) else "no server is configured",
                allowed=", ".join(m.server.name for m in self.members),
                cure="add it under [[servers]] in towpath.toml",
                retryable=False,
            )
        return found

    # ---- slots, for steps of chains

    def take(self, need: Need, wake: Callable[[], None]) -> Slot | None:
        """A slot now, or None: then `wake` is called when a slot was set aside. Raises ServerFailed (E_SERVER_NONE).

        If no fitting server is healthy, a slot of one of them is given all the same: its try waits for that server,
        and so finds out when the server is healthy again.
        """
        slot = self._set_aside(need, wake) or self._free(need)
        if slot is None:
            self._waiting.setdefault(wake, set()).add(need)
        else:
            self._leave_queue(wake, need)
        return slot

    def _set_aside(self, need: Need, wake: Callable[[], None]) -> Slot | None:
        slots = self._aside.get(wake, [])
        slot = next((slot for slot in slots if need.fits(slot.member.server)), None)
        if slot is None:
            return None
        slots.remove(slot)
        return Slot(slot.member, need)

    def _free(self, need: Need) -> Slot | None:
        fitting = self.fitting(need)
        free = [m for m in fitting if m.in_flight < m.server.slots]
        healthy = [m for m in free if m.healthy]
        if not free or (not healthy and any(m.healthy for m in fitting)):
            return None
        return self.take_of(self._best(healthy or free, self.strategy), need)

    def _leave_queue(self, wake: Callable[[], None], need: Need) -> None:
        """A run that got a slot joins the queue again behind the others."""
        needs = self._waiting.get(wake, set())
        needs.discard(need)
        if not needs:
            self._waiting.pop(wake, None)

    def take_of(self, member: Member, need: Need) -> Slot:
        """A slot of this server, even if all its slots are in use."""
        member.in_flight += 1
        return Slot(member, need)

    def instead(self, slot: Slot) -> Slot | None:
        """A slot of another, healthy server in exchange for a slot whose server does not answer."""
        free = [m for m in self.fitting(slot.need) if m.in_flight < m.server.slots and m.healthy]
        if not free:
            return None
        self.give_back(slot)
        return self.take_of(self._best(free, self.strategy), slot.need)

    def give_back(self, slot: Slot) -> None:
        """End the use of a slot. It is set aside for the run that has waited longest for such a server."""
        slot.member.in_flight -= 1
        for wake, needs in self._waiting.items():
            need = next((need for need in needs if self._may_have(slot.member, need)), None)
            if need is not None:
                self._aside.setdefault(wake, []).append(self.take_of(slot.member, need))
                self._leave_queue(wake, need)
                wake()
                return

    def _may_have(self, member: Member, need: Need) -> bool:
        """Whether a waiting step gets this server. An unhealthy one only if no fitting server is healthy."""
        return need.fits(member.server) and (member.healthy or not any(m.healthy for m in self.fitting(need)))

    def settle(self, wake: Callable[[], None], *, wants: bool) -> None:
        """Say whether work still waits; unused slots that were set aside go to others."""
        if not wants:
            self._waiting.pop(wake, None)
        for slot in self._aside.pop(wake, []):
            self.give_back(slot)

    def _best(self, members: list[Member], strategy: str) -> Member:
        if strategy == "random":
            best = random.choice(members)  # noqa: S311 - spreads load, no secret
        elif strategy == "round_robin":
            best = min(members, key=lambda m: m.picks.last)
        else:
            best = min(members, key=lambda m: (m.load / m.server.slots, m.picks.last))
        best.picks.last = next(_next_pick)
        return best

    # ---- picks by name, for the seed's functions

    async def pick(self, strategy: str | None = None, need: Need | None = None) -> Server:
        """A server that answers now. A pick counts as load for 30 s, so that many picks at once are spread.

        Raises:
            ServerFailed: E_SERVER_NONE if no fitting server answers. InputInvalid: E_STRATEGY.
        """
        strategy = strategy or self.strategy
        check_strategy(strategy)
        fitting = self.fitting(need or Need())
        await _check_all(fitting)
        answering = [m for m in fitting if not m.trouble]
        if not answering:
            troubles = "; ".join(f"{m.server.name}: {m.trouble}" for m in fitting)
            raise ServerFailed("E_SERVER_NONE", f"no server answers: {troubles}", cure="`towpath servers` shows them")
        best = self._best(answering, strategy)
        best.picks.reservations.append(anyio.current_time() + RESERVED)
        return best.server

    # ---- health checks

    async def check_health(self) -> None:
        """Check the health of every server, all at once."""
        await _check_all(self.members)

    async def watch(self) -> None:
        """Check the servers while prompts are in flight or steps wait, and wake waiting steps. Runs until cancelled."""
        while True:
            await anyio.sleep(CHECK_EVERY)
            if any(m.in_flight for m in self.members) or self._waiting:
                await self.check_health()
            for wake in list(self._waiting):
                wake()


async def _check_all(members: Sequence[Member]) -> None:
    async with anyio.create_task_group() as tasks:
        for member in members:
            tasks.start_soon(member.check_health)


def check_strategy(strategy: str) -> None:
    """Raises InputInvalid (E_STRATEGY) for an unknown strategy."""
    if strategy not in STRATEGIES:
        raise InputInvalid(
            "E_STRATEGY",
            "there is no such strategy for choosing servers",
            found=strategy,
            allowed=", ".join(STRATEGIES),
        )
