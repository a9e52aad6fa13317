"""Buildbot's DBConnector on litebot's store: the same components, another pool under them."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from buildbot.db import connector
from buildbot.db import exceptions
from buildbot.util import sautils
from buildbot.util import stripUrlPassword
from sqlalchemy.engine import URL
from sqlalchemy.engine import make_url
from twisted.internet import defer
from twisted.python import log

from litebot.errors import StoreError
from litebot.errors import StoreFailed
from litebot.master.db import postgres
from litebot.master.db import schema
from litebot.master.db.components.build_data import BuildDataConnectorComponent
from litebot.master.db.components.buildrequests import BuildRequestsConnectorComponent
from litebot.master.db.components.builds import BuildsConnectorComponent
from litebot.master.db.components.buildsets import BuildsetsConnectorComponent
from litebot.master.db.components.changes import ChangesConnectorComponent
from litebot.master.db.components.logs import LogsConnectorComponent
from litebot.master.db.components.steps import StepsConnectorComponent
from litebot.master.db.pool import Outage
from litebot.master.db.pool import Pool
from litebot.master.db.sqlite import commit_watermark
from litebot.master.db.sqlite.state_file import create_file
from litebot.master.db.sqlite.turn_queue import TurnQueue
from litebot.master.db.urls import sqlite_path
from litebot.store.connection import DURABILITY
from litebot.store.connection import MASTER
from litebot.store.connection import connect

# How long a commit may wait for more work, except with durability "commit".
GROUP_COMMIT_S = 0.015

# Components of litebot's in place of Buildbot's.
HOT = {
    "build_data": BuildDataConnectorComponent,
    "buildrequests": BuildRequestsConnectorComponent,
    "builds": BuildsConnectorComponent,
    "buildsets": BuildsetsConnectorComponent,
    "changes": ChangesConnectorComponent,
    "logs": LogsConnectorComponent,
    "steps": StepsConnectorComponent,
}


class Database(connector.DBConnector):
    """`master.db` of a litebot master.

    A `sqlite:` url is opened by litebot's store, a `postgresql:` one by litebot.master.db.postgres.
    `durability` is a key of store.connection.DURABILITY.  `on_failure` is called once, with a
    StoreFailed, when the disk fails while the master runs; `on_outage` with each outage of a server
    that begins, and with None at its end; `after_setup` once the schema is known
    to be right and before anything uses it, `before_stop` when all that used it has stopped.
    `components` are those in the places of Buildbot's.
    """

    components: Mapping[str, Callable[[Any], Any]] = HOT
    durability = "acknowledged"
    on_failure: Callable[[StoreFailed], None] | None = None
    on_outage: Callable[[Outage | None], None] | None = None
    after_setup: Callable[[], defer.Deferred[None]] | None = None
    before_stop: Callable[[], defer.Deferred[None]] | None = None

    @defer.inlineCallbacks
    def set_master(self, master: Any) -> Any:
        """Make the components: litebot's where there are such."""
        yield super().set_master(master)
        self.model = schema.Model(self)
        for name, component in self.components.items():
            yield getattr(self, name).disownServiceParent()
            setattr(self, name, component(self))
            yield getattr(self, name).setServiceParent(self)

    @property
    def is_sole_writer(self) -> bool:
        """Whether no other master can write to this database: it is a SQLite file."""
        return isinstance(self.pool, TurnQueue)

    @property
    def outage(self) -> Outage | None:
        """Since when the database is away and what is said of it; None where it is not."""
        return self.pool.outage if self.pool is not None else None

    def do_sql(self, callable: Callable[..., Any], *args: Any) -> defer.Deferred[Any]:
        """Run callable(sql, *args) with a store.sql.Sql in a transaction; its result."""
        return self.pool.do_sql(callable, *args)

    def committed(self) -> defer.Deferred[None]:
        """Fires when a kill won't undo what has been done so far.  Fails with StoreFailed."""
        return self.pool.committed()

    def on_disk(self) -> defer.Deferred[None]:
        """Fires when what has been committed so far may be promised to the outside.

        Fails with StoreFailed.
        """
        return self.pool.on_disk()

    @defer.inlineCallbacks
    def count_commits(self) -> Any:
        """Count the commits from now on; what there is goes to disk first.  Raises OSError."""
        if not isinstance(self.pool, TurnQueue) or self.pool.path is None:
            return
        yield self.on_disk()
        content = yield self.pool.do(commit_watermark.content_of)
        self.pool.count_commits(commit_watermark.CommitWatermark(self.pool.path, content))

    @defer.inlineCallbacks
    def setup(self, check_version: bool = True, verbose: bool = True) -> Any:
        """Open the database; make its file where it is missing and `check_version` is false.

        Raises StoreError where the file can't be opened, and DatabaseNotReadyError where its
        schema is not that of this Buildbot (with check_version).
        """
        if self.configured_db_config is None:  # type: ignore[has-type]
            self.configured_db_config = yield self.master.get_db_config(self.master.config)
        url = make_url(self.configured_db_config.db_url)
        if url.get_backend_name() == "sqlite":
            yield self._setup_sqlite(url, check_version)
        else:
            if url.get_backend_name() != "postgresql":
                raise StoreError(f"{url.drivername} is neither SQLite nor Postgres")
            postgres.require_driver(url)
            yield self._setup_postgres(url, check_version)
        if check_version and self.after_setup is not None:
            yield self.after_setup()

    @defer.inlineCallbacks
    def _setup_postgres(self, url: URL, check_version: bool) -> Any:
        from litebot.master.db.postgres.pool import PostgresPool
        from litebot.master.db.postgres.server import Server

        server = Server(url, Path(self.basedir))
        log.msg(f"Connecting to the database {server.shown!r}")
        if self.configured_db_config.engine_kwargs:
            log.msg("engine_kwargs in c['db'] are not used: litebot has its own connections")
        pool = PostgresPool(server, self.master.reactor, self.on_failure, self.on_outage)
        yield pool.open()
        self.use(pool)
        if check_version and not (yield self.model.is_current()):
            raise exceptions.DatabaseNotReadyError()

    def use(self, pool: Pool) -> None:
        """Have the components work with this pool, which is open."""
        self.pool = pool
        self._engine = pool.engine
        # get_upsert_method asks for the version of the standard library's SQLite, which isn't this
        # one, and loads it for that: 0.9 MB.
        self.upsert = (
            sautils._upsert_sqlite
            if self._engine.dialect.name == "sqlite"
            else sautils.get_upsert_method(self._engine)
        )
        self.has_native_upsert = True

    @defer.inlineCallbacks
    def _setup_sqlite(self, url: URL, check_version: bool) -> Any:
        log.msg(f"Opening the database {stripUrlPassword(self.configured_db_config.db_url)!r}")
        if self.configured_db_config.engine_kwargs:
            log.msg("engine_kwargs in c['db'] are not used: litebot has its own SQLite engine")
        path = sqlite_path(url, Path(self.basedir))
        self.use(self._open(path, create=not check_version))
        self.pool.start()
        if check_version:
            if path is None:
                yield self.model.upgrade()
            if not (yield self.model.is_current()):
                raise exceptions.DatabaseNotReadyError()

    @defer.inlineCallbacks
    def _shutdown(self) -> Any:
        yield super()._shutdown()
        if self.before_stop is not None:
            yield self.before_stop()

    def _open(self, path: Path | None, *, create: bool) -> TurnQueue:
        reactor = self.master.reactor
        if path is None:
            return TurnQueue(connect(":memory:"), reactor, on_failure=self.on_failure)
        if create and not path.exists():
            create_file(path)
        # The writer never waits inside SQLite: the turn queue tries again instead.
        handle = connect(path, MASTER + DURABILITY[self.durability], busy_timeout_ms=0)
        return TurnQueue(
            handle,
            reactor,
            path,
            self.on_failure,
            sync_later=self.durability == "acknowledged",
            group_commit_s=0.0 if self.durability == "commit" else GROUP_COMMIT_S,
        )
