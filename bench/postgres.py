"""A Postgres server for the length of a benchmark, where the machine has one installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

# A server that runs already, with a user who may create databases; else one is started.
URL_VARIABLE = "BENCH_POSTGRES_URL"
DRIVER = "psycopg2"
DEBIAN = Path("/usr/lib/postgresql")
# initdb refuses root, so root becomes the user that Debian's package makes.
SYSTEM_USER = "postgres"


def reason_to_skip() -> str | None:
    """What is missing for a Postgres server, or None."""
    if importlib.util.find_spec(DRIVER) is None:
        return f"{DRIVER} is not installed"
    if URL_VARIABLE not in os.environ and _programs() is None:
        return f"no initdb on PATH or under {DEBIAN}, and {URL_VARIABLE} is not set"
    return None


@contextmanager
def server() -> Iterator[None]:
    """Within it URL_VARIABLE names a server, if this machine can have one.

    fsync and all else are as initdb leaves them.
    """
    programs = _programs()
    if reason_to_skip() or URL_VARIABLE in os.environ or programs is None:
        yield
        return
    user = SYSTEM_USER if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="bench-pg-", dir=os.environ.get("BENCH_DIR")) as name:
        folder = Path(name)
        if user:
            shutil.chown(folder, user)
        data = folder / "data"

        def run(program: str, *arguments: object) -> None:
            command = [programs / program, "-D", data, *arguments]
            subprocess.run(
                list(map(str, command)), check=True, stdout=subprocess.DEVNULL, user=user, cwd="/"
            )

        run("initdb", "--auth=trust", "--username=bench", "--encoding=UTF8")
        # A socket in the folder alone: no port to collide with.
        options = f"-k {folder} -c listen_addresses=''"
        run("pg_ctl", "-w", "-l", folder / "log", "-o", options, "start")
        os.environ[URL_VARIABLE] = f"postgresql+{DRIVER}://bench@/postgres?host={folder}"
        try:
            yield
        finally:
            del os.environ[URL_VARIABLE]
            run("pg_ctl", "-m", "fast", "stop")


def new_database() -> str:
    """The URL of a new, empty database on the server."""
    url = sa.make_url(os.environ[URL_VARIABLE])
    name = f"bench_{uuid.uuid4().hex}"
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as conn:
        conn.execute(sa.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return url.set(database=name).render_as_string(hide_password=False)


def _programs() -> Path | None:
    """The folder of initdb and pg_ctl."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    versions = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    return versions[-1].parent if versions else None
