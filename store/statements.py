"""Statements: SQLAlchemy Core, as each database spells it. Also the few expressions that databases spell differently.

    _CLAIM = Statement(lambda: sa.update(t.chains).where(t.chains.c.id == b("run")).values(epoch=b("new_epoch")))

The expression is a function, so that it is only made where its SQL was not rendered ahead (see `rendered.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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

Values = Mapping[str, Any]
K = TypeVar("K")


class Spelling(Protocol):
    """How one database spells statements: its Core dialect, and its `insert`. A module, imported late."""

    @property
    def core(self) -> sa.Dialect: ...

    @property
    def insert(self) -> InsertInto: ...


class Dialect(NamedTuple):
    """One kind of database: how it spells statements, what is rendered ahead for it, and how it binds a list."""

    spelling: Spelling
    rendered: Rendered
    bind_list: Callable[[Sequence[Any]], Any]


class Query(NamedTuple):
    """A statement with its values, for any database."""

    statement: Statement
    values: Values


class Statement:
    """A Core statement of a module. Calling it with values gives a `Query`; missing values are NULL.

    A database uses its own `compiled` form, which is read from what was rendered, or made on first use.
    """

    __slots__ = ("_expression", "_forms", "name")

    def __init__(self, expression: Callable[[], Expression], module: str = "") -> None:
        self._forms: dict[str, Compiled] = {}
        self._expression = expression
        module = module or expression.__module__
        of_module = STATEMENTS.setdefault(module, [])
        self.name: tuple[str, int] | None = (module, len(of_module))
        """Its module, and its number there. What was rendered is used for the same source only."""
        of_module.append(self)

    def __call__(self, **values: Any) -> Query:
        return Query(self, values)

    def compiled(self, dialect: Dialect) -> Compiled:
        """The statement as this dialect spells it."""
        form = self._forms.get(dialect.rendered.name)
        if form is None:
            ahead = dialect.rendered.form(*self.name) if self.name is not None else None
            form = Compiled(ahead or self.rendered(dialect.spelling), dialect)
            self._forms[dialect.rendered.name] = form
        return form

    def rendered(self, spelling: Spelling) -> Form:
        """The expression, made and compiled by Core."""
        compiled = self._expressed(spelling).compile(dialect=spelling.core, compile_kwargs={"render_postcompile": True})
        assert isinstance(compiled, sa.sql.compiler.SQLCompiler)
        names = tuple(compiled.positiontup or ())
        lists = tuple(name for name, bind in compiled.binds.items() if isinstance(bind.type, spellings.Listed))
        return Form(compiled.string, names, {name: compiled.params[name] for name in names}, lists)

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
        self._forms = {}
        self._expression = lambda: expression
        self.name = None


def each(keys: Iterable[K], expression: Callable[[K], Expression]) -> dict[K, Statement]:
    """A statement for each of these words."""
    return {key: Statement(partial(expression, key), expression.__module__) for key in keys}


STATEMENTS: dict[str, list[Statement]] = {}
"""All statements of modules that were imported, by module, in order: `render.py` renders them."""


class Compiled:
    """The SQL of a statement in one dialect, with positional parameters."""

    __slots__ = ("_bind_list", "_defaults", "_lists", "_pick", "sql")

    def __init__(self, form: Form, dialect: Dialect) -> None:
        self.sql = form.sql
        self._defaults = form.defaults
        self._lists = form.lists
        self._bind_list = dialect.bind_list
        self._pick = _picker(form.names)

    def bind(self, values: Values) -> Sequence[Any]:
        """The values in the order of their parameters."""
        given = {**self._defaults, **values}
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


def json_object(**items: sa.ColumnElement[Any]) -> sa.ColumnElement[str]:
    """A JSON object as text, its keys in the given order."""
    return spellings.JsonObject(items.items())
