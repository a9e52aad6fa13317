"""Several masters on one Postgres database, with one configuration."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.commands import wait_for
from support.configured import CONFIG
from support.master import Master
from support.postgres import Postgres

# Each master runs fewer builds at a time, so that all of them get some.
SHARING = """
REPORTED = {reported!r}
c["workers"] = [worker.LocalWorker("local", max_builds=4)]
"""

# How soon after it has connected a master judges others.  In earnest that is later, so that all are
# back after a restart of the server; use it only where there is none.
GRACE_S = 1.0
JUDGES_SOON = f"""
from litebot.master.cluster import session
session.grace_s = lambda _server: {GRACE_S}
"""


class Site:
    """Masters that share a database; `reported` is the file to which their reporters write.

    `url` returns the URL for the name of the database; by default it is one of the server's socket.
    """

    def __init__(
        self,
        postgres: Postgres,
        folder: Path,
        watch: Callable[[Master], Master],
        config: str,
        url: Callable[[str], str] | None = None,
    ) -> None:
        self.reported = folder / "reported"
        self.reported.touch()
        self._postgres = postgres
        self._database = postgres.new_database()
        self._folder = folder
        self._watch = watch
        self._password = ""
        self._config = (
            CONFIG + SHARING.format(reported=str(self.reported)) + textwrap.dedent(config)
        )
        self.url = (url or postgres.url)(self._database)

    def master(self, name: str, more: str = "") -> Master:
        """Create a master, not started yet; "one" must be the first, and others are like it."""
        master = self._watch(Master(self._folder / name, self._password))
        first = self._folder / "one"
        if master.basedir == first:
            master.create("--database", self.url)
            self._password = master.password
            (first / "master.cfg").write_text(self._config, encoding="utf-8")
        else:
            master.create("--like", str(first))
        master.configure(more)
        return master

    def started(self, *names: str) -> list[Master]:
        """Create and start masters with these names, the first of which is "one"."""
        masters = [self.master(name) for name in names]
        for master in masters:
            master.start()
        return masters

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        return self._postgres.rows(self._database, query)

    def masterid(self, master: Master) -> int:
        """Return a master's id in the table masters."""
        rows = self.rows(f"SELECT id FROM masters WHERE name LIKE '%:{master.basedir}'")
        return int(rows[0][0])

    def await_rows(self, query: str, what: str, timeout_s: float = 60.0) -> list[tuple[Any, ...]]:
        """Wait until a query finds rows, and return them."""
        return wait_for(lambda: self.rows(query), what, timeout_s)

    def await_none(self, query: str, what: str, timeout_s: float = 60.0) -> None:
        """Wait until a query finds no rows."""
        wait_for(lambda: not self.rows(query), what, timeout_s)

    def await_quiet(self, timeout_s: float = 60.0) -> None:
        """Wait until all buildsets are complete and all reports are sent."""
        self.await_none("SELECT 1 FROM buildsets WHERE complete = 0", "the buildsets", timeout_s)
        self.await_none("SELECT 1 FROM litebot_outbox", "all to be sent", timeout_s)

    def lines_reported(self) -> list[str]:
        """Return the lines that the reporters have written, sorted."""
        return sorted(self.reported.read_text(encoding="utf-8").splitlines())


def errors(master: Master) -> list[str]:
    """Return the tracebacks in a master's log, each as one string."""
    return re.findall(r"Traceback \(most recent call last\):(?:\n\t.*)+", master.log)
