"""Opening the state file: the only place that sets pragmas, each with its reason."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import apsw

from litebot.errors import StoreError

# SQLite 3.7.0 to 3.51.2 can corrupt a WAL database that has more than one connection.
# Source: https://sqlite.org/wal.html#walresetbug
OLDEST_SAFE_SQLITE = (3, 51, 3)

# Only a recovery after a crash makes a reader wait.
LOOK_TIMEOUT_MS = 1000

Pragma = Callable[[apsw.Connection], None]


def check_sqlite_version(version: str) -> None:
    """Refuse a SQLite library with the WAL-reset bug.  Raises StoreError.

    `version` is a dotted version as `apsw.sqlite_lib_version()` gives it.
    """
    if tuple(int(part) for part in version.split(".")) < OLDEST_SAFE_SQLITE:
        oldest = ".".join(map(str, OLDEST_SAFE_SQLITE))
        raise StoreError(
            f"apsw carries SQLite {version}, which can corrupt a WAL file; litebot needs"
            f" {oldest} or newer",
            "pip install --upgrade apsw",
        )


def incremental_vacuum(db: apsw.Connection) -> None:
    """Lets the file give pages back bit by bit; can only be chosen before the first table."""
    db.pragma("auto_vacuum", "INCREMENTAL")


def write_ahead_log(db: apsw.Connection) -> None:
    """Readers never block the writer, and a commit is one append to one file."""
    mode = db.pragma("journal_mode", "wal")
    if mode != "wal":
        raise StoreError(
            f"{db.filename} can't use a write-ahead log (SQLite answers {mode!r}); its file"
            " system lacks shared memory or locks",
            "put the basedir on a local file system",
        )


def sync_every_commit(db: apsw.Connection) -> None:
    """Durability "commit": fsync of the log at every commit, so power loss loses no commit."""
    db.pragma("synchronous", "FULL")


def sync_at_checkpoints(db: apsw.Connection) -> None:
    """Durability "acknowledged" and "process": kill -9 loses no commit, and power loss may.

    With "acknowledged" the master syncs the log itself before it answers.
    """
    db.pragma("synchronous", "NORMAL")


def no_checkpoint_at_commit(db: apsw.Connection) -> None:
    """The master checkpoints in a thread: a checkpoint syncs, and a commit must stay short."""
    db.pragma("wal_autocheckpoint", 0)


def page_cache(db: apsw.Connection) -> None:
    """8 MiB: the upper levels of every index that a build touches, at 1 M builds of history."""
    db.pragma("cache_size", -8 * 1024)


def sorts_in_memory(db: apsw.Connection) -> None:
    """A full /tmp must not stop a query."""
    db.pragma("temp_store", "MEMORY")


def sorts_in_files(db: apsw.Connection) -> None:
    """For work on a whole file, such as making an index: memory must not grow with its size."""
    db.pragma("temp_store", "FILE")


def long_log(db: apsw.Connection) -> None:
    """A checkpoint at 64 MiB of log instead of 4: each waits for the disk."""
    db.pragma("wal_autocheckpoint", 16384)


def refuses_damaged_cells(db: apsw.Connection) -> None:
    """Turns a damaged page into SQLITE_CORRUPT when it is first read, not later."""
    db.pragma("cell_size_check", True)


def reads_only(db: apsw.Connection) -> None:
    """Makes a wrong guess about what only reads an error instead of a second writer."""
    db.pragma("query_only", True)


def keeps_its_log(db: apsw.Connection) -> None:
    """Closing the last connection would else move the log into the file and delete it."""
    db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)


EVERY_CONNECTION: tuple[Pragma, ...] = (page_cache, sorts_in_memory, refuses_damaged_cells)
NEW_FILE: tuple[Pragma, ...] = (incremental_vacuum, write_ahead_log)
MASTER: tuple[Pragma, ...] = (write_ahead_log, no_checkpoint_at_commit)
DURABILITY: dict[str, tuple[Pragma, ...]] = {
    "acknowledged": (sync_at_checkpoints,),
    "commit": (sync_every_commit,),
    "process": (sync_at_checkpoints,),
}
READER: tuple[Pragma, ...] = (reads_only,)


def connect(
    path: Path | str,
    pragmas: tuple[Pragma, ...] = (),
    *,
    create: bool = False,
    readonly: bool = False,
    busy_timeout_ms: int = 5000,
) -> apsw.Connection:
    """Open a state file (":memory:" for a private one in memory) and set it up.

    A missing file is made only with `create`.  `pragmas` come on top of EVERY_CONNECTION.
    `busy_timeout_ms` is how long a statement waits for another process's lock.

    Raises StoreError, with the reason, for a missing file, one that is not a database, one that
    can't be read or written, and a SQLite library with the WAL-reset bug.
    """
    flags = apsw.SQLITE_OPEN_READONLY if readonly else apsw.SQLITE_OPEN_READWRITE
    if create:
        flags |= apsw.SQLITE_OPEN_CREATE
    return _open(Path(path), str(path), flags, pragmas, busy_timeout_ms)


def private_index(db: apsw.Connection) -> None:
    """Keeps the index of the log in memory, and everybody else away from the file."""
    db.pragma("locking_mode", "EXCLUSIVE")


def look(path: Path, *, stopped: bool = False) -> apsw.Connection:
    """Open a state file to read it, beside its master or without one; nothing on disk changes.

    Nor does what holds nothing, the index of a log that a dead master has left, where the caller
    knows that its master is `stopped`.
    Raises StoreError where there is none or this user can't read it.
    """
    # Without a log nobody has it open, and SQLite would make one, even to read.  With one, closing
    # must not move it into the file, which may need what died with a master.
    beside = [Path(f"{path}{suffix}") for suffix in ("-wal", "-journal")]
    options = "" if any(file.exists() for file in beside) else "?immutable=1"
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    first: tuple[Pragma, ...] = ()
    if stopped and not options:
        # Source: https://sqlite.org/wal.html#read_only_databases and #noshm
        if Path(f"{path}-shm").exists():
            options = "?readonly_shm=1"
        else:
            flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI
            first = (private_index, reads_only)
    name = f"file:{quote(str(path))}{options}"
    return _open(path, name, flags, (keeps_its_log,), LOOK_TIMEOUT_MS, first)


def _open(
    path: Path,
    name: str,
    flags: int,
    pragmas: tuple[Pragma, ...],
    busy_timeout_ms: int,
    first: tuple[Pragma, ...] = (),
) -> apsw.Connection:
    check_sqlite_version(apsw.sqlite_lib_version())
    db = None
    try:
        db = apsw.Connection(name, flags=flags)
        db.set_busy_timeout(busy_timeout_ms)
        for pragma in first + EVERY_CONNECTION + pragmas:
            pragma(db)
        db.execute("SELECT count(*) FROM sqlite_schema").fetchall()  # reads the header
    except apsw.Error as error:
        if db is not None:
            db.close()
        raise refusal(path, error, readonly=bool(flags & apsw.SQLITE_OPEN_READONLY)) from error
    except StoreError:
        if db is not None:
            db.close()
        raise
    return db


def refusal(path: Path, error: apsw.Error, *, readonly: bool = False) -> StoreError:
    """What to tell where a state file can't be opened."""
    if isinstance(error, apsw.NotADBError):
        return StoreError(
            f"{path} is not a SQLite database",
            "move it away and restore a backup, or create a new basedir",
        )
    if isinstance(error, apsw.CorruptError):
        return StoreError(f"{path} is damaged: {error}", "restore a backup of it")
    if path.is_dir():
        return StoreError(f"{path} is a folder, not a SQLite database", "name a file in it")
    if isinstance(error, apsw.CantOpenError) and not path.exists():
        folder = shlex.quote(str(path.parent))
        return StoreError(f"{path} does not exist", f"litebot create-master --force {folder}")
    if isinstance(error, (apsw.CantOpenError, apsw.ReadOnlyError, apsw.PermissionsError)):
        return StoreError(
            f"{path} can't be opened for reading{'' if readonly else ' and writing'}: {error}",
            f"chown the files of {path.parent} to the user that runs the master",
        )
    if isinstance(error, (apsw.BusyError, apsw.LockedError)):
        return StoreError(
            f"{path} is locked by another process: {error}", "stop the process that writes to it"
        )
    return StoreError(f"{path} can't be opened: {error}")
