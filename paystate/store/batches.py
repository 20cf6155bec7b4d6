"""Many rows in one statement, in the one form that each database takes best.

A statement selects from its parameters as from a table ``r``: PostgreSQL is given one text for each
column, which it splits into an array, SQLite one JSON text. So a batch of any size is one statement
with the same text, which is prepared once, and one round trip. (asyncpg takes arrays too, but looks
at every element three times to see whether the array has another dimension: half of the time that
this process spends on a batch.)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

import orjson
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["NOW_MS", "Batch", "Columns", "positional"]

# The database's clock, in milliseconds since the epoch.
NOW_MS = {
    "postgresql": "CAST(extract(epoch from clock_timestamp()) * 1000 AS BIGINT)",
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
}


# Between values, and in place of NULL: no value that is kept holds either. Ids and references are
# printable, and JSON escapes control characters.
_NEXT, _NULL = "\x1f", "\x1e"


def _array(name: str, kind: str) -> str:
    """Return the array that `_joined` stands for."""
    return f"CAST(string_to_array(:{name}, chr(31), chr(30)) AS {kind}[])"


def _joined(kind: str, values: Sequence[Any]) -> str:
    """Return `values` as one text. Raises ValueError or TypeError if they cannot be told apart."""
    if kind != "text":
        return _NEXT.join(map(str, values))  # numbers and booleans, none of them NULL
    nulls = values.count(None)
    if nulls:
        values = [_NULL if value is None else value for value in values]
    joined = _NEXT.join(values)
    if joined.count(_NEXT) != len(values) - 1 or joined.count(_NULL) != nulls or not joined:
        raise ValueError("a text that cannot be stored")
    return joined


_PARAMETER = re.compile(r"(?<!:):([a-z]\w*)")


def positional(sql: str, names: Sequence[str]) -> str:
    """Return PostgreSQL's `sql` with ``:name`` as ``$n``, the place of the name in `names`.

    Raises ValueError for a name that is not among them.
    """
    places = {name: f"${place}" for place, name in enumerate(names, 1)}
    unknown = set(_PARAMETER.findall(sql)) ^ set(places)
    if unknown:
        raise ValueError(f"not both given and used: {sorted(unknown)}")
    return _PARAMETER.sub(lambda found: places[found[1]], sql)


class Straight(Protocol):
    """Runs single statements of PostgreSQL; `paystate.store.engine.Database` does."""

    async def fetch(self, sql: str, *arguments: Any) -> list[Any]:
        """Run `sql` with ``$n`` for its `arguments`, commit, and return the rows."""


class Columns:
    """Rows of `columns` (name and SQL type, ``key text, id bigint``) as PostgreSQL's parameters.

    `prefix` tells the parameters of several such rows in one statement apart.
    """

    def __init__(self, columns: str, prefix: str = "") -> None:
        self._columns = [column.strip().split(" ", 1) for column in columns.split(",")]
        self.names = [f"{prefix}{name}" for name, _ in self._columns]

    @property
    def first(self) -> str:
        """The first column as an array."""
        return _array(self.names[0], self._columns[0][1])

    @property
    def source(self) -> str:
        """What selects them, as a table ``r``."""
        arrays = ", ".join(
            _array(name, kind)
            for name, (_, kind) in zip(self.names, self._columns, strict=True)
        )  # fmt: skip
        return f"unnest({arrays}) AS r({', '.join(name for name, _ in self._columns)})"

    def values(self, rows: Sequence[tuple[Any, ...]]) -> list[str]:
        """Return one text for each column. Raises TypeError or ValueError as `Batch.run` does."""
        if not rows:
            return [""] * len(self._columns)
        columns = zip(self._columns, zip(*rows, strict=True), strict=True)
        return [_joined(kind, values) for (_, kind), values in columns]


class Batch:
    """One statement over rows of `columns`, which are name and SQL type: ``key text, id bigint``.

    `sql` holds ``{r}`` where the rows are selected from, or ``{among}`` after what must be one of
    the values of the first column; it may hold ``{now}``, the time, and what `words` name, spelt as
    each dialect does. Rows are taken in the order in which they are given. SQLite's grammar wants
    an INSERT with ON CONFLICT to end its SELECT with ``WHERE true``.
    """

    def __init__(self, columns: str, sql: str, **words: dict[str, str]) -> None:
        self._columns = [column.strip().split(" ", 1) for column in columns.split(",")]
        self._arrays = Columns(columns)
        self._sql = sql
        self._words = words
        self._made: dict[str, TextClause] = {}
        self._straight: dict[tuple[str, ...], str] = {}

    def _statement(self, dialect: str) -> TextClause:
        made = self._made.get(dialect)
        if made is None:
            made = self._made[dialect] = text(self._text(dialect))
        return made

    def _text(self, dialect: str) -> str:
        words = {name: spelt[dialect] for name, spelt in self._words.items()}
        source = self._arrays.source if dialect == "postgresql" else self._json()
        return self._sql.format(r=source, among=self._among(dialect), now=NOW_MS[dialect], **words)

    def _among(self, dialect: str) -> str:
        if dialect == "postgresql":
            return f"= ANY({self._arrays.first})"
        return "IN (SELECT json_extract(value, '$[0]') FROM json_each(:rows))"

    def _json(self) -> str:
        values = ", ".join(
            f"json_extract(value, '$[{place}]') AS {name}"
            for place, (name, _) in enumerate(self._columns)
        )
        return f"(SELECT {values} FROM json_each(:rows) ORDER BY key) AS r"  # noqa: S608 - ours

    async def run(
        self, connection: AsyncConnection, rows: Sequence[tuple[Any, ...]], **more: Any
    ) -> Any:
        """Run the statement over `rows`, each with a value for every column, in order.

        Returns SQLAlchemy's result: the rows of a statement that returns any.

        `more` are further parameters. Raises what the driver raises, and TypeError or ValueError
        for a value that cannot be encoded.
        """
        dialect = connection.dialect.name
        if dialect == "postgresql":
            parameters = dict(zip(self._arrays.names, self._arrays.values(rows), strict=True))
        else:
            parameters = {"rows": orjson.dumps(rows).decode()}
        return await connection.execute(self._statement(dialect), {**parameters, **more})

    async def fetch(
        self, database: Straight, rows: Sequence[tuple[Any, ...]], **more: Any
    ) -> list[Any]:
        """Run the statement on PostgreSQL, committed when it returns, past SQLAlchemy.

        Returns its rows. Raises what `Straight.fetch` does, TypeError and ValueError as `run`.
        """
        names = tuple(more)
        sql = self._straight.get(names)
        if sql is None:
            sql = positional(self._text("postgresql"), [*self._arrays.names, *names])
            self._straight[names] = sql
        return await database.fetch(sql, *self._arrays.values(rows), *more.values())
