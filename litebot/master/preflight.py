"""What must hold before a master may start; each refusal names what is wrong and a remedy."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

import apsw

from litebot.basedir import Basedir
from litebot.errors import StoreError
from litebot.master import tally
from litebot.master.schema import buildbots_revisions
from litebot.settings import Settings
from litebot.store.connection import connect
from litebot.store.connection import keeps_its_log
from litebot.store.connection import refusal
from litebot.users import UserFile


def check(files: Basedir, settings: Settings) -> str | None:
    """Raise a LitebotError for the first thing that would keep the master from running well.

    Returns what was mended on the way, if anything was.
    """
    files.require_writable()
    if files.users_file.exists():
        UserFile(files.users_file).names()
    path = settings.database.sqlite_path(files.path)
    if path is None:
        return None
    check_state_file(path, files)
    return close_state_file(path)


def close_state_file(path: Path) -> str | None:
    """Let its owner alone read a state file; what was done, for the user, or None.

    Raises StoreError where that is not possible.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if not mode & 0o077:
            return None
        for suffix in ("", "-wal", "-shm"):
            part = path.with_name(path.name + suffix)
            if part.exists():
                part.chmod(0o600)
    except OSError as error:
        raise StoreError(
            f"{path} has mode {mode:04o}, which can't be changed: {error.strerror}; it holds the"
            " key of login cookies, which only the master may read",
            f"as its owner: chmod 600 {shlex.quote(str(path))}*",
        ) from error
    return f"{path} had mode {mode:04o}, now 0600: it holds the key of login cookies"


def check_state_file(path: Path, files: Basedir) -> None:
    """Raise StoreError where a state file is missing, unusable, or of another Buildbot."""
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        raise StoreError(
            f"{path} can't be read and written by this user (uid {os.geteuid()})",
            f"chown {os.geteuid()} {shlex.quote(str(path))}",
        )
    should_hold = tally.read(path)
    db = connect(path, (keeps_its_log,))  # nothing is changed before all is known to be well
    try:
        check_schema(db, path, files)
        check_content(db, path, should_hold)
    except apsw.Error as error:
        raise refusal(path, error) from error
    finally:
        db.close()


def check_content(db: apsw.Connection, path: Path, should_hold: tally.Content | None) -> None:
    """Raise StoreError where commits are missing and what is left makes no whole.

    A part of a log over a file that has the rest of it already mixes old pages with new ones.
    """
    if should_hold is None:
        return
    is_counted = db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'litebot_commits'").get
    row = db.execute(tally.LOOK).fetchone() if is_counted else None
    missing = tally.missing(should_hold, None if row is None else tally.Content.of(*row))
    if missing is None:
        return
    found = db.execute("PRAGMA integrity_check(1)").get
    if found != "ok":
        raise StoreError(
            f"{path} is damaged: {found}; {missing}",
            f"restore a backup of it, and remove {shlex.quote(str(path))}-wal with the old file",
        )


def check_schema(db: apsw.Connection, path: Path, files: Basedir) -> None:
    """Raise StoreError where the tables are not exactly those of this Buildbot."""
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type='table'")}
    if not tables:
        raise StoreError(
            f"{path} holds no tables",
            f"move it away, then: litebot create-master --force {files.quoted}",
        )
    if "alembic_version" not in tables:
        raise StoreError(
            f"{path} is no database of a Buildbot since 3.0: it has no table alembic_version",
            f"move it away, then: litebot create-master --force {files.quoted}",
        )
    revision = db.execute("SELECT version_num FROM alembic_version").get
    *older, newest = buildbots_revisions()
    if revision == newest:
        return
    if revision in older:
        raise StoreError(
            f"{path} has the tables of an older Buildbot (revision {revision})",
            f"back it up, then: litebot upgrade-master {files.quoted}",
        )
    raise StoreError(
        f"{path} has the tables of a newer Buildbot (revision {revision} is not known here)",
        "pip install --upgrade litebot",
    )
