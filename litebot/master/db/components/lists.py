"""Pages of long lists: filters, order and limit in SQL, and a total without joins.

Source: buildbot/data/resultspec.py, whose meaning of filters and order this keeps.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from typing import TypeVar

from buildbot.data.base import ListResult
from buildbot.db.model import Model

from litebot.store.sql import Row
from litebot.store.sql import Sql

T = TypeVar("T")

COMPARISONS = {"eq": "=", "ne": "<>", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}

# Conditions of the few rows that have an index of their own.  SQLite, which does not know that they
# are few, is kept from others by a + before what else is asked.
UNFINISHED = ("complete_at IS NULL", "r.complete <> 1")

# Conditions that a row meets always or never.
NEVER_CHANGE = ("builderid = ?", "r.builderid = ?")


@dataclass(frozen=True)
class List:
    """What the data API lists of a table.

    `select` is a query without conditions whose rows `model_of` takes, and `count` the table that
    it selects from; what it joins must not add rows.  `fields` maps the data API's names to
    columns, which are qualified where they are not the table's, and `key` is the one that numbers
    the rows.
    """

    select: str
    count: str
    model_of: Callable[[Row], Any]
    fields: dict[str, str]
    key: str

    def can_select(self, spec: Any) -> bool:
        """Whether all that a ResultSpec asks for can be said in SQL."""
        names = [f.field for f in spec.filters] + [name.lstrip("-") for name in spec.order or ()]
        return all(name in self.fields for name in names)

    def page(
        self, sql: Sql, spec: Any, where: Sequence[str] = (), parameters: Sequence[Any] = ()
    ) -> Any:
        """The models that a ResultSpec asks for; where it asks for a part, with the total.

        `where` are further conditions.  The ResultSpec stays as it is, as what is interrupted is
        done again: see nothing_left.
        """
        conditions, values = self._conditions(spec, where, parameters)
        models = self._models(sql, spec, conditions, values)
        if not (spec.offset or spec.limit):
            return models
        total = self._total(sql, conditions, values)
        return ListResult(models, offset=spec.offset, total=total, limit=spec.limit)

    def models(self, sql: Sql, spec: Any) -> list[Any]:
        """As page, without a total."""
        return self._models(sql, spec, *self._conditions(spec))

    def _conditions(
        self, spec: Any, where: Sequence[str] = (), parameters: Sequence[Any] = ()
    ) -> tuple[list[str], list[Any]]:
        """Those of a ResultSpec, and their parameters, after others."""
        conditions, values = list(where), list(parameters)
        is_unfinished = any(condition in UNFINISHED for condition in where)
        for f in spec.filters:
            are_numbers = all(isinstance(value, int) for value in f.values)
            column = ("+" if is_unfinished and are_numbers else "") + self.fields[f.field]
            condition, operands = _condition(column, f.op, list(f.values))
            conditions.append(condition)
            values += operands
        return conditions, values

    def _models(self, sql: Sql, spec: Any, conditions: list[str], values: list[Any]) -> list[Any]:
        rows = sql.rows(f"{self.select}{_where(conditions)}{self._tail(spec, sql)}", *values)
        return [self.model_of(row) for row in rows]

    def _total(self, sql: Sql, conditions: list[str], values: list[Any]) -> int:
        """How many rows meet these conditions."""
        if all(condition in NEVER_CHANGE for condition in conditions):
            return sql.count(self.count, " AND ".join(conditions) or "TRUE", *values)
        joins = any(condition.lstrip("+").startswith("c.") for condition in conditions)
        source = self.select.partition(" FROM ")[2] if joins else self.count
        [[total]] = sql.rows(f"SELECT count(*) FROM {source}{_where(conditions)}", *values)
        return int(total)

    def _tail(self, spec: Any, sql: Sql) -> str:
        """ORDER BY, LIMIT and OFFSET."""
        order = [self._by(name) for name in spec.order or ()]
        if not sql.keeps_order:
            order.append(self.key)
        tail = f" ORDER BY {', '.join(order)}" if order else ""
        if spec.limit is not None:
            tail += f" LIMIT {int(spec.limit)}"
        elif spec.offset is not None:
            tail += f" LIMIT {2**62}"  # SQLite has no offset without a limit
        return f"{tail} OFFSET {int(spec.offset)}" if spec.offset is not None else tail

    def _by(self, name: str) -> str:
        """What to order by; as in Python, where NULL is less than all else."""
        column = self.fields[name.lstrip("-")]
        own = Model.metadata.tables[self.count.split()[0]].c
        foreign, _, plain = column.rpartition(".")
        is_last = " NULLS LAST" if name.startswith("-") else " NULLS FIRST"
        may_be_null = foreign == "c" or own[plain].nullable
        return f"{column}{' DESC' if name.startswith('-') else ''}{is_last if may_be_null else ''}"


def nothing_left(models: T, spec: Any) -> T:
    """The models of a page: all that a ResultSpec asks for has been done to them."""
    spec.filters, spec.order, spec.offset, spec.limit = [], None, None, None
    return models


def _where(conditions: Sequence[str]) -> str:
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""


def _condition(column: str, op: str, values: list[Any]) -> tuple[str, list[Any]]:
    """The SQL of a filter, and its parameters."""
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
