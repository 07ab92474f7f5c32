"""Recording a `@chain`: nodes, the references between them, and the trace that collects both.

The body of a `@chain` runs once, before any value is known. The result of a comparison, a text or a length would be
that of the reference, not of the value. So every such operation raises `E_CHAIN_TRACE`. Python does not ask the
object for `is`, `type()`, `callable()`, `id()` and for a `match` against a mapping: those cannot be refused.
"""

from __future__ import annotations

import collections.abc
import os
import sys
import sysconfig
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeGuard, TypeVar

from .errors import ChainInvalid, Place, Problem, shown
from .model import ApprovalPolicy
from .retry import seconds

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Node:
    """One step being recorded, or (of the kind `input`) a chain input.

    `source` is the `Step` or `Chain` that was called. `arguments` may hold references at any depth.
    """

    wanted_id: str
    kind: str
    target: str
    source: object
    arguments: dict[str, Any]
    id: str = ""
    foreach: Any = None
    mapped: bool = False
    after: list[Node] = field(default_factory=list)
    condition: str | None = None
    approval: ApprovalPolicy | None = None
    place: Place = field(default_factory=Place)  # of the call


if TYPE_CHECKING:
    _Anything = Any  # a reference replaces the value, so type checkers accept it wherever one is expected
else:
    _Anything = object


class Ref(Generic[T], _Anything):  # type: ignore[misc]  # on purpose
    """What a step will return, or a part of it (`ref["key"]`, `ref[0]`), inside a `@chain`.

    Passing a reference to another step is the edge between the two; `.after(x)` adds an edge without data.
    Anything else that Python can do with a value raises ChainInvalid (`E_CHAIN_TRACE`).
    """

    __slots__ = ("_keys", "_node")

    _keys: tuple[str | int, ...]
    _node: Node

    def __init__(self, node: Node, keys: tuple[str | int, ...] = ()) -> None:
        object.__setattr__(self, "_node", node)
        object.__setattr__(self, "_keys", keys)

    def __getitem__(self, key: str | int) -> Ref[Any]:
        return Ref(self._node, (*self._keys, _key(key)))

    def after(self, *others: Ref[Any]) -> Ref[T]:
        """Start only when these steps are recorded, without taking data from them."""
        for other in others:
            if not is_reference(other):
                raise refused(f".after() got {_kind_of(other)}, not a reference", ".after(step_a, step_b)")
        node, trace = self._change(), current_trace()
        for other in others:
            if trace is not None and not trace.knows(other):
                raise refused(f"{text_of(other)} belongs to another chain", "call the step inside this chain")
        node.after.extend(other._node for other in others if other._node.kind != "input")
        return self

    def when(self, condition: str) -> Ref[T]:
        """Run only if the condition holds, e.g. `.when("check.output.ok")`; else the step is skipped."""
        if not issubclass(type(condition), str):
            raise refused(f"a condition is text, not {_kind_of(condition)}", '.when("step.output.ok")')
        self._change().condition = condition
        return self

    def with_approval(
        self,
        *,
        timeout: float | str | None = None,
        on_rejected: str = "stop",
        max_retries: int = 0,
        timeout_action: str = "auto_reject",
    ) -> Ref[T]:
        """Let the step wait for a person after it ran."""
        limit = None if timeout is None else seconds(timeout)
        self._change().approval = ApprovalPolicy(on_rejected, max_retries, limit, timeout_action)
        return self

    def named(self, step_id: str) -> Ref[T]:
        """Give the step an id of its own instead of its function's name."""
        if not issubclass(type(step_id), str):
            raise refused(f"a step's id is text, not {_kind_of(step_id)}", '.named("id")')
        node, trace = self._change(), current_trace()
        assert trace is not None
        trace.rename(node, step_id)
        return self

    def _change(self) -> Node:
        """The node, to be changed: only while its own chain is described."""
        node, trace = self._node, current_trace()
        if node.kind == "input":
            place = user_place(field=f"inputs.{node.target}")
            message = "only steps have an order, a condition, an approval or an id of their own"
            raise ChainInvalid([Problem("E_CHAIN_TRACE", message, place, found="a chain input")])
        if trace is None or node not in trace.nodes:
            raise refused(f"{text_of(self)} belongs to another chain", "call the step inside this chain")
        return node

    # Python looks up special methods on the class. Those not defined here are in `_REFUSED` below.

    def __getattr__(self, name: str) -> Any:
        if name.startswith(_DATA_PROTOCOLS) and current_trace() is not None:
            raise refused("the value of a reference as an array or a table", _IN_A_STEP)
        if name.startswith(("__", "_repr_", "_ipython_")):
            raise AttributeError(name)  # a library looks for its own protocol, and continues without it
        cure = f'a part of the value is reference["{name}"]; attributes and methods of an object: inside a step'
        raise refused(f"the attribute .{name} of a reference", _OTHER_WAYS.get(name, cure))

    def __setattr__(self, name: str, value: object) -> None:
        raise refused(f"setting .{name} of a reference", _IN_A_STEP)

    def __delattr__(self, name: str) -> None:
        raise refused(f"deleting .{name} of a reference", _IN_A_STEP)

    def __repr__(self) -> str:
        """For debugging after the chain is described. Meanwhile it is refused, as `str` is."""
        if current_trace() is not None:
            raise refused("the text of a reference", _TEXT)
        return text_of(self)

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Refused while a chain is described: `isinstance` and class patterns read it if the type does not match."""
        if current_trace() is not None:
            raise refused("the type of a reference", _IN_A_STEP)
        return type(self)

    # For type checkers: outside of a chain, the result of a step's call can be awaited or iterated.

    def __iter__(self) -> Generator[Any, None, None]:
        raise refused("the elements of the value of a reference", _EACH)

    def __await__(self) -> Generator[Any, None, T]:
        raise refused("the result of a step", "inside a @chain steps are called without await")


class InputRef(Ref[Any]):
    """A chain's input inside the `@chain`, or a part of it."""

    __slots__ = ()

    def __getitem__(self, key: str | int) -> InputRef:
        return InputRef(self._node, (*self._keys, _key(key)))


