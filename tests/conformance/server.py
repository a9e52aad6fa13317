"""Databases of a Postgres server for Buildbot's tests: a new one wherever a test asks for one."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from typing import Any

import psycopg
import sqlalchemy as sa
from buildbot.config.master import DBConfig
from sqlalchemy.engine import URL
from sqlalchemy.engine import make_url
from twisted.internet import defer

from litebot.master.db import schema

# What a test asks for that wants a database and does not care which.
IN_MEMORY = "sqlite://"
# A test has a few of its own at most; what earlier ones left open is closed with their databases.
KEPT = 4


class Databases:
    """Makes them beside the one at `url`, each from one that has the tables already.

    With `litebots` litebot's tables, too.
    """

    def __init__(self, url: str, *, litebots: bool) -> None:
        self.made = 0
        self._url = make_url(url)
        self._kept: deque[str] = deque()
        self._numbers = itertools.count()
        self._template = self._create("template0")
        engine = sa.create_engine(self._named(self._template))
        with engine.begin() as conn:
            (schema.make if litebots else schema.make_buildbots)(conn)
        engine.dispose()

    def new(self) -> str:
        """The url of a new one, with Buildbot's tables."""
        while len(self._kept) >= KEPT:
            self._execute(f"DROP DATABASE {self._kept.popleft()} WITH (FORCE)")
        self.made += 1
        self._kept.append(self._create(self._template))
        return self._named(self._kept[-1]).render_as_string(hide_password=False)

    def _create(self, template: str) -> str:
        name = f"{self._url.database}_{next(self._numbers)}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return name

    def _named(self, name: str) -> URL:
        return self._url.set(drivername="postgresql+psycopg", database=name)

    def _execute(self, statement: str) -> None:
        url = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute(statement.encode())


def on_server(kind: type[Any], databases: Databases) -> type[Any]:
    """A kind of DBConnector for which a database in memory is one on the server."""

    class OnServer(kind):
        @defer.inlineCallbacks
        def setup(self, check_version: bool = True, verbose: bool = True) -> Any:
            if self.configured_db_config is None:  # type: ignore[has-type]
                self.configured_db_config = yield self.master.get_db_config(self.master.config)
            asked = self.configured_db_config
            if asked.db_url == IN_MEMORY:
                self.configured_db_config = DBConfig(databases.new(), asked.engine_kwargs)
            try:
                yield super().setup(check_version=check_version, verbose=verbose)
            finally:
                self.configured_db_config = asked  # which a reconfig compares with its own

    return OnServer


def keep_tables(connector: type[Any]) -> None:
    """Have Buildbot's stand-in for a connector not make anew the tables of a new database."""
    as_it_was: Callable[[Any], Any] = connector.setup

    @defer.inlineCallbacks
    def setup(self: Any) -> Any:
        asked = self.configured_db_config or (yield self.master.get_db_config(self.master.config))
        if self.auto_upgrade and asked.db_url == IN_MEMORY:
            yield super(connector, self).setup(check_version=False)
        else:
            yield as_it_was(self)

    connector.setup = setup
