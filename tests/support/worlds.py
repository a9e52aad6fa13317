"""Masters without a network: only their database, caches, message queue and data API.

There are two kinds, litebot's and one with Buildbot's own components.  Both use the same kind of
file and the same kind of clock, so that a test can do the same to both and compare.  This is a
plugin of pytest, for its fixtures.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import AbstractContextManager
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest
from buildbot import master as buildbot_master
from buildbot.config.master import MasterConfig
from buildbot.db import connector
from twisted.internet import defer
from twisted.python import log

from litebot.errors import StoreFailed
from litebot.master.database import Database
from litebot.master.database import Owner
from litebot.master.db import schema
from litebot.master.db.sqlite.state_file import create_file
from litebot.master.service import BuildMaster
from litebot.store.connection import connect
from litebot.store.dialect import engine_on
from support.stand_in import Asked
from support.stand_in import Log
from support.stand_in import Reactor


class Commits:
    """Counts the commits of a connection from now on."""

    def __init__(self, handle: apsw.Connection) -> None:
        self.count = 0
        handle.set_commit_hook(self._note)

    def _note(self) -> bool:
        self.count += 1
        return False


BUILDERS = ("fast", "slow", "docs")

Event = tuple[tuple[str, ...], Any]


class BuildbotsDatabase(Database):
    """litebot's state file, with Buildbot's own database components."""

    def set_master(self, master: Any) -> Any:
        return connector.DBConnector.set_master(self, master)


class BuildbotsMaster(buildbot_master.BuildMaster):
    """Buildbot's master, with its database in litebot's state file."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, BuildbotsDatabase(self.basedir) if name == "db" else value)


def make_state_file(path: Path) -> None:
    """Make a state file with all tables, the BUILDERS, a worker and two masters."""
    create_file(path)
    handle = connect(path)
    engine = engine_on(handle)
    with engine.connect() as conn:
        schema.make_buildbots(conn)
        schema.upgrade(conn)
        conn.commit()
    engine.dispose()
    for number, name in enumerate(BUILDERS, start=1):
        handle.execute(
            "INSERT INTO builders (id, name, name_hash) VALUES (?, ?, ?)", (number, name, name)
        )
    handle.execute(
        "INSERT INTO workers (id, name, info, paused, graceful) VALUES (1, 'w', '{}', 0, 0)"
    )
    handle.execute(
        "INSERT INTO masters (id, name, name_hash, active, last_active)"
        " VALUES (1, 'here', 'here', 1, 0), (2, 'there', 'there', 1, 0)"
    )
    handle.close()


class Failing(Owner):
    """The owner of a database, which calls `then` when the disk fails."""

    def __init__(self, then: Callable[[StoreFailed], None]) -> None:
        self._then = then

    def failed(self, error: StoreFailed) -> None:
        self._then(error)


