"""The data API with litebot's resource types, and with its paths compiled once."""

from __future__ import annotations

from typing import Any
from typing import ClassVar

from buildbot.data import connector
from buildbot.data.exceptions import InvalidQueryParameter
from buildbot.data.resultspec import Filter
from buildbot.data.resultspec import ResultSpec
from buildbot.util import bytes2unicode
from buildbot.util import pathmatch

from litebot.store.sql import LARGEST
from litebot.store.sql import SMALLEST

# The modules of Buildbot that are replaced by litebot's of the same names.
REPLACED = (
    *("builders", "builds", "buildrequests", "buildsets", "changes", "forceschedulers", "logs"),
    *("masters", "projects", "properties", "steps", "workers"),
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

    Database work that executes it may be run again; each run begins with what was asked for.
    """

    _asked: dict[str, Any] | None = None

    def thd_execute(self, conn: Any, q: Any, dictFromRow: Any) -> Any:
        """Do as Buildbot does, which leaves in this object what apply() has to do to the rows."""
        if self._asked is None:
            names = ("filters", "order", "limit", "offset")
            self._asked = {name: getattr(self, name) for name in names}
        for name, value in self._asked.items():
            setattr(self, name, value)
        return super().thd_execute(conn, q, dictFromRow)

    def apply(self, data: Any) -> Any:
        """Do as Buildbot does.  Raises InvalidQueryParameter if values can't be compared."""
        try:
            return super().apply(data)
        except TypeError as error:
            raise InvalidQueryParameter(
                f"can't filter or order by these values: {error}"
            ) from error


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
