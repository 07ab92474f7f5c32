"""Statements: SQLAlchemy Core, compiled once for each database that runs them. Also the few expressions that databases
spell differently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from operator import itemgetter
from typing import Any, NamedTuple

import sqlalchemy as sa

Expression = sa.sql.expression.ClauseElement
Values = Mapping[str, Any] | tuple[Any, ...]
"""By name; or as a tuple, for a statement that names its parameters in order."""
InsertInto = Callable[[sa.Table], Any]
"""`insert` of a dialect, which knows `on_conflict_do_nothing` and `on_conflict_do_update`."""


class Phase(IntEnum):
    """When the rows of a statement are written, if those of a whole batch are written together."""

    RUN_BORN = 0
    ROW_BORN = 1
    ROW_STARTED = 2
    ROW_COMPLETED = 3
    LEVEL_REACHED = 4
    RUN_CHANGED = 5
    TOLD = 6


@dataclass(frozen=True, slots=True, eq=False)  # compared by identity: it is a key that is looked up at each write
class Dialect:
    """How one database spells statements: its Core dialect, its `insert`, and how it binds a list."""

    core: sa.Dialect
    insert: InsertInto
    bind_list: Callable[[Sequence[Any]], Any]


def param(name: str) -> sa.BindParameter[Any]:
    """A place for a value in a `Statement`."""
    return sa.bindparam(name, required=False)


class Query(NamedTuple):
    """A statement with its values, for any database."""

    statement: Statement
    values: Values


class Statement:
    """A Core statement, or a function that makes one with the `insert` of a dialect.

    Calling it with values gives a `Query`; missing values are NULL. With `order`, the names of all its parameters, its
    values are a tuple in this order: for statements that are written very often. A database uses its own `compiled`
    form, which is made on first use.

    With a `phase`, the rows of a batch are written together with `executemany`, phase by phase. Such a statement must
    not depend on what other statements of its batch do, except through the order of phases.
    """

    __slots__ = ("_expression", "_forms", "order", "phase")

    def __init__(
        self, expression: Expression | Callable[[InsertInto], Expression], order: str = "", phase: Phase | None = None
    ) -> None:
        self.order = tuple(order.split())
        self.phase = phase
        self._expression = expression
        self._forms: dict[Dialect, Compiled] = {}

    def __call__(self, **values: Any) -> Query:
        if self.order:
            assert values.keys() <= set(self.order), values.keys()
            return Query(self, tuple(map(values.get, self.order)))
        return Query(self, values)

    def compiled(self, dialect: Dialect) -> Compiled:
        """The statement as this dialect spells it."""
        form = self._forms.get(dialect)
        if form is None:
            made = self._expression
            expression = made if isinstance(made, Expression) else made(dialect.insert)
            form = self._forms[dialect] = Compiled(expression, dialect, self.order)
        return form


class Compiled:
    """The SQL of a statement in one dialect, with positional parameters.

    `bind(values)` gives the values in the order of these parameters.
    """

    __slots__ = ("_bind_list", "_defaults", "_lists", "_pick", "bind", "sql")

    def __init__(self, expression: Expression, dialect: Dialect, order: tuple[str, ...] = ()) -> None:
        compiled = expression.compile(dialect=dialect.core, compile_kwargs={"render_postcompile": True})
        assert isinstance(compiled, sa.sql.compiler.SQLCompiler)
        self.sql = compiled.string
        names: tuple[str, ...] = tuple(compiled.positiontup or ())
        self.bind: Callable[[Any], Sequence[Any]]
        if order:
            assert {*names} == {*order}, f"not the parameters of {self.sql}: {order}"
            self.bind = itemgetter(*map(order.index, names))
            return
        # A `str` of Python's own: for a StrEnum, sqlite3 looks for an adapter each time.
        params = ((name, compiled.params[name]) for name in names)
        self._defaults = {name: str(value) if isinstance(value, str) else value for name, value in params}
        self._lists = tuple(name for name, bind in compiled.binds.items() if isinstance(bind.type, _Listed))
        self._bind_list = dialect.bind_list
        self._pick = _picker(names)
        self.bind = self._by_name

    def _by_name(self, values: Mapping[str, Any]) -> Sequence[Any]:
        given: dict[str, Any] = {**self._defaults, **values}
        for name in self._lists:
            given[name] = self._bind_list(given[name])
        return self._pick(given)


def _picker(names: tuple[str, ...]) -> Callable[[dict[str, Any]], Sequence[Any]]:
    """`itemgetter`, for any number of names."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda given: [given[name] for name in names]


# ---- what databases spell differently: each backend compiles it with `sqlalchemy.ext.compiler`


class _Listed(sa.types.TypeEngine[Any]):
    """A list as one value: an array, or JSON text for databases without arrays."""


class AnyOf(sa.sql.expression.ColumnElement[bool]):
    """Is `column` one of the values in the list `values`?"""

    inherit_cache = False
    type = sa.Boolean()

    def __init__(self, column: sa.ColumnElement[Any], name: str) -> None:
        self.column = column
        self.values = sa.bindparam(name, type_=_Listed(), required=False)


def any_of(column: sa.ColumnElement[Any], name: str) -> sa.ColumnElement[bool]:
    """Is the column one of the values in the list `name`? The list may be empty and of any length."""
    return AnyOf(column, name)


class JsonText(sa.sql.expression.ColumnElement[str]):
    """The text under `key` of the JSON object in `column`."""

    inherit_cache = False
    type = sa.Text()

    def __init__(self, column: sa.ColumnElement[Any], key: str) -> None:
        self.column = column
        self.key = key


def json_text(column: sa.ColumnElement[Any], key: str) -> sa.ColumnElement[str]:
    """The text under a key of the JSON object in a text column, or NULL. `key` is a fixed word, never a caller's."""
    assert key.isidentifier()
    return JsonText(column, key)


class JsonObject(sa.sql.expression.ColumnElement[str]):
    """A JSON object as text, made of columns."""

    inherit_cache = False
    type = sa.Text()

    def __init__(self, items: Iterable[tuple[str, sa.ColumnElement[Any]]]) -> None:
        self.items = tuple(items)


def one_of(column: sa.ColumnElement[Any], words: Iterable[str]) -> sa.ColumnElement[bool]:
    """Is the column one of these fixed words?

    Spelled with OR, and the words in the text: for `IN (…)` SQLite builds a table in memory, for each row that it
    changes.
    """
    return sa.or_(sa.false(), *(column == word_of(word) for word in words))


def word_of(word: str) -> sa.BindParameter[str]:
    """A fixed word, in the text of a statement."""
    return sa.literal(str(word), literal_execute=True)


def json_object(**items: sa.ColumnElement[Any]) -> sa.ColumnElement[str]:
    """A JSON object as text, its keys in the given order."""
    return JsonObject(items.items())
