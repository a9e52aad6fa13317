"""A real Postgres server for tests: see the fixture `postgres`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from bench.postgres import SYSTEM_USER
from bench.postgres import USER
from bench.postgres import programs
from litebot.master.db import schema
from litebot.master.db.postgres import driver_url


@dataclass(frozen=True)
class Postgres:
    """A server on a socket in `folder`, where USER needs no password, and on a TCP port."""

    folder: Path
    port: int

    @property
    def socket(self) -> Path:
        """Where the server listens."""
        return self.folder / f".s.PGSQL.{self.port}"

    def url(self, name: str, user: str = USER) -> str:
        """Return the URL of a database on the socket, for litebot.toml."""
        return f"postgresql://{user}@/{name}?host={self.folder}&port={self.port}"

    def tcp_url(self, name: str) -> str:
        """Return the URL of a database on 127.0.0.1, where the server asks for a password."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{name}"

    def connect(self, name: str, **options: Any) -> psycopg.Connection[Any]:
        """Connect so that each statement is a transaction of its own."""
        return psycopg.connect(
            host=str(self.folder),
            port=self.port,
            user=USER,
            dbname=name,
            autocommit=True,
            **options,
        )

    def new_role(self) -> str:
        """Create a role that may connect and is no superuser; return its name."""
        name = f"role_{uuid.uuid4().hex}"
        self.execute("postgres", f"CREATE ROLE {name} LOGIN")
        return name

    def new_database(self, options: str = "") -> str:
        """Create an empty database; return its name."""
        name = f"test_{uuid.uuid4().hex}"
        # This strategy is the faster one without fsync.
        self.execute("postgres", f"CREATE DATABASE {name} STRATEGY file_copy {options}")
        return name

    def database_with_tables(self) -> str:
        """Create a database with Buildbot's tables and litebot's; return its name."""
        name = self.new_database()
        engine = sa.create_engine(driver_url(self.url(name)), poolclass=NullPool)
        with engine.connect() as conn:
            schema.make(conn)
            conn.commit()
        return name

    def execute(self, name: str, statement: str) -> None:
        """Run a statement in a database."""
        with self.connect(name) as conn:
            conn.execute(statement.encode())

    def rows(self, name: str, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query in a database."""
        with self.connect(name) as conn:
            return conn.execute(query.encode()).fetchall()

    def restart(self, mode: str) -> None:
        """Run pg_ctl restart: "fast" ends the connections, "immediate" is a crash and recovery."""
        found = programs()
        assert found is not None
        command = [str(found / "pg_ctl"), "-D", str(self.folder / "data"), "-m", mode, "-w"]
        command += ["-l", str(self.folder / "log"), "restart"]
        user = SYSTEM_USER if os.geteuid() == 0 else None
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, user=user, cwd="/")

    def crash(self) -> None:
        """Crash the whole server; restart("immediate") starts it, and it recovers."""
        os.kill(self._first_pid, signal.SIGQUIT)

    @property
    def _first_pid(self) -> int:
        return int((self.folder / "data" / "postmaster.pid").read_text().split()[0])

    @contextmanager
    def standby(self) -> Iterator[Postgres]:
        """Give a second server that replicates this one, and has all that this one has now."""
        found = programs()
        assert found is not None
        user = SYSTEM_USER if os.geteuid() == 0 else None
        with tempfile.TemporaryDirectory(prefix="pg-") as name:
            folder = Path(name)
            if user:
                shutil.chown(folder, user)

            def run(program: str, *arguments: str) -> None:
                command = [str(found / program), "-D", str(folder / "data"), *arguments]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, user=user, cwd="/")

            source = (f"--host={self.folder}", f"--port={self.port}", f"--username={USER}")
            run("pg_basebackup", *source, "--write-recovery-conf", "--checkpoint=fast")
            options = f"-k {folder} -p {self.port} -c listen_addresses= -c fsync=off"
            run("pg_ctl", "-w", "-l", str(folder / "log"), "-o", options, "start")
            try:
                yield Postgres(folder, self.port)
            finally:
                run("pg_ctl", "-m", "immediate", "stop")

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Stop all processes of the server with SIGSTOP until the block ends."""
        first = self._first_pid
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        processes = [first, *map(int, children)]
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in processes:
                os.kill(pid, signal.SIGCONT)
