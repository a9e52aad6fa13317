"""Checks the state file before a master may start; each error names the problem and a remedy."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

import apsw

from litebot import permissions
from litebot.basedir import Basedir
from litebot.errors import StoreError
from litebot.files import PRIVATE
from litebot.master.db.schema import buildbots_revisions
from litebot.master.db.sqlite import commit_watermark
from litebot.master.db.sqlite.commit_watermark import Content
from litebot.settings import Settings
from litebot.store.connection import connect
from litebot.store.connection import keep_log_on_close
from litebot.store.connection import refusal
from litebot.users import UserFile

TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table'"
# The tables of all versions of Buildbot since 3.0 that commands read.
READ = {
    *("builders", "builder_masters", "builds", "workers", "masters", "buildrequests"),
    *("buildrequest_claims", "buildsets", "steps", "logs", "logchunks"),
}


def check(files: Basedir, settings: Settings) -> list[str]:
    """Raise a LitebotError for the first problem that would keep the master from running well.

    Returns notes on what was repaired, and on what other users of the machine may do.
    """
    files.require_writable()
    path = settings.database.sqlite_path(files.path)
    permissions.refuse_foreign(files, permissions.written_files(files))
    notes = permissions.keep_others_from_writing(files)
    if files.users_file.is_file():  # a folder is the user's own
        UserFile(files.users_file).names()
    if path is not None:
        check_state_file(path, files)
        parts = [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm", "-tally")]
        permissions.refuse_foreign(files, parts)
        repaired = make_private(path)
        notes += [repaired] if repaired else []
    return notes + permissions.tighten(files, path)


def make_private(path: Path) -> str | None:
    """Let only its owner read a state file; return a message about what was changed, or None.

    Raises StoreError if that is not possible.
    """
    try:
        mode = 0
        for suffix in ("", "-wal", "-shm"):
            part = path.with_name(path.name + suffix)
            if part.exists() and (of_part := stat.S_IMODE(part.stat().st_mode)) & 0o077:
                mode = mode or of_part
                part.chmod(PRIVATE)
        if not mode:
            return None
    except OSError as error:
        raise StoreError(
            f"{path} has mode {mode:04o}, which can't be changed: {error.strerror}; it holds the"
            " key of login cookies, which only the master may read",
            f"as its owner: chmod 600 {shlex.quote(str(path))}*",
        ) from error
    return f"{path} had mode {mode:04o}, now 0600: it holds the key of login cookies"


def check_state_file(path: Path, files: Basedir) -> None:
    """Raise StoreError if a state file is missing, unusable or of another version of Buildbot."""
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        raise StoreError(
            f"{path} can't be read and written by this user (uid {os.geteuid()})",
            f"chown {os.geteuid()} {shlex.quote(str(path))}",
        )
    expected = commit_watermark.read(path)
    db = connect(path, (keep_log_on_close,))  # changes nothing before all checks have passed
    try:
        check_schema(db, path, files)
        check_content(db, path, expected)
    except apsw.Error as error:
        raise refusal(path, error) from error
    finally:
        db.close()


def check_content(db: apsw.Connection, path: Path, expected: Content | None) -> None:
    """Raise StoreError if commits are missing and the rest is not consistent.

    If a part of the log is lost whose rest was already moved into the file, old pages are mixed
    with new ones.
    """
    if expected is None:
        return
    is_counted = db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'litebot_commits'").get
    row = db.execute(commit_watermark.QUERY).fetchone() if is_counted else None
    missing = commit_watermark.missing(expected, None if row is None else Content.of(*row))
    if missing is None:
        return
    fault = db.execute("PRAGMA integrity_check(1)").get
    if fault != "ok":
        raise StoreError(
            f"{path} is damaged: {fault}; {missing}",
            f"restore a backup of it, and remove {shlex.quote(str(path))}-wal with the old file",
        )


def check_schema(db: apsw.Connection, path: Path, files: Basedir) -> None:
    """Raise StoreError unless the tables are exactly those of this version of Buildbot."""
    require_tables({name for (name,) in db.execute(TABLES)}, path, files)
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


def require_tables(tables: set[str], path: Path, files: Basedir) -> None:
    """Raise StoreError unless these tables of a state file are those of a Buildbot since 3.0."""
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
    if missing := sorted(READ - tables):
        raise StoreError(
            f"{path} lacks the table {missing[0]} of Buildbot, so it is damaged or not whole",
            "restore a backup of it",
        )