# A sequence pattern in `match` then asks for the length, and is refused like the others.
collections.abc.Sequence.register(Ref)  # pyright: ignore[reportAttributeAccessIssue]


def is_reference(value: object) -> TypeGuard[Ref[Any]]:
    """Is it a reference? `isinstance` is not used, because a reference refuses it."""
    return issubclass(type(value), Ref)


def text_of(reference: Ref[Any]) -> str:
    """A reference in words, for messages."""
    node = reference._node
    what = f"input {node.target}" if node.kind == "input" else f"value of step {node.id}"
    return f"<{what}{''.join(f'[{key!r}]' for key in reference._keys)}>"


def _kind_of(value: object) -> str:
    return "a reference" if is_reference(value) else shown(f"{type(value).__name__}")


def _key(key: object) -> str | int:
    """A key that is known now."""
    if type(key) is not bool and issubclass(type(key), str | int):  # also members of enums that are texts or numbers
        plain = str.__str__(key) if issubclass(type(key), str) else int.__int__(key)  # type: ignore[arg-type]
        _refuse_unkeepable(plain)
        return plain
    cure = "a step that takes both and returns the part"
    raise refused(f"a part of a value by {_kind_of(key)}", cure, "a text key or an index that is written down")


def _refuse_unkeepable(key: str | int) -> None:
    """A plan is JSON: it can hold only valid Unicode text and numbers of 64 bits."""
    cure, allowed = "a step that takes the value and returns the part", "text in UTF-8, or an index of 64 bits"
    if isinstance(key, str) and not key.isascii() and any("\ud800" <= c <= "\udfff" for c in key):
        raise refused("a part of a value by text that is not valid Unicode", cure, allowed)
    if isinstance(key, int) and not -(2**63) <= key < 2**63:
        raise refused("a part of a value by a number that does not fit 64 bits", cure, allowed)


# ---- what a reference refuses

