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

# Fewer builds at a time: others are to have their share.
SHARING = """
TOLD = {told!r}
c["workers"] = [worker.LocalWorker("local", max_builds=4)]
"""


class Site:
    """Masters that share a database; `told` is the file of their reporters.

    They reach it by url(name), which is that of the server's socket unless it is given.
    """

    def __init__(
        self,
        postgres: Postgres,
        folder: Path,
        watch: Callable[[Master], Master],
        config: str,
        url: Callable[[str], str] | None = None,
    ) -> None:
        self.told = folder / "told"
        self.told.touch()
        self._postgres = postgres
        self._database = postgres.new_database()
        self._folder = folder
        self._watch = watch
        self._password = ""
        self._config = CONFIG + SHARING.format(told=str(self.told)) + textwrap.dedent(config)
        self.url = (url or postgres.url)(self._database)

    def master(self, name: str, more: str = "") -> Master:
        """A master that is not started yet; the first one makes the tables, others join."""
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
        """Masters with these names, the first of which is "one"; each runs."""
        masters = [self.master(name) for name in names]
        for master in masters:
            master.start()
        return masters

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What the tables answer."""
        return self._postgres.rows(self._database, query)

    def masterid(self, master: Master) -> int:
        """Its id in the table masters."""
        rows = self.rows(f"SELECT id FROM masters WHERE name LIKE '%:{master.basedir}'")
        return int(rows[0][0])

    def await_rows(self, query: str, what: str, timeout_s: float = 60.0) -> list[tuple[Any, ...]]:
        """Wait until this query finds something."""
        return wait_for(lambda: self.rows(query), what, timeout_s)

    def await_none(self, query: str, what: str, timeout_s: float = 60.0) -> None:
        """Wait until this query finds nothing."""
        wait_for(lambda: not self.rows(query), what, timeout_s)

    def await_quiet(self, timeout_s: float = 60.0) -> None:
        """Wait until all is built, and told."""
        self.await_none("SELECT 1 FROM buildsets WHERE complete = 0", "the buildsets", timeout_s)
        self.await_none("SELECT 1 FROM litebot_outbox", "all to be told", timeout_s)

    def lines_told(self) -> list[str]:
        """What the reporters have told, in order."""
        return sorted(self.told.read_text(encoding="utf-8").splitlines())


def errors(master: Master) -> list[str]:
    """The tracebacks in its log, each in one string."""
    return re.findall(r"Traceback \(most recent call last\):(?:\n\t.*)+", master.log)
