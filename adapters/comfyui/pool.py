"""Which server gets a prompt: those that fit the step, are well and have a free slot; the least loaded first."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import anyio

from towpath.errors import InputInvalid, ServerFailed
from towpath.model import Json, StepPlan

from .client import ComfyClient, Health
from .connection import Connection, Patience
from .servers import Server

STRATEGIES = ("least_loaded", "round_robin", "random")
PROBE = 5.0  # seconds for one question to one server; a dead one is skipped after that
PROMISE = 30.0  # seconds for which a server that was picked by name only counts as a little busier
LOOK = 5.0  # seconds between looks at the servers while somebody waits for one


@dataclass(frozen=True, slots=True)
class Need:
    """What a step wants of its server: one by name, or any with these tags."""

    server: str | None = None
    tags: frozenset[str] = frozenset()

    def fits(self, server: Server) -> bool:
        return self.server in (None, server.name, server.url) and self.tags <= server.tags

    def __str__(self) -> str:
        tags = f"the tags {', '.join(sorted(self.tags))}" if self.tags else ""
        return " and ".join(part for part in (f"the name {self.server}" if self.server else "", tags) if part)


def need_of(step: StepPlan) -> Need:
    """What a step wants of its server."""
    tags: Json = step.requires.get("tags") or ()
    return Need(step.server, frozenset(tags))


@dataclass(slots=True, eq=False)
class Member:
    """One server of the pool: its connection, what we know of it, and how much of it is ours."""

    server: Server
    client: ComfyClient
    in_flight: int = 0
    health: Health | None = None
    trouble: str = ""
    picked: int = 0
    promises: list[float] = field(default_factory=list)
    sent: dict[str, str] = field(default_factory=dict)
    sending: dict[str, anyio.Lock] = field(default_factory=dict)

    @property
    def connection(self) -> Connection:
        return self.client.connection

    @property
    def well(self) -> bool:
        """Nothing is known against it."""
        return not self.connection.rest.failures

    @property
    def load(self) -> int:
        """Prompts that a new one would wait for: ours, those of others, and picks not yet sent."""
        now = anyio.current_time()
        self.promises = [until for until in self.promises if until > now]
        others = max(self.health.queue - self.in_flight, 0) if self.health is not None else 0
        return self.in_flight + len(self.promises) + others

    async def look(self) -> None:
        """Ask the server how it is."""
        try:
            with anyio.fail_after(PROBE):
                self.health = await self.client.health()
            self.trouble = ""
        except TimeoutError:
            if self.well:  # else we may only have waited for our turn to ask, and nothing new is known
                self.connection.rest.failed()
            self.trouble = f"no answer within {PROBE:g} s"
        except ServerFailed as error:
            self.trouble = error.problem.message
            if error.retryable and self.well:
                self.connection.rest.failed()


@dataclass(slots=True, eq=False)
class Seat:
    """A slot of a server that is ours until it is given back."""

    member: Member
    need: Need


class ServerPool:
    """The configured servers. Use it as `async with ServerPool(servers) as pool`."""

    def __init__(
        self, servers: Sequence[Server], strategy: str = "least_loaded", patience: Patience | None = None
    ) -> None:
        check_strategy(strategy)
        self.strategy = strategy
        self.patience = patience or Patience()
        self.members: Sequence[Member] = [
            Member(server, ComfyClient(Connection(server, self.patience))) for server in servers
        ]
        self._waiting: dict[Callable[[], None], set[Need]] = {}
        self._aside: dict[Callable[[], None], list[Seat]] = {}
        self._picks = 0
        self._open = AsyncExitStack()

    async def __aenter__(self) -> ServerPool:
        for member in self.members:
            await self._open.enter_async_context(member.connection)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._open.aclose()

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

    def take(self, need: Need, wake: Callable[[], None]) -> Seat | None:
        """A slot now, or None: then `wake` is called when one was set aside. Raises ServerFailed (E_SERVER_NONE).

        While every fitting server is in trouble a slot of one of them is given all the same: whoever has it
        waits for that server, and finds out when it is well again.
        """
        seat = self._set_aside(need, wake) or self._free(need)
        if seat is None:
            self._waiting.setdefault(wake, set()).add(need)
        else:
            self._waits_no_more(wake, need)
        return seat

    def _set_aside(self, need: Need, wake: Callable[[], None]) -> Seat | None:
        seats = self._aside.get(wake, [])
        seat = next((seat for seat in seats if need.fits(seat.member.server)), None)
        if seat is None:
            return None
        seats.remove(seat)
        return Seat(seat.member, need)

    def _free(self, need: Need) -> Seat | None:
        fitting = self.fitting(need)
        free = [m for m in fitting if m.in_flight < m.server.slots]
        well = [m for m in free if m.well]
        if not free or (not well and any(m.well for m in fitting)):
            return None
        return self._seat(self._best(well or free, self.strategy), need)

    def _waits_no_more(self, wake: Callable[[], None], need: Need) -> None:
        """It had its turn; for more it queues up behind the others."""
        needs = self._waiting.get(wake, set())
        needs.discard(need)
        if not needs:
            self._waiting.pop(wake, None)

    def take_of(self, member: Member, need: Need) -> Seat:
        """A slot of this very server, full or not: its prompt is there already."""
        return self._seat(member, need)

    def instead(self, seat: Seat) -> Seat | None:
        """A slot of another server that is well, for one whose server turned out not to be."""
        free = [m for m in self.fitting(seat.need) if m.in_flight < m.server.slots and m.well]
        if not free:
            return None
        self.give_back(seat)
        return self._seat(self._best(free, self.strategy), seat.need)

    def give_back(self, seat: Seat) -> None:
        """The prompt is over; the slot is set aside for whoever has waited longest for such a server."""
        seat.member.in_flight -= 1
        for wake, needs in self._waiting.items():
            need = next((need for need in needs if self._may_have(seat.member, need)), None)
            if need is not None:
                self._aside.setdefault(wake, []).append(self._seat(seat.member, need))
                self._waits_no_more(wake, need)
                wake()
                return

    def _may_have(self, member: Member, need: Need) -> bool:
        """Is this server one to wait for? One in trouble only if all others are as well."""
        return need.fits(member.server) and (member.well or not any(m.well for m in self.fitting(need)))

    def settle(self, wake: Callable[[], None], *, wants: bool) -> None:
        """Say whether work still waits there; slots set aside for nothing go to others."""
        if not wants:
            self._waiting.pop(wake, None)
        for seat in self._aside.pop(wake, []):
            self.give_back(seat)

    def _seat(self, member: Member, need: Need) -> Seat:
        member.in_flight += 1
        return Seat(member, need)

    def _best(self, members: list[Member], strategy: str) -> Member:
        if strategy == "random":
            best = random.choice(members)  # noqa: S311 - spreads load, no secret
        elif strategy == "round_robin":
            best = min(members, key=lambda m: m.picked)
        else:
            best = min(members, key=lambda m: (m.load / m.server.slots, m.picked))
        self._picks += 1
        best.picked = self._picks
        return best

    # ---- picks by name, for the seed's functions

    async def pick(self, strategy: str | None = None, need: Need | None = None) -> Server:
        """A server that answers now. Picks count as load for a while, so that many at once are spread.

        Raises:
            ServerFailed: E_SERVER_NONE if no fitting server answers. InputInvalid: E_STRATEGY.
        """
        strategy = strategy or self.strategy
        check_strategy(strategy)
        fitting = self.fitting(need or Need())
        async with anyio.create_task_group() as tasks:
            for member in fitting:
                tasks.start_soon(member.look)
        well = [m for m in fitting if not m.trouble]
        if not well:
            told = "; ".join(f"{m.server.name}: {m.trouble}" for m in fitting)
            raise ServerFailed("E_SERVER_NONE", f"no server answers: {told}", cure="`towpath servers` shows them")
        best = self._best(well, strategy)
        best.promises.append(anyio.current_time() + PROMISE)
        return best.server

    # ---- keeping an eye on them

    async def look(self) -> None:
        """Ask every server how it is, all at once."""
        async with anyio.create_task_group() as tasks:
            for member in self.members:
                tasks.start_soon(member.look)

    async def keep_looking(self) -> None:
        """While somebody waits for a slot: a server that is well again may have one."""
        while True:
            await anyio.sleep(LOOK)
            if any(m.in_flight for m in self.members) or self._waiting:
                await self.look()
            for wake in list(self._waiting):
                wake()


def check_strategy(strategy: str) -> None:
    """Raises InputInvalid (E_STRATEGY) for a word that is none."""
    if strategy not in STRATEGIES:
        raise InputInvalid("E_STRATEGY", "how to choose a server", found=strategy, allowed=", ".join(STRATEGIES))
