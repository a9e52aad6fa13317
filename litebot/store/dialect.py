"""SQLAlchemy's SQLite dialect on the apsw driver, for urls of the form sqlite+apsw:///path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import apsw
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite.base import SQLiteDialect
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import ConnectArgsType
from sqlalchemy.engine.interfaces import IsolationLevel
from sqlalchemy.pool import NullPool
from sqlalchemy.pool import Pool
from sqlalchemy.pool import SingletonThreadPool

from litebot.store import dbapi


class ApswDialect(SQLiteDialect):
    """The dialect sqlite+apsw.  Its name stays "sqlite", because Buildbot branches on the name."""

    driver = "apsw"
    default_paramstyle = "qmark"
    supports_statement_cache = True

    @classmethod
    def import_dbapi(cls) -> ModuleType:
        return dbapi

    @classmethod
    def get_pool_class(cls, url: URL) -> type[Pool]:
        return NullPool if url.database else SingletonThreadPool

    def create_connect_args(self, url: URL) -> ConnectArgsType:
        return ([url.database or ":memory:"], {})

    def _get_server_version_info(self, connection: sa.engine.Connection) -> tuple[int, ...]:
        return dbapi.sqlite_version_info  # reflection asks for it

    def get_isolation_level_values(self, dbapi_connection: Any) -> list[IsolationLevel]:
        return ["SERIALIZABLE", "AUTOCOMMIT"]

    def get_isolation_level(self, dbapi_connection: Any) -> IsolationLevel:
        return "AUTOCOMMIT" if dbapi_connection.autocommit else "SERIALIZABLE"

    def set_isolation_level(self, dbapi_connection: Any, level: IsolationLevel) -> None:
        dbapi_connection.autocommit = level == "AUTOCOMMIT"


sa.dialects.registry.register("sqlite.apsw", __name__, ApswDialect.__name__)


def engine_on(
    handle: apsw.Connection,
    *,
    check: Callable[[], None] | None = None,
    on_fatal: Callable[[dbapi.Error], None] | None = None,
) -> sa.Engine:
    """Return an engine whose connections all share one apsw handle.

    What they do inside a transaction of the handle's owner is part of that transaction.  `check` is
    called at each connect and may raise, for instance in a thread that must not use the handle.
    `on_fatal` is called with the errors of full disks, failed I/O and damaged pages.
    """

    def connect() -> dbapi.Connection:
        if check is not None:
            check()
        return dbapi.Connection(handle, owned=False, on_fatal=on_fatal)

    url = URL.create("sqlite+apsw", database=handle.filename or None)
    return sa.create_engine(url, creator=connect, poolclass=NullPool)


def engine_for(path: Path) -> sa.Engine:
    """Return an engine for commands, whose connections each open the file."""
    return sa.create_engine(URL.create("sqlite+apsw", database=str(path)))
