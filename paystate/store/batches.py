"""Many rows in one statement, in the one form that each database takes best.

A statement selects from its parameters as from a table ``r``: PostgreSQL is given one text for each
column, which it splits into an array, SQLite one JSON text. So a batch of any size is one statement
with the same text, which is prepared once, and one round trip. (asyncpg takes arrays too, but looks
at every element three times to see whether the array has another dimension: half of the time that
this process spends on a batch.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["NOW_MS", "Batch"]

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


class Batch:
    """One statement over rows of `columns`, which are name and SQL type: ``key text, id bigint``.

    `sql` holds ``{r}`` where the rows are selected from, or ``{among}`` after what must be one of
    the values of the first column; it may hold ``{now}``, the time, and what `words` name, spelt as
    each dialect does. Rows are taken in the order in which they are given. SQLite's grammar wants
    an INSERT with ON CONFLICT to end its SELECT with ``WHERE true``.
    """

    def __init__(self, columns: str, sql: str, **words: dict[str, str]) -> None:
        self._columns = [column.strip().split(" ", 1) for column in columns.split(",")]
        self._sql = sql
        self._words = words
        self._made: dict[str, TextClause] = {}

    def _statement(self, dialect: str) -> TextClause:
        made = self._made.get(dialect)
        if made is None:
            words = {name: spelt[dialect] for name, spelt in self._words.items()}
            source = self._arrays() if dialect == "postgresql" else self._json()
            among = self._among(dialect)
            sql = self._sql.format(r=source, among=among, now=NOW_MS[dialect], **words)
            made = self._made[dialect] = text(sql)
        return made

    def _among(self, dialect: str) -> str:
        name, kind = self._columns[0]
        if dialect == "postgresql":
            return f"= ANY({_array(name, kind)})"
        return "IN (SELECT json_extract(value, '$[0]') FROM json_each(:rows))"

    def _arrays(self) -> str:
        arrays = ", ".join(_array(name, kind) for name, kind in self._columns)
        return f"unnest({arrays}) AS r({', '.join(name for name, _ in self._columns)})"

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
            columns = zip(self._columns, zip(*rows, strict=True), strict=True)
            parameters = {name: _joined(kind, values) for (name, kind), values in columns}
        else:
            parameters = {"rows": orjson.dumps(rows).decode()}
        return await connection.execute(self._statement(dialect), {**parameters, **more})
