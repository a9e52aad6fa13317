"""A master as users run it: driven by commands and over HTTP."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import textwrap
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any
from typing import Self
from urllib.parse import urlencode

import pytest

from litebot.basedir import Basedir
from litebot.process import descendants
from litebot.settings import load
from litebot.settings import set_value
from support.commands import Done
from support.commands import is_running
from support.commands import litebot
from support.commands import run
from support.commands import succeeded
from support.commands import wait_for
from support.ports import free_ports
from support.visitor import Visitor

if TYPE_CHECKING:
    import sqlalchemy as sa

    from support.postgres import Postgres

SUCCESS, FAILURE, EXCEPTION, RETRY, CANCELLED = 0, 2, 4, 5, 6

# Runs a test on each database; for tests of what is stored and recovered.
on_both = pytest.mark.parametrize("database_kind", ["sqlite", "postgres"], indirect=True)


class Master:
    """A basedir and, between start() and stop(), the master that runs in it."""

    def __init__(self, basedir: Path, password: str = "") -> None:
        self.basedir = basedir
        self.password = password
        self.server: Postgres | None = None  # the server of its database, if not SQLite
        self.database = ""  # its name there
        self.pids: list[int] = []

    def copy(self, target: Path) -> Self:
        """Copy the basedir and return its master, with other ports and a database of its own.

        The copy is not started.
        """
        shutil.copytree(self.basedir, target, symlinks=True)
        master = type(self)(target, self.password)
        master.use_free_ports()
        if self.server is not None:
            master.use_database(self.server, f"TEMPLATE {self.database}")
        return master

    # commands

    def run(self, command: str, *arguments: str | Path, **kwargs: Any) -> Done:
        """Run `litebot COMMAND ARGUMENTS BASEDIR`, and accept any exit code."""
        return litebot(command, *arguments, self.basedir, **kwargs)

    def create(self, *options: str) -> Done:
        """Run `litebot create-master`, and set free ports, as other tests may run meanwhile."""
        done = succeeded(self.run("create-master", *options))
        if found := re.search(r"^ +password +(\S+)", done.stdout, re.MULTILINE):
            self.password = found[1]
        self.use_free_ports()
        return done

    def start(self, **kwargs: Any) -> Done:
        done = succeeded(self.run("start", **kwargs))
        found = re.search(r"pid (\d+)", done.stdout)
        assert found, done.stdout
        self.pids.append(int(found[1]))
        return done

    def stop(self) -> Done:
        return succeeded(self.run("stop"))

    def reconfig(self) -> Done:
        return succeeded(self.run("reconfig"))

    def force(self, builder: str, *options: str, **kwargs: Any) -> Done:
        """Run `litebot build`, which forces a build and follows it to its end."""
        return self.run("build", *options, builder, **kwargs)

    def change(self, **fields: str) -> int:
        """Send a change to the change hook `base`; return the HTTP status."""
        form = {"author": "somebody", "comments": "a change", "project": "p", **fields}
        kind = "application/x-www-form-urlencoded"
        reply = self.visitor().request(
            "POST", "/change_hook/base", urlencode(form), Content_Type=kind
        )
        return reply.status

    def kill(self) -> None:
        """Kill the master with SIGKILL, and wait until it is gone."""
        os.kill(self.pid, signal.SIGKILL)
        self.await_end()

    def await_end(self) -> None:
        """Wait until the master that was started last is gone, and its lock is free.

        A process that it was about to start keeps the lock until it executes its program.
        """
        wait_for(lambda: not self.pids or not is_running(self.pid), "the master to be gone")
        wait_for(lambda: Basedir(self.basedir).owner() is None, "its lock to be free")

    # configuration

    def configure(self, text: str) -> None:
        """Append to master.cfg."""
        with open(self.basedir / "master.cfg", "a", encoding="utf-8") as file:
            file.write("\n" + textwrap.dedent(text))

    def define_builder(self, name: str, *commands: str) -> None:
        """Add a builder that can be forced, with a step for each of these shell commands."""
        steps = ", ".join(f"steps.ShellCommand(command={line!r})" for line in commands)
        self.configure(
            f"""
            c["builders"].append(
                util.BuilderConfig(
                    name={name!r}, workernames=["local"], factory=util.BuildFactory([{steps}])
                )
            )
            c["schedulers"].append(
                schedulers.ForceScheduler(name="force-{name}", builderNames=[{name!r}])
            )
            """
        )

    def commit(self, path: str, text: str) -> str:
        """Commit a file to the sample project while the master runs; return the revision."""
        # Commits that exist before the poller's first poll are no changes to it.
        wait_for(lambda: "gitpoller: processing changes" in self.log, "the poller's first look")
        project = self.basedir / "project"
        (project / path).write_text(text, encoding="utf-8")
        succeeded(run("git", "-C", project, "add", "."))
        succeeded(run("git", "-C", project, "commit", "--quiet", "-m", f"Change {path}"))
        return succeeded(run("git", "-C", project, "rev-parse", "HEAD")).stdout.strip()

    def use_free_ports(self) -> None:
        """Set the ports in litebot.toml, for the web page and for workers, to free ones."""
        ports = iter(free_ports(2))
        path = self.basedir / "litebot.toml"
        text = path.read_text(encoding="utf-8")
        pattern = re.compile(r"^port = \d+$", re.MULTILINE)
        text = pattern.sub(lambda _: f"port = {next(ports)}", text, count=2)  # not that of [mail]
        path.write_text(text, encoding="utf-8")

    def use_database(self, server: Postgres, options: str = "") -> None:
        """Set the database in litebot.toml to a new one, which end() drops."""
        self.server, self.database = server, server.new_database(options)
        self.set("database", "url", server.url(self.database))

    def set(self, section: str, key: str, value: str | int) -> None:
        """Set a key in litebot.toml."""
        set_value(self.basedir / "litebot.toml", f"{section}.{key}", value)

    # what can be seen of the master

    @property
    def pid(self) -> int:
        """Return the pid of the master that was started last."""
        return self.pids[-1]

    @property
    def ports(self) -> list[int]:
        """Return the ports in litebot.toml: of the web page, and for workers."""
        text = (self.basedir / "litebot.toml").read_text(encoding="utf-8")
        found = re.findall(r"^port = (\d+)$", text, re.MULTILINE)
        return [int(port) for port in found[:2]]  # not that of [mail]

    @contextmanager
    def connection(self) -> Iterator[sa.engine.Connection]:
        """Connect to the master's database of either kind; commits unless the block raises."""
        from litebot.master.db import postgres
        from litebot.store.dialect import engine_for

        settings = load(self.basedir / "litebot.toml").database
        path = settings.sqlite_path(self.basedir)
        engine = engine_for(path) if path else postgres.engine_for(settings.url, self.basedir)
        try:
            with engine.connect() as conn:
                yield conn
                conn.commit()
        finally:
            engine.dispose()

    def rows(self, query: str, **values: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query; the master may be running or not."""
        import sqlalchemy as sa

        with self.connection() as conn:
            return [tuple(row) for row in conn.execute(sa.text(query), values)]

    def execute(self, statement: str) -> None:
        """Change the tables without the master."""
        with self.connection() as conn:
            conn.exec_driver_sql(statement)

    @property
    def state_file(self) -> Path:
        return self.basedir / "state.sqlite"

    @property
    def log(self) -> str:
        path = self.basedir / "twistd.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def contents(self) -> dict[str, str]:
        """Return a hash of each file of the basedir except those that every start writes to."""
        written = {"twistd.log", "http.log", "master.lock", "reserve"}
        written |= {"state.sqlite-shm", "state.sqlite-wal", "state.sqlite-tally"}
        return {
            str(path.relative_to(self.basedir)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.basedir.rglob("*"))
            if path.is_file() and path.name not in written
        }

    def visitor(self) -> Visitor:
        return Visitor(self.ports[0])

    def login(self, name: str = "admin", password: str | None = None) -> Visitor:
        """Return an HTTP client that has logged in."""
        visitor = self.visitor()
        assert visitor.login(name, self.password if password is None else password) == 302
        return visitor

    def rest(self, path: str, **filters: Any) -> Any:
        """Return what the REST API answers to an anonymous client."""
        return self.visitor().rest(path, **filters)

    def builds(self, builder: str) -> list[dict[str, Any]]:
        """Return all builds of a builder, in order."""
        found: list[dict[str, Any]] = self.rest(f"builders/{builder}/builds", order="number")[
            "builds"
        ]
        return found

    def finished_build(self, builder: str, number: int = 1) -> dict[str, Any]:
        """Wait for the end of a build; return it as the REST API does."""

        def find() -> dict[str, Any] | None:
            builds = [b for b in self.builds(builder) if b["number"] == number and b["complete"]]
            return builds[0] if builds else None

        build = wait_for(find, f"the end of build {number} of {builder}", 60)
        assert build is not None
        return build

    def log_text(self, buildid: int, step: str, log: str = "stdio") -> str:
        """Return a log of a step as plain text."""
        found = self.rest(f"builds/{buildid}/steps/{step}/logs/{log}/contents")
        text: str = found["logchunks"][0]["content"]
        return text

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("status", "--json").stdout)
        return found

    def end(self) -> None:
        """Kill the master and what its builds have started, and drop its database."""
        owner = Basedir(self.basedir).owner()
        for pid in {*self.pids, *([owner.pid] if owner else [])}:
            for each in (pid, *descendants(pid)) if is_running(pid) else ():
                with suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
        if self.server is not None:
            self.server.execute("postgres", f"DROP DATABASE IF EXISTS {self.database} (FORCE)")


watched: list[Master] = []


@contextmanager
def watching() -> Iterator[Callable[[Master], Master]]:
    """Give a function that registers a master, to be killed when the block ends."""
    mine: list[Master] = []

    def watch(master: Master) -> Master:
        mine.append(master)
        watched.append(master)
        return master

    try:
        yield watch
    finally:
        for master in mine:
            watched.remove(master)
            master.end()