# numpy, pandas, polars and pyarrow ask for these first. Without them they would make an array that holds the reference.
_DATA_PROTOCOLS = ("__array", "__arrow", "__dataframe", "__dlpack")
_IN_A_STEP = "do it inside a step: pass the reference to a @step function"
_CONDITION = '.when("step.output > 3") makes a step conditional; else ' + _IN_A_STEP
_TEXT = "pass the reference to a step, and build the text inside it"
_EACH = "step.map(reference) runs the step once for each element, reference[0] is one of them; else " + _IN_A_STEP
_OTHER_WAYS = {
    "map": "the step comes first: step.map(reference)",
    "keys": 'give each part by its key: step(a=reference["a"]); all keys: inside a step',  # `**` asks for it
}

_REFUSED: dict[tuple[str, str], str] = {
    ("a comparison of the value of a reference", _CONDITION): "__eq__ __ne__ __lt__ __le__ __gt__ __ge__",
    ("whether the value of a reference is true", _CONDITION): "__bool__",
    ("the hash of a reference", "use a constant as the key, or look it up inside a step"): "__hash__",
    ("the text of a reference", _TEXT): "__str__ __format__ __bytes__ __fspath__",
    ("the value of a reference as a number", _IN_A_STEP): (
        "__int__ __float__ __complex__ __index__ __round__ __trunc__ __floor__ __ceil__"
    ),
    ("arithmetic with the value of a reference", _IN_A_STEP): (
        "__neg__ __pos__ __abs__ __invert__ "
        "__add__ __sub__ __mul__ __matmul__ __truediv__ __floordiv__ __mod__ __divmod__ __pow__ "
        "__lshift__ __rshift__ __and__ __xor__ __or__ "
        "__radd__ __rsub__ __rmul__ __rmatmul__ __rtruediv__ __rfloordiv__ __rmod__ __rdivmod__ __rpow__ "
        "__rlshift__ __rrshift__ __rand__ __rxor__ __ror__ "
        "__iadd__ __isub__ __imul__ __imatmul__ __itruediv__ __ifloordiv__ __imod__ __ipow__ "
        "__ilshift__ __irshift__ __iand__ __ixor__ __ior__"
    ),
    ("the elements of the value of a reference", _EACH): "__next__ __reversed__ __aiter__ __anext__",
    ("the length of the value of a reference", _IN_A_STEP): "__len__ __length_hint__",
    ("whether something is in the value of a reference", _CONDITION): "__contains__",
    ("changing the value of a reference", _IN_A_STEP): "__setitem__ __delitem__",
    ("calling the value of a reference", _IN_A_STEP): "__call__",
    ("the value of a reference in a with statement", _IN_A_STEP): "__enter__ __exit__ __aenter__ __aexit__",
    ("the value of a reference as a class", _IN_A_STEP): "__instancecheck__ __subclasscheck__ __mro_entries__",
    ("the bytes of the value of a reference", _IN_A_STEP): "__buffer__ __release_buffer__",
    ("a copy of a reference", "use the same reference again"): (
        "__copy__ __deepcopy__ __replace__ __reduce__ __reduce_ex__ __getstate__ __setstate__ "
        "__getnewargs__ __getnewargs_ex__"
    ),
}


def _refusing(what: str, cure: str) -> Callable[..., NoReturn]:
    def refuse(self: object, *_: object, **__: object) -> NoReturn:
        raise refused(what, cure)

    return refuse


for (_what, _cure), _names in _REFUSED.items():
    for _name in _names.split():
        setattr(Ref, _name, _refusing(_what, _cure))


def refused(what: str, cure: str, allowed: str = "") -> ChainInvalid:
    """The error for an operation that has no result while a chain is described."""
    message = f"{what}: not known while the chain is described"
    return ChainInvalid([Problem("E_CHAIN_TRACE", message, user_place(), allowed=allowed, cure=cure)])


# ---- where the user is

_LIBRARIES = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def _of_the_user(frame: FrameType, chain_file: str | None) -> bool:
    """Is it neither our code nor a library's, as far as one can tell? The chain's file always counts as the user's."""
    file = frame.f_code.co_filename
    if file == chain_file:
        return True
    if not _is_users(file, str(frame.f_globals.get("__name__", ""))):
        return False
    # Dataclasses, named tuples and classes of attrs have methods that a library has made.
    return not (file.startswith("<") and frame.f_code.co_name.startswith("__"))


