"""The data API with litebot's resource types, and with its paths compiled once."""

from __future__ import annotations

from array import array
from typing import Any
from typing import ClassVar

import sqlalchemy as sa
from buildbot.data import connector
from buildbot.data.exceptions import InvalidQueryParameter
from buildbot.data.resultspec import Filter
from buildbot.data.resultspec import ResultSpec
from buildbot.util import bytes2unicode
from buildbot.util import pathmatch

from litebot.master.db.components.lists import IDS_PER_QUERY
from litebot.master.db.pieces import Pieces
from litebot.store.sql import LARGEST
from litebot.store.sql import SMALLEST

# The modules of Buildbot that are replaced by litebot's of the same names.
REPLACED = (
    *("builders", "builds", "buildrequests", "buildsets", "changes", "forceschedulers"),
    *("logchunks", "logs", "masters", "projects", "properties", "sourcestamps", "steps", "workers"),
)
MODULES = {f"buildbot.data.{name}": f"litebot.master.data.{name}" for name in REPLACED}


class Matcher(pathmatch.Matcher):
    """Buildbot's, but compiles its patterns once.

    Buildbot's never records that it has compiled them, and does so again at each lookup.
    """

    def _compile(self) -> None:
        super()._compile()
        self._dirty = False


class Query(ResultSpec):
    """A ResultSpec that can be executed again and that reports values which can't be compared.

    Database work that executes it may be run again; each run begins with what was asked for.  If
    `pieces` is set, it reads one piece of a long list.
    """

    pieces: Pieces | None = None
    _asked: dict[str, Any] | None = None

    def thd_execute(self, conn: Any, q: Any, dictFromRow: Any) -> Any:
        """Do as Buildbot does, which leaves in this object what apply() has to do to the rows."""
        if self._asked is None:
            names = ("filters", "order", "limit", "offset")
            self._asked = {name: getattr(self, name) for name in names}
        for name, value in self._asked.items():
            setattr(self, name, value)
        if self.pieces is None or (key := _key_of(q)) is None:
            return super().thd_execute(conn, q, dictFromRow)
        query, _count = self.applyToSQLQuery(q)
        return _execute_piece(conn, query, key, dictFromRow, self.pieces)

    def again(self, pieces: Pieces) -> Query:
        """Return a Query for the same, which is not executed yet, with these `pieces`."""
        lists = (self.filters, self.fields, self.properties, self.order)
        query = Query(*(each and list(each) for each in lists), self.limit, self.offset)
        query.pieces = pieces
        return query

    def apply(self, data: Any) -> Any:
        """Do as Buildbot does.  Raises InvalidQueryParameter if values can't be compared."""
        try:
            return super().apply(data)
        except TypeError as error:
            raise InvalidQueryParameter(
                f"can't filter or order by these values: {error}"
            ) from error


def _key_of(query: Any) -> Any:
    """Return the selected column that numbers the rows of a query, or None if there is none."""
    (source, *others) = query.get_final_froms()
    while isinstance(source, sa.sql.Join):
        source = source.left
    keys = list(source.primary_key) if isinstance(source, sa.Table) else []
    is_numbered = not others and len(keys) == 1 and isinstance(keys[0].type, sa.Integer)
    is_selected = is_numbered and any(column is keys[0] for column in query.selected_columns)
    return keys[0] if is_selected else None


def _execute_piece(conn: Any, query: Any, key: Any, model_of: Any, pieces: Pieces) -> list[Any]:
    """Return the models of one read in pieces."""
    if pieces.part is None:
        ids = query.order_by(key).with_only_columns(key, maintain_column_froms=True)
        pieces.ids = array("q", conn.execute(ids).scalars())
    by_id = {}
    part = list(pieces.next_part())
    for start in range(0, len(part), IDS_PER_QUERY):
        some = key.in_(part[start : start + IDS_PER_QUERY])
        if query.whereclause is not None:
            # CASE keeps the database from finding the rows by an index of what is compared.
            some = sa.and_(some, sa.case((query.whereclause, 1), else_=0) == 1)
        rows = sa.select(*query.selected_columns).select_from(*query.get_final_froms()).where(some)
        for row in conn.execute(rows):
            by_id[row._mapping[key]] = model_of(row)
    return pieces.in_order(by_id)


class Data(connector.DataConnector):
    """`master.data` of a litebot master."""

    submodules: ClassVar[list[str]] = [
        MODULES.get(module, module) for module in connector.DataConnector.submodules
    ]

    def __init__(self) -> None:
        super().__init__()
        self.matcher: Any = Matcher()

    def get(
        self,
        path: Any,
        filters: Any = None,
        fields: Any = None,
        order: Any = None,
        limit: int | None = None,
        offset: int | None = None,
    ) -> Any:
        """Do as Buildbot does, with a Query."""
        query = Query(filters, fields, None, order, limit, offset)
        return self.get_with_resultspec(path, query)

    def resultspec_from_jsonapi(self, req_args: Any, entityType: Any, is_collection: bool) -> Query:
        """Do as Buildbot does.  Raises InvalidQueryParameter for all that is not a valid query."""
        for arg, values in req_args.items():
            name, *values = (_text(each) for each in (arg, *values))
            if name in {"field", "order"} and not all(value.lstrip("-") for value in values):
                raise InvalidQueryParameter(f"{name!r} is empty")
            if "__" in name and name not in entityType.fieldNames:
                _check_operator(name, entityType, one=len(values) == 1)
        spec = super().resultspec_from_jsonapi(req_args, entityType, is_collection)
        for name in ("limit", "offset"):
            value = getattr(spec, name)
            if value is not None and not 0 <= value <= LARGEST:
                raise InvalidQueryParameter(f"invalid {name}: {value}")
        for each in spec.filters:
            for value in each.values:
                if isinstance(value, int) and not SMALLEST <= value <= LARGEST:
                    raise InvalidQueryParameter(f"too large a number for {each.field}: {value}")
        return Query(
            spec.filters, spec.fields, spec.properties, spec.order, spec.limit, spec.offset
        )


def _text(value: bytes | str) -> str:
    try:
        text: str = bytes2unicode(value)
    except UnicodeDecodeError as error:
        raise InvalidQueryParameter(f"{value!r} is not UTF-8") from error
    if "\0" in text:
        raise InvalidQueryParameter(f"{text!r} has a NUL character")
    return text


def _check_operator(name: str, entityType: Any, *, one: bool) -> None:
    field, _, operator = name.rpartition("__")
    operators = Filter.singular_operators if one else Filter.plural_operators
    if field not in entityType.fieldNames:
        raise InvalidQueryParameter(f"no such field {field!r}")
    if operator not in operators:
        raise InvalidQueryParameter(f"no such operator {operator!r} in {name!r}")