class World:
    """A master with an open database, whose events are recorded; a test drives its reactor.

    Uses the state file in the basedir, or a copy of `template` if there is none.  `options` are
    `durability`, `on_failure`, which is called with a StoreFailed, and attributes of the database.
    """

    def __init__(self, kind: type[Any], basedir: Path, template: Path, **options: Any) -> None:
        basedir.mkdir(parents=True, exist_ok=True)
        state_file = basedir / "state.sqlite"
        if not state_file.exists():
            shutil.copy(template, state_file)
        self.reactor = Reactor()
        self.events: list[Event] = []
        self.master: Any = kind(str(basedir), reactor=self.reactor)
        self.master.config = MasterConfig()
        self.master.config.db.db_url = "sqlite:///state.sqlite"
        self.master.masterid = 1
        self.master.botmaster._builders_byid = {}  # no builder is configured
        self.db: Any = self.master.db
        self.db.durability = options.pop("durability", "commit")
        if "on_failure" in options:
            self.db._owner = Failing(options.pop("on_failure"))
        for name, value in options.items():
            setattr(self.db, name, value)
        self.call(self.db.setup, check_version=False)
        if isinstance(self.master, BuildMaster):
            self.db.logs._compression_pool = self.reactor  # so a test decides when its work runs
        else:
            self.db.logs._compression_pool.start()
        self.master.mq.produce = lambda key, message: self.events.append((key, message))

    @property
    def updates(self) -> Any:
        return self.master.data.updates

    def ask(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Asked:
        """Begin a call of a function that may return a Deferred."""
        return Asked(defer.maybeDeferred(function, *args, **kwargs))

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function that may return a Deferred; return or raise what comes of it."""
        asked = self.ask(function, *args, **kwargs)
        self.reactor.run_now(lambda: asked.called)
        if asked.error is not None:
            raise asked.error
        return asked.result

    def read_all(self, lines: Any) -> list[Any]:
        """Return all that an asynchronous generator yields."""

        async def read() -> list[Any]:
            return [line async for line in lines]

        return self.call(lambda: defer.Deferred.fromCoroutine(read()))

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        """Return the rows of a table that are committed to the file."""
        handle = connect(Path(self.master.basedir) / "state.sqlite")
        try:
            return [tuple(row) for row in handle.execute(f"SELECT * FROM {table} ORDER BY 1, 2")]
        finally:
            handle.close()

    def close(self) -> None:
        self.call(self.db.logs.stopService)
        self.call(self.db.pool.stop)


def litebots(basedir: Path, template: Path, **options: Any) -> World:
    """Return a master of litebot's.  See World."""
    return World(BuildMaster, basedir, template, **options)


def buildbots(basedir: Path, template: Path) -> World:
    """Return a master of Buildbot's.  See World."""
    return World(BuildbotsMaster, basedir, template)


class Pair:
    """litebot's master and Buildbot's, for a test that does the same to both."""

    def __init__(self, folder: Path, template: Path) -> None:
        self.litebots = litebots(folder / "litebots", template)
        self.buildbots = buildbots(folder / "buildbots", template)

    @property
    def worlds(self) -> tuple[World, World]:
        return self.litebots, self.buildbots

    def same(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call a method such as "steps.getStep" on both databases; return what both return.

        If both raise an error of the same class, returns its name, as Raised.  If Buildbot's
        returns None, litebot's may return any value, and that is returned.
        """
        component, method = name.split(".")
        return self._same(
            lambda world: getattr(getattr(world.db, component), method), *args, **kwargs
        )

    def update(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """Do as `same` for an update method of the data API, then wait until both are idle."""
        result = self._same(lambda world: getattr(world.updates, name), *args, **kwargs)
        for world in self.worlds:
            world.reactor.settle()
        return result

    def _same(self, find: Callable[[World], Any], /, *args: Any, **kwargs: Any) -> Any:
        ours, theirs = (outcome(world, find(world), *args, **kwargs) for world in self.worlds)
        if theirs is not None:
            assert ours == theirs
        assert not (isinstance(ours, Raised) and theirs is None), ours
        return ours

    def same_rows(self, *tables: str) -> None:
        for table in tables:
            ours, theirs = (world.rows(table) for world in self.worlds)
            assert ours == theirs, table

    def advance(self, seconds: float) -> None:
        for world in self.worlds:
            world.reactor.advance(seconds)

    def close(self) -> None:
        for world in self.worlds:
            world.close()


class Raised(str):
    """The name of the class of an error."""


def outcome(world: World, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return world.call(function, *args, **kwargs)
    except Exception as error:
        return Raised(type(error).__name__)


# fixtures


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state file with builders and a worker, to be copied."""
    path = tmp_path_factory.mktemp("template") / "state.sqlite"
    make_state_file(path)
    return path


@pytest.fixture
def logged() -> Iterator[Log]:
    """The logged errors.  A test takes those that it expects, and none may be left."""
    logged = Log()
    log.addObserver(logged.emit)
    yield logged
    log.removeObserver(logged.emit)
    assert list(logged) == []


@pytest.fixture
def world(template: Path, tmp_path: Path, logged: Log) -> Iterator[World]:
    """A master of litebot's.  See World."""
    world = litebots(tmp_path / "ci", template)
    yield world
    world.close()


@pytest.fixture(scope="session")
def pairs(template: Path) -> Callable[[], AbstractContextManager[Pair]]:
    """A function that makes a Pair, for each example of a property test."""

    @contextmanager
    def make() -> Iterator[Pair]:
        with tempfile.TemporaryDirectory() as folder:
            pair = Pair(Path(folder), template)
            try:
                yield pair
            finally:
                pair.close()

    return make
