"""Buildbot's DBConnector on litebot's store, with another pool and some components replaced."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from buildbot.db import build_data
from buildbot.db import builders
from buildbot.db import buildrequests
from buildbot.db import builds
from buildbot.db import buildsets
from buildbot.db import changes
from buildbot.db import changesources
from buildbot.db import codebase_branches
from buildbot.db import codebase_commits
from buildbot.db import codebases
from buildbot.db import connector
from buildbot.db import exceptions
from buildbot.db import logs
from buildbot.db import masters
from buildbot.db import projects
from buildbot.db import schedulers
from buildbot.db import sourcestamps
from buildbot.db import state
from buildbot.db import steps
from buildbot.db import tags
from buildbot.db import test_result_sets
from buildbot.db import test_results
from buildbot.db import users
from buildbot.db import workers
from buildbot.util import sautils
from buildbot.util import stripUrlPassword
from sqlalchemy.engine import URL
from sqlalchemy.engine import make_url
from twisted.application.internet import TimerService
from twisted.internet import defer
from twisted.python import log

from litebot.errors import StoreError
from litebot.errors import StoreFailed
from litebot.master.db import postgres
from litebot.master.db import schema
from litebot.master.db.cluster import Alone
from litebot.master.db.components.build_data import BuildDataConnectorComponent
from litebot.master.db.components.buildrequests import BuildRequestsConnectorComponent
from litebot.master.db.components.builds import BuildsConnectorComponent
from litebot.master.db.components.buildsets import BuildsetsConnectorComponent
from litebot.master.db.components.changes import ChangesConnectorComponent
from litebot.master.db.components.logs import LogsConnectorComponent
from litebot.master.db.components.sourcestamps import SourceStampsConnectorComponent
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

# How long a group commit may wait for more work; with durability "commit" there is none.
GROUP_COMMIT_S = 0.015

# Buildbot's components in the order in which Buildbot makes them, by their names in the connector.
BUILDBOTS = {
    "changes": changes.ChangesConnectorComponent,
    "changesources": changesources.ChangeSourcesConnectorComponent,
    "schedulers": schedulers.SchedulersConnectorComponent,
    "sourcestamps": sourcestamps.SourceStampsConnectorComponent,
    "buildsets": buildsets.BuildsetsConnectorComponent,
    "buildrequests": buildrequests.BuildRequestsConnectorComponent,
    "state": state.StateConnectorComponent,
    "builds": builds.BuildsConnectorComponent,
    "build_data": build_data.BuildDataConnectorComponent,
    "workers": workers.WorkersConnectorComponent,
    "users": users.UsersConnectorComponent,
    "masters": masters.MastersConnectorComponent,
    "builders": builders.BuildersConnectorComponent,
    "projects": projects.ProjectsConnectorComponent,
    "codebases": codebases.CodebasesConnectorComponent,
    "codebase_commits": codebase_commits.CodebaseCommitsConnectorComponent,
    "codebase_branches": codebase_branches.CodebaseBranchConnectorComponent,
    "steps": steps.StepsConnectorComponent,
    "tags": tags.TagsConnectorComponent,
    "logs": logs.LogsConnectorComponent,
    "test_results": test_results.TestResultsConnectorComponent,
    "test_result_sets": test_result_sets.TestResultSetsConnectorComponent,
}

# The same with the components in plain SQL, which replace Buildbot's.
COMPONENTS: Mapping[str, Callable[[Any], Any]] = {
    **BUILDBOTS,
    "build_data": BuildDataConnectorComponent,
    "buildrequests": BuildRequestsConnectorComponent,
    "builds": BuildsConnectorComponent,
    "buildsets": BuildsetsConnectorComponent,
    "changes": ChangesConnectorComponent,
    "logs": LogsConnectorComponent,
    "sourcestamps": SourceStampsConnectorComponent,
    "steps": StepsConnectorComponent,
}


class Owner:
    """What a Database calls when its state changes."""

    def opened(self) -> Any:
        """Called when the schema has been checked, before anything uses the database.

        The Database waits for the result.
        """

    def stopped(self) -> Any:
        """Called when all that used the database has stopped, before the database is closed.

        The Database waits for the result.
        """

    def failed(self, error: StoreFailed) -> None:
        """Called once, when the disk fails while the master runs or the server is given up."""

    def outage(self, outage: Outage | None) -> None:
        """Called with an outage of the server when it begins, and with None when it ends."""


class Database(connector.DBConnector):
    """`master.db` of a litebot master.

    A `sqlite:` url is opened by litebot's store, a `postgresql:` one by litebot.master.db.postgres.
    `components` are what set_master makes, by name; the components ask `cluster` for what concerns
    other masters; `owner` is called when the state of the database changes.  `durability`, a key of
    store.connection.DURABILITY, is read when the database is opened.
    """

    durability = "acknowledged"

    def __init__(
        self,
        basedir: str,
        components: Mapping[str, Callable[[Any], Any]] = COMPONENTS,
        cluster: Alone | None = None,
        owner: Owner | None = None,
    ) -> None:
        super().__init__(basedir)
        self.cluster = cluster or Alone()
        self._components = components
        self._owner = owner or Owner()

    @defer.inlineCallbacks
    def set_master(self, master: Any) -> Any:
        """Make the components, as Buildbot does.

        Source: buildbot/db/connector.py, set_master; a test compares this method with it.
        """
        self._master = master
        self.model = schema.Model(self)
        for name, component in self._components.items():
            made = component(self)
            setattr(self, name, made)
            yield made.setServiceParent(self)
        self.cleanup_timer = TimerService(self.CLEANUP_PERIOD, self._doCleanup)
        self.cleanup_timer.clock = self.master.reactor
        yield self.cleanup_timer.setServiceParent(self)

    @property
    def is_on_server(self) -> bool:
        """Return whether the database is on a server and not in a file."""
        return not isinstance(self.pool, TurnQueue)

    @property
    def limits_texts(self) -> bool:
        """Return whether a text has to fit its column and may hold no NUL, as on Postgres."""
        return self.is_on_server

    @property
    def outage(self) -> Outage | None:
        """Return the outage of the database, or None if it has none."""
        return self.pool.outage if self.pool is not None else None

    def do_sql(self, callable: Callable[..., Any], *args: Any) -> defer.Deferred[Any]:
        """Run callable(sql, *args) with a store.sql.Sql in a transaction; fires with its result."""
        return self.pool.do_sql(callable, *args)

    def committed(self) -> defer.Deferred[None]:
        """Fires when a kill can't undo what has been done so far.  Fails with StoreFailed."""
        return self.pool.committed()

    def on_disk(self) -> defer.Deferred[None]:
        """Fires when what has been committed so far may be promised to the outside.

        Fails with StoreFailed.
        """
        return self.pool.on_disk()

    @defer.inlineCallbacks
    def count_commits(self) -> Any:
        """Count the commits from now on in the commit watermark, if there is a state file.

        What has been done so far goes to disk first.  Raises OSError.
        """
        if not isinstance(self.pool, TurnQueue) or self.pool.path is None:
            return
        yield self.on_disk()
        content = yield self.pool.do(commit_watermark.content_of)
        self.pool.count_commits(commit_watermark.CommitWatermark(self.pool.path, content))

    @defer.inlineCallbacks
    def setup(self, check_version: bool = True, verbose: bool = True) -> Any:
        """Open the database; with `check_version` false, create the state file if it is missing.

        Raises StoreError if the database can't be opened, and, with `check_version`,
        DatabaseNotReadyError if its schema is not that of this Buildbot.
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
        if check_version:
            yield self._owner.opened()

    @defer.inlineCallbacks
    def _setup_postgres(self, url: URL, check_version: bool) -> Any:
        from litebot.master.db.postgres.pool import PostgresPool
        from litebot.master.db.postgres.server import Server

        server = Server(url, Path(self.basedir))
        log.msg(f"Connecting to the database {server.shown!r}")
        if self.configured_db_config.engine_kwargs:
            log.msg("engine_kwargs in c['db'] are not used: litebot has its own connections")
        owner = self._owner
        pool = PostgresPool(server, self.master.reactor, owner.failed, owner.outage)
        yield pool.open()
        self.use(pool)
        if check_version and not (yield self.model.is_current()):
            raise exceptions.DatabaseNotReadyError()

    def use(self, pool: Pool) -> None:
        """Let the components work with this pool, which is open."""
        self.pool = pool
        self._engine = pool.engine
        # get_upsert_method would load the standard library's SQLite to check its version: that
        # takes 0.9 MB, and it is not the SQLite that is used here.
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
        yield self._owner.stopped()

    def _open(self, path: Path | None, *, create: bool) -> TurnQueue:
        reactor = self.master.reactor
        if path is None:
            return TurnQueue(connect(":memory:"), reactor, on_failure=self._owner.failed)
        if create and not path.exists():
            create_file(path)
        # SQLite must not wait for a lock inside a write; the turn queue tries again instead.
        handle = connect(path, MASTER + DURABILITY[self.durability], busy_timeout_ms=0)
        return TurnQueue(
            handle,
            reactor,
            path,
            self._owner.failed,
            sync_later=self.durability == "acknowledged",
            group_commit_s=0.0 if self.durability == "commit" else GROUP_COMMIT_S,
        )
