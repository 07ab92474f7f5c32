"""Statements: SQLAlchemy Core, as each database spells it. Also the few expressions that databases spell differently.

    _CLAIM = Statement(lambda: sa.update(t.chains).where(t.chains.c.id == b("run")).values(epoch=b("new_epoch")))

The expression is a function, so that it is only made where its SQL was not rendered ahead (see `rendered.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from towpath.late import Late

from .core import sa
from .rendered import Form, Rendered

if TYPE_CHECKING:
    from . import spellings

    Expression = sa.sql.expression.ClauseElement
    InsertInto = Callable[[sa.Table], Any]
    """`insert` of a dialect, which knows `on_conflict_do_nothing` and `on_conflict_do_update`."""
else:
    Expression = InsertInto = Any
    spellings = Late("towpath.store.spellings")

Values = Mapping[str, Any] | tuple[Any, ...]
"""By name; or as a tuple, for a statement that names its parameters in order."""
K = TypeVar("K")


class Phase(IntEnum):
    """When the rows of a statement are written, if those of a whole batch are written together."""

    RUN_BORN = 0
    ROW_BORN = 1
    ROW_STARTED = 2
    ROW_COMPLETED = 3
    LEVEL_REACHED = 4
    RUN_CHANGED = 5
    TOLD = 6


class Spelling(Protocol):
    """How one database spells statements: its Core dialect, and its `insert`. A module, imported late."""

    @property
    def core(self) -> sa.Dialect: ...

    @property
    def insert(self) -> InsertInto: ...


class Dialect:
    """One kind of database: how it spells statements, what is rendered ahead for it, and how it binds a list."""

    __slots__ = ("bind_list", "rendered", "spelling")

    def __init__(self, spelling: Spelling, rendered: Rendered, bind_list: Callable[[Sequence[Any]], Any]) -> None:
        self.spelling = spelling
        self.rendered = rendered
        self.bind_list = bind_list


class Query(NamedTuple):
    """A statement with its values, for any database."""

    statement: Statement
    values: Values


class Statement:
    """A Core statement of a module, as a function that makes its expression.

    Calling it with values gives a `Query`; missing values are NULL. With `order`, the names of all its parameters, its
    values are a tuple in this order: for statements that are written very often. A database uses its own `compiled`
    form, which is read from what was rendered, or made on first use.

    With a `phase`, the rows of a batch are written together with `executemany`, phase by phase. Such a statement must
    not depend on what other statements of its batch do, except through the order of phases.
    """

    __slots__ = ("_expression", "_forms", "_names", "name", "order", "phase")

    def __init__(
        self, expression: Callable[[], Expression], order: str = "", phase: Phase | None = None, module: str = ""
    ) -> None:
        self.order = tuple(order.split())
        self._names = frozenset(self.order)
        self.phase = phase
        self._expression = expression
        self._forms: dict[Dialect, Compiled] = {}
        home = module or expression.__module__
        # A module whose import was interrupted is made anew, and its statements are counted from the start again.
        of_module: list[Statement] = vars(sys.modules[home]).setdefault("__statements__", [])
        STATEMENTS[home] = of_module
        self.name: tuple[str, int] | None = (home, len(of_module))
        """Its module, and its number there: what was rendered is used for the same source only."""
        of_module.append(self)

    def __call__(self, **values: Any) -> Query:
        if self.order:
            assert values.keys() <= self._names, values.keys()
            return Query(self, tuple(map(values.get, self.order)))
        return Query(self, values)

    def compiled(self, dialect: Dialect) -> Compiled:
        """The statement as this dialect spells it."""
        form = self._forms.get(dialect)
        if form is None:
            ahead = None if self.name is None else dialect.rendered.form(*self.name)
            form = self._forms[dialect] = Compiled(ahead or self.rendered(dialect.spelling), dialect, self.order)
        return form

    def rendered(self, spelling: Spelling) -> Form:
        """The expression, made and compiled by Core."""
        compiled = self._expressed(spelling).compile(dialect=spelling.core, compile_kwargs={"render_postcompile": True})
        assert isinstance(compiled, sa.sql.compiler.SQLCompiler)
        names = tuple(compiled.positiontup or ())
        # A `str` of Python's own: for a StrEnum, sqlite3 looks for an adapter each time.
        params = ((name, compiled.params[name]) for name in names)
        fixed = {name: str(value) if isinstance(value, str) else value for name, value in params}
        lists = tuple(name for name, bind in compiled.binds.items() if isinstance(bind.type, spellings.Listed))
        return Form(compiled.string, names, fixed, lists)

    def _expressed(self, spelling: Spelling) -> Expression:
        return self._expression()


class Upsert(Statement):
    """A statement that needs the `insert` of a dialect."""

    __slots__ = ("_with_insert",)

    def __init__(self, expression: Callable[[InsertInto], Expression]) -> None:
        super().__init__(expression)  # type: ignore[arg-type]
        self._with_insert = expression

    def _expressed(self, spelling: Spelling) -> Expression:
        return self._with_insert(spelling.insert)


class Made(Statement):
    """A statement whose expression is there: where callers choose columns and filters, and for the checks of `fsck`."""

    __slots__ = ()

    def __init__(self, expression: Expression) -> None:
        self.order = ()
        self.phase = None
        self.name = None
        self._forms = {}
        self._expression = lambda: expression


def each(
    keys: Iterable[K], expression: Callable[[K], Expression], order: str = "", phases: Mapping[K, Phase] | None = None
) -> dict[K, Statement]:
    """A statement for each of these keys, from a function of it."""
    of, phase = expression.__module__, phases or {}
    return {key: Statement(partial(expression, key), order, phase.get(key), of) for key in keys}


STATEMENTS: dict[str, list[Statement]] = {}
"""All statements of the modules that were imported, in order: `render.py` renders them."""


class Compiled:
    """The SQL of a statement in one dialect, with positional parameters.

    `bind(values)` gives the values in the order of these parameters.
    """

    __slots__ = ("_bind_list", "_defaults", "_lists", "_pick", "bind", "sql")

    def __init__(self, form: Form, dialect: Dialect, order: tuple[str, ...] = ()) -> None:
        self.sql = form.sql
        self.bind: Callable[[Any], Sequence[Any]]
        if order:
            assert {*form.names} == {*order}, f"not the parameters of {self.sql}: {order}"
            self.bind = itemgetter(*map(order.index, form.names))
            return
        self._defaults = form.defaults
        self._lists = form.lists
        self._bind_list = dialect.bind_list
        self._pick = _picker(form.names)
        self.bind = self._by_name

    def _by_name(self, values: Mapping[str, Any]) -> Sequence[Any]:
        given: dict[str, Any] = {**self._defaults, **values}
        for name in self._lists:
            given[name] = self._bind_list(given[name])
        return self._pick(given)


def _picker(names: Sequence[str]) -> Callable[[dict[str, Any]], Sequence[Any]]:
    """`itemgetter`, for any number of names."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda given: [given[name] for name in names]


# ---- parts of expressions


def param(name: str) -> sa.BindParameter[Any]:
    """A place for a value in a `Statement`."""
    return sa.bindparam(name, required=False)


def any_of(column: sa.ColumnElement[Any], name: str) -> sa.ColumnElement[bool]:
    """Is the column one of the values in the list `name`? The list may be empty and of any length."""
    return spellings.AnyOf(column, name)


def json_text(column: sa.ColumnElement[Any], key: str) -> sa.ColumnElement[str]:
    """The text under a key of the JSON object in a text column, or NULL. `key` is a fixed word, never a caller's."""
    assert key.isidentifier()
    return spellings.JsonText(column, key)


def json_member(column: sa.ColumnElement[Any], key: str) -> sa.ColumnElement[str]:
    """The text under a caller's key of the JSON object in a text column, or NULL. The key has no quotation marks."""
    assert '"' not in key
    return spellings.JsonMember(column, key)


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
    return spellings.JsonObject(items.items())