@lru_cache(1024)
def _is_users(file: str, module: str) -> bool:
    ours = module == "towpath" or module.startswith("towpath.")
    return not ours and not file.startswith(("<frozen ", *_LIBRARIES))


def _chain_file() -> str | None:
    trace = current_trace()
    return None if trace is None else trace.file


def user_place(step: str = "", field: str = "") -> Place:
    """The line of the user's code that is running; if there is none, only step and field."""
    frame = _running_frame()
    if frame is None:
        return Place(step=step, field=field)
    return Place(frame.f_code.co_filename, frame.f_lineno, 1, step, field)


def user_module() -> str:
    """The module of the user's code that is running, as in `sys.modules`."""
    frame = _running_frame()
    return "__main__" if frame is None else str(frame.f_globals.get("__name__") or "__main__")


def _running_frame() -> FrameType | None:
    frame: FrameType | None = sys._getframe(2)
    chain_file = _chain_file()
    while frame is not None and not _of_the_user(frame, chain_file):
        frame = frame.f_back
    return frame


def user_frame(traceback: TracebackType | None) -> TracebackType | None:
    """The innermost frame of a traceback that is the user's."""
    found, chain_file = None, _chain_file()
    while traceback is not None:
        if _of_the_user(traceback.tb_frame, chain_file):
            found = traceback
        traceback = traceback.tb_next
    return None if found is None else TracebackType(None, found.tb_frame, found.tb_lasti, found.tb_lineno)


def of_the_user(error: ChainInvalid) -> ChainInvalid:
    """The same error with one frame in its traceback: the user's line in the chain, if there is one."""
    return error.with_traceback(user_frame(error.__traceback__))


# ---- the trace


class Trace:
    """The nodes of one `@chain`, in the order of the calls. `inputs` are the nodes of its inputs by name."""

    def __init__(self, chain: str, inputs: Iterable[str] = (), file: str = "") -> None:
        self.chain = chain
        self.file = file
        self.nodes: dict[Node, None] = {}
        self.inputs = {name: Node("", "input", name, None, {}, id="inputs") for name in inputs}
        self._ids: set[str] = set()
        self._numbers: dict[
            str, int
        ] = {}  # the last number given to each name: the search for the next one starts there

    def add(self, node: Node) -> Ref[Any]:
        """Record a node under its name, or `name_2`, `name_3`… where that is taken."""
        node.id, n = node.wanted_id, self._numbers.get(node.wanted_id, 1)
        while node.id in self._ids:
            n += 1
            node.id = f"{node.wanted_id}_{n}"
        self._numbers[node.wanted_id] = n
        self._ids.add(node.id)
        node.place = user_place()
        self.nodes[node] = None
        return Ref(node)

    def rename(self, node: Node, step_id: str) -> None:
        if step_id in self._ids and step_id != node.id:
            place = user_place(step=step_id)
            raise ChainInvalid([Problem("E_CHAIN_DUPLICATE_STEP", f"two steps called {step_id}", place)])
        self._ids.discard(node.id)
        self._numbers.pop(node.wanted_id, None)  # so that its number can be given again
        node.id = step_id
        self._ids.add(step_id)

    def knows(self, reference: Ref[Any]) -> bool:
        """Does the reference belong to this chain?"""
        node = reference._node
        return self.inputs.get(node.target) is node if node.kind == "input" else node in self.nodes


_trace: ContextVar[Trace | None] = ContextVar("towpath_trace", default=None)


def current_trace() -> Trace | None:
    """The trace of the `@chain` being described, if any."""
    return _trace.get()


@contextmanager
def tracing(trace: Trace | None) -> Generator[None]:
    """Inside the block, calls of steps record nodes in `trace`; with None they run the functions."""
    token = _trace.set(trace)
    try:
        yield
    finally:
        _trace.reset(token)
