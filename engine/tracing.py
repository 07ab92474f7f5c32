"""Recording a `@chain`: nodes, the references between them, and the trace that collects both."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from .errors import ChainInvalid, Place, Problem
from .model import ApprovalPolicy
from .retry import seconds

if TYPE_CHECKING:
    from .steps import Step

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Node:
    """One step being recorded. `arguments` may hold references at any depth."""

    wanted_id: str
    kind: str
    target: str
    source: Any
    arguments: dict[str, Any]
    id: str = ""
    foreach: Any = None
    mapped: bool = False
    after: list[Node] = field(default_factory=list)
    condition: str | None = None
    approval: ApprovalPolicy | None = None

    @property
    def step(self) -> Step[..., Any]:
        return self.source  # type: ignore[no-any-return]


class Ref(Generic[T]):
    """What a step will return, or a part of it (`ref["key"]`, `ref[0]`), inside a `@chain`.

    Passing a reference to another step is the edge between the two; `.after(x)` adds an edge without data.
    """

    __slots__ = ("_keys", "_node")

    def __init__(self, node: Node, keys: tuple[str | int, ...] = ()) -> None:
        self._node = node
        self._keys = keys

    def __repr__(self) -> str:
        return f"<value of step {self._node.id}{''.join(f'[{key!r}]' for key in self._keys)}>"

    def __getitem__(self, key: str | int) -> Ref[Any]:
        if not isinstance(key, str | int) or isinstance(key, bool):
            raise TypeError("a reference takes a text key or an index")
        return Ref(self._node, (*self._keys, key))

    def after(self, *others: Ref[Any]) -> Ref[T]:
        """Start only when these steps are recorded, without taking data from them."""
        self._node.after.extend(other._node for other in others if not isinstance(other, InputRef))
        return self

    def when(self, condition: str) -> Ref[T]:
        """Run only if the condition holds, e.g. `.when("check.output.ok")`; else the step is skipped."""
        self._node.condition = condition
        return self

    def with_approval(
        self,
        *,
        timeout: float | str | None = None,
        on_rejected: str = "stop",
        max_retries: int = 0,
        timeout_action: str = "auto_reject",
    ) -> Ref[T]:
        """Wait for a person behind this step."""
        limit = None if timeout is None else seconds(timeout)
        self._node.approval = ApprovalPolicy(on_rejected, max_retries, limit, timeout_action)
        return self

    def named(self, step_id: str) -> Ref[T]:
        """Give the step an id of its own instead of its function's name."""
        trace = current_trace()
        assert trace is not None, "a reference only lives inside its @chain"
        trace.rename(self._node, step_id)
        return self

    def __bool__(self) -> bool:
        raise _not_yet("whether a step's value is true", ".when(condition) makes a step conditional")

    def __iter__(self) -> Generator[Any, None, None]:
        raise _not_yet("the elements of a step's value", "step.map(reference) runs a step for each of them")

    def __await__(self) -> Generator[Any, None, T]:
        raise _not_yet("the result of a step", "inside a @chain steps are called without await")


class InputRef(Ref[Any]):
    """A chain's input inside the `@chain`, or a part of it."""

    __slots__ = ("_name",)

    def __init__(self, name: str, keys: tuple[str | int, ...] = ()) -> None:
        super().__init__(Node("", "input", name, None, {}, id="inputs"), keys)
        self._name = name

    def __repr__(self) -> str:
        return f"<input {self._name}>"

    def __getitem__(self, key: str | int) -> InputRef:
        return InputRef(self._name, (*self._keys, key))

    def _not_a_step(self, *_: Any, **__: Any) -> NoReturn:
        place = Place(field=f"inputs.{self._name}")
        message = "only steps have an order, a condition, an approval or an id of their own"
        raise ChainInvalid([Problem("E_CHAIN_TRACE", message, place, found="a chain input")])

    after = when = with_approval = named = _not_a_step


def _not_yet(what: str, cure: str) -> ChainInvalid:
    return ChainInvalid([Problem("E_CHAIN_TRACE", f"{what} is not known while the chain is described", cure=cure)])


class Trace:
    """The nodes of one `@chain`, in the order they were called."""

    def __init__(self, chain: str) -> None:
        self.chain = chain
        self.nodes: list[Node] = []
        self._ids: set[str] = set()

    def add(self, node: Node) -> Ref[Any]:
        """Record a node under its name, or `name_2`, `name_3`… where that is taken."""
        node.id, n = node.wanted_id, 1
        while node.id in self._ids:
            n += 1
            node.id = f"{node.wanted_id}_{n}"
        self._ids.add(node.id)
        self.nodes.append(node)
        return Ref(node)

    def rename(self, node: Node, step_id: str) -> None:
        if step_id in self._ids and step_id != node.id:
            place = Place(step=step_id)
            raise ChainInvalid([Problem("E_CHAIN_DUPLICATE_STEP", f"two steps called {step_id}", place)])
        self._ids.discard(node.id)
        node.id = step_id
        self._ids.add(step_id)


_trace: ContextVar[Trace | None] = ContextVar("towpath_trace", default=None)


def current_trace() -> Trace | None:
    """The trace of the `@chain` being described, if any."""
    return _trace.get()


@contextmanager
def tracing(trace: Trace) -> Generator[None]:
    """Calls of steps record nodes in `trace`."""
    token = _trace.set(trace)
    try:
        yield
    finally:
        _trace.reset(token)
