"""Masters that reach their Postgres by a real PgBouncer."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from bench.postgres import SYSTEM_USER
from bench.postgres import USER
from litebot.errors import StoreError
from litebot.master.cluster.session import Session
from litebot.master.db.postgres.server import Server
from support.commands import litebot
from support.commands import require
from support.commands import succeeded
from support.commands import wait_for
from support.listener import Heard
from support.master import SUCCESS
from support.master import Master
from support.ports import free_ports
from support.postgres import Postgres
from support.several import Site
from support.stand_in import Asked
from support.stand_in import Reactor

# The keep-alives are those that docs/guide/several-masters.md asks for.
SETTINGS = """
[databases]
* = host={postgres.folder} port={postgres.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users
logfile = {folder}/log
pool_mode = {mode}
tcp_keepidle = 2
tcp_keepintvl = 1
tcp_keepcnt = 3
"""

# Whether the server's process that answers is the one that holds the session's lock.
HAS_LOCK = """
SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())
"""


class Pooler:
    """PgBouncer before a server, in one of its modes."""

    def __init__(self, postgres: Postgres, folder: Path, mode: str) -> None:
        self._user = SYSTEM_USER if os.geteuid() == 0 else None  # it refuses root
        (self.port,) = free_ports(1)
        self._settings = folder / "pgbouncer.ini"
        self._settings.write_text(
            SETTINGS.format(postgres=postgres, port=self.port, folder=folder, mode=mode)
        )
        (folder / "users").write_text(f'"{USER}" ""\n')
        if self._user is not None:
            shutil.chown(folder, self._user)

    def url(self, name: str) -> str:
        """A database behind it, as litebot.toml names it."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{name}"

    def start(self) -> None:
        """Take connections."""
        self._process = subprocess.Popen(
            ["pgbouncer", "--quiet", str(self._settings)], user=self._user, cwd="/"
        )
        wait_for(self._answers, "PgBouncer to listen")

    def kill(self) -> None:
        """End it, and with it all connections."""
        self._process.kill()
        self._process.wait()

    def connect(self, name: str) -> psycopg.Connection[tuple[object, ...]]:
        """A connection of somebody else, in a transaction."""
        return psycopg.connect(self.url(name))

    def _answers(self) -> bool:
        try:
            self.connect("pgbouncer").close()
        except psycopg.OperationalError as error:
            return "refused" not in str(error)
        return True


@pytest.fixture
def pooler(postgres: Postgres) -> Iterator[Callable[[str], Pooler]]:
    """Call it with a mode."""
    require(shutil.which("pgbouncer"), "no PgBouncer is installed (apt install pgbouncer)")
    made: list[Pooler] = []
    with tempfile.TemporaryDirectory(prefix="pgbouncer-") as folder:

        def make(mode: str) -> Pooler:
            made.append(Pooler(postgres, Path(folder), mode))
            made[-1].start()
            return made[-1]

        try:
            yield make
        finally:
            for each in made:
                each.kill()


def test_it_may_keep_connections_for_sessions(
    postgres: Postgres,
    pooler: Callable[[str], Pooler],
    watch: Callable[[Master], Master],
    tmp_path: Path,
) -> None:
    between, go = pooler("session"), tmp_path / "go"
    config = f'builder("slow", shell("until [ -e {go} ]; do sleep 0.05; done"))'
    here = Site(postgres, tmp_path, watch, config, between.url)
    one, two = here.started("one", "two")
    succeeded(one.force("slow", "--no-wait"))
    here.await_rows("SELECT 1 FROM steps WHERE name = 'shell'", "the step to begin")
    between.kill()
    wait_for(lambda: "away " in one.run("status").stdout, "it to be missed")
    between.start()
    go.touch()
    here.await_quiet()
    assert here.rows("SELECT results FROM builds") == [(SUCCESS,)]
    os.kill(two.pids[-1], signal.SIGKILL)
    wait_for(lambda: "its work is taken over" in one.log, "the dead one to be found", 30)


def test_it_is_refused_where_it_gives_them_away(
    postgres: Postgres, pooler: Callable[[str], Pooler], tmp_path: Path
) -> None:
    url = pooler("transaction").url(postgres.new_database())
    succeeded(litebot("create-master", "--database", url, tmp_path / "ci"))
    done = litebot("start", tmp_path / "ci")
    assert done.returncode == 1
    assert f"a pooler at {url} gives connections away between two transactions" in done.stderr
    assert "pool_mode = session" in done.stderr


def test_a_session_ends_when_it_is_given_away(
    postgres: Postgres, pooler: Callable[[str], Pooler]
) -> None:
    name = postgres.database_with_tables()
    between = pooler("transaction")
    reactor = Reactor()
    heard = Heard()
    server = Server(between.url(name), Path("/nowhere"))
    session = Session(server, reactor, 1, "host:/1", lambda *_: [], heard)
    started = Asked(session.start())
    reactor.run_now(lambda: started.called)
    assert started.error is None
    with ExitStack() as others:

        def taken() -> bool:
            # one that asks while the session has a statement gets another process
            other = others.enter_context(between.connect(name))
            return other.execute(HAS_LOCK).fetchone() == (True,)

        wait_for(taken, "another one to get the session's process")

        def turn() -> list[StoreError]:
            reactor.turn()
            return heard.failures

        wait_for(turn, "it to be noticed")
    assert "gives connections away" in heard.failures[0].what
    stopped = Asked(session.stop())
    reactor.run_now(lambda: stopped.called)
