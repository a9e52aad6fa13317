"""Pages of long lists: filters, order and limit in SQL, and a total without joins.

Filters and order mean the same as in Buildbot.  Source: buildbot/data/resultspec.py
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from typing import TypeVar

from buildbot.data.base import ListResult
from buildbot.db.model import Model

from litebot.master.db.pieces import Pieces
from litebot.master.db.pieces import pieces_of
from litebot.store.sql import Row
from litebot.store.sql import Sql

T = TypeVar("T")

COMPARISONS = {"eq": "=", "ne": "<>", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}

# The conditions of the partial indexes.  SQLite does not know that few rows meet them; a + before
# the other columns that are compared keeps it from using the indexes of those instead.
UNFINISHED = ("complete_at IS NULL", "r.complete <> 1")

# How many ids a query has as parameters; SQLite takes some 32,000.
IDS_PER_QUERY = 500

# Conditions that a row either always meets or never.
FIXED = ("builderid = ?", "r.builderid = ?")


@dataclass(frozen=True)
class List:
    """How the rows of a table are listed by the data API.

    `select` is a query without conditions, and `model_of` makes a model of each of its rows.
    `count` is the table that the query selects from; its joins must not add rows.  `fields` maps
    the data API's names to columns.  `key` is the column that numbers the rows, the first one that
    is selected, and `unindexed` a column that no index has.  A column of a joined table has a
    qualified name.  The rows of a list that `is_reversed` come in the reverse order.
    """

    select: str
    count: str
    model_of: Callable[[Row], Any]
    fields: dict[str, str]
    key: str
    unindexed: str
    is_reversed: bool = False

    def can_select(self, spec: Any) -> bool:
        """Return whether rows can be selected for a ResultSpec.

        That is so if its filters and order can be expressed in SQL, or if it reads in pieces; then
        the data API filters and orders by the other fields.
        """
        return pieces_of(spec) is not None or self._selects_all(spec)

    def mark_applied(self, models: T, spec: Any) -> T:
        """Remove from a ResultSpec what SQL has applied to the models; return the models."""
        if self._selects_all(spec):
            spec.filters, spec.order, spec.offset, spec.limit = [], None, None, None
        else:
            spec.filters = [f for f in spec.filters if f.field not in self.fields]
            spec.order = [name for name in spec.order or () if not self._orders_by(name)]
        return models

    def page(
        self, sql: Sql, spec: Any, where: Sequence[str] = (), parameters: Sequence[Any] = ()
    ) -> Any:
        """Return the models that a ResultSpec asks for, with the total if it asks for a page.

        `where` are further conditions, and `parameters` theirs.  The ResultSpec is not changed, as
        an interrupted query is run again; call mark_applied afterwards.
        """
        conditions, values = self._conditions(spec, where, parameters)
        models = self._models(sql, spec, conditions, values)
        if pieces_of(spec) is not None:
            return models
        if not (spec.offset or spec.limit):
            return models
        total = self._total(sql, conditions, values)
        return ListResult(models, offset=spec.offset, total=total, limit=spec.limit)

    def models(self, sql: Sql, spec: Any) -> list[Any]:
        """Do as page, without a total."""
        return self._models(sql, spec, *self._conditions(spec))

    def _selects_all(self, spec: Any) -> bool:
        """Return whether all filters and all of the order can be expressed in SQL."""
        return all(f.field in self.fields for f in spec.filters) and all(
            self._orders_by(name) for name in spec.order or ()
        )

    def _orders_by(self, name: str) -> bool:
        return name.lstrip("-") in self.fields

    def _conditions(
        self, spec: Any, where: Sequence[str] = (), parameters: Sequence[Any] = ()
    ) -> tuple[list[str], list[Any]]:
        """Return `where` and the conditions of a ResultSpec, and the parameters of both."""
        conditions, values = list(where), list(parameters)
        is_unfinished = any(condition in UNFINISHED for condition in where)
        for f in (f for f in spec.filters if f.field in self.fields):
            are_numbers = all(isinstance(value, int) for value in f.values)
            column = ("+" if is_unfinished and are_numbers else "") + self.fields[f.field]
            condition, operands = _condition(column, f.op, list(f.values))
            conditions.append(condition)
            values += operands
        return conditions, values

    def _models(self, sql: Sql, spec: Any, conditions: list[str], values: list[Any]) -> list[Any]:
        if (pieces := pieces_of(spec)) is not None:
            return self._piece(sql, spec, pieces, conditions, values)
        rows = sql.rows(f"{self.select}{_where(conditions)}{self._tail(spec, sql)}", *values)
        models = [self.model_of(row) for row in rows]
        return models[::-1] if self.is_reversed else models

    def _piece(
        self, sql: Sql, spec: Any, pieces: Pieces, conditions: list[str], values: list[Any]
    ) -> list[Any]:
        """Return the models of one read in pieces."""
        if pieces.part is None:
            tail = f"{_where(conditions)}{self._tail(spec, sql)}"
            if spec.limit is not None and spec.limit <= pieces.size and self._selects_all(spec):
                rows = sql.rows(f"{self.select}{tail}", *values)
                pieces.ids = self._in_order(array("q", (row[0] for row in rows)))
                return pieces.in_order({row[0]: self.model_of(row) for row in rows})
            # `unindexed` keeps SQLite from reading an index alone, in whose order the ids would be.
            source = self.select.partition(" FROM ")[2]
            columns = f"{self.key}, {self.unindexed}"
            pieces.ids = self._in_order(sql.ids(f"SELECT {columns} FROM {source}{tail}", *values))
        by_id = {}
        for some in in_parts(pieces.next_part()):
            # CASE keeps the database from finding the rows by an index of what is compared.
            still = [f"CASE WHEN {' AND '.join(conditions)} THEN 1 END = 1"] if conditions else []
            where = _where([among(self.key, some), *still])
            for row in sql.rows(f"{self.select}{where}", *some, *values):
                by_id[row[0]] = self.model_of(row)
        return pieces.in_order(by_id)

    def _in_order(self, ids: array[int]) -> array[int]:
        if self.is_reversed:
            ids.reverse()
        return ids

    def _total(self, sql: Sql, conditions: list[str], values: list[Any]) -> int:
        """Return how many rows meet these conditions."""
        if all(condition in FIXED for condition in conditions):
            return sql.count(self.count, " AND ".join(conditions) or "TRUE", *values)
        joins = any(condition.lstrip("+").startswith("c.") for condition in conditions)
        source = self.select.partition(" FROM ")[2] if joins else self.count
        [[total]] = sql.rows(f"SELECT count(*) FROM {source}{_where(conditions)}", *values)
        return int(total)

    def _tail(self, spec: Any, sql: Sql) -> str:
        """Return the ORDER BY, LIMIT and OFFSET of a ResultSpec."""
        names = [name for name in spec.order or () if self._orders_by(name)]
        order = [self._order_term(name) for name in names]
        if not sql.keeps_order:
            order.append(self.key)
        tail = f" ORDER BY {', '.join(order)}" if order else ""
        if not self._selects_all(spec):
            return tail
        if spec.limit is not None:
            tail += f" LIMIT {int(spec.limit)}"
        elif spec.offset is not None:
            tail += f" LIMIT {2**62}"  # SQLite has no offset without a limit
        return f"{tail} OFFSET {int(spec.offset)}" if spec.offset is not None else tail

    def _order_term(self, name: str) -> str:
        """Return a term of ORDER BY.  NULL sorts before all else, as in Buildbot's Python."""
        column = self.fields[name.lstrip("-")]
        own = Model.metadata.tables[self.count.split()[0]].c
        foreign, _, plain = column.rpartition(".")
        is_last = " NULLS LAST" if name.startswith("-") else " NULLS FIRST"
        may_be_null = foreign == "c" or own[plain].nullable
        return f"{column}{' DESC' if name.startswith('-') else ''}{is_last if may_be_null else ''}"


def in_parts(ids: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield as many at a time as a query may have ids as parameters."""
    for start in range(0, len(ids), IDS_PER_QUERY):
        yield ids[start : start + IDS_PER_QUERY]


def among(column: str, ids: Sequence[Any]) -> str:
    """Return the condition that a column is one of so many ids, which are its parameters."""
    return f"{column} IN ({', '.join('?' * len(ids))})"


def _where(conditions: Sequence[str]) -> str:
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""


def _condition(column: str, op: str, values: list[Any]) -> tuple[str, list[Any]]:
    """Return the SQL of a filter, and its parameters."""
    values = [int(value) if isinstance(value, bool) else value for value in values]
    if op == "contains":
        likes = [f"{column} LIKE '%' || ? || '%'"] * len(values)
        return f"({' OR '.join(likes)})", values
    if op in COMPARISONS and len(values) == 1:
        if values[0] is None:
            return f"{column} IS {'' if op == 'eq' else 'NOT '}NULL", []
        return f"{column} {COMPARISONS[op]} ?", values
    negated = "NOT " if op in ("ne", "notin") else ""
    return f"{column} {negated}IN ({', '.join('?' * len(values))})", values
