"""Opens the state file.  All pragmas are set here, each with the reason for it."""

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

# A reader only has to wait while the log is recovered after a crash.
INSPECTION_TIMEOUT_MS = 1000

Pragma = Callable[[apsw.Connection], None]


def check_sqlite_version(version: str) -> None:
    """Raise StoreError for a SQLite library that has the WAL-reset bug.

    `version` is a dotted version, as `apsw.sqlite_lib_version()` returns it.
    """
    if tuple(int(part) for part in version.split(".")) < OLDEST_SAFE_SQLITE:
        oldest = ".".join(map(str, OLDEST_SAFE_SQLITE))
        raise StoreError(
            f"apsw carries SQLite {version}, which can corrupt a WAL file; litebot needs"
            f" {oldest} or newer",
            "pip install --upgrade apsw",
        )


def incremental_vacuum(db: apsw.Connection) -> None:
    """Let free pages be returned to the file system in small steps.

    SQLite accepts this setting only before the first table is created.
    """
    db.pragma("auto_vacuum", "INCREMENTAL")


def write_ahead_log(db: apsw.Connection) -> None:
    """Use a write-ahead log: readers never block the writer, and a commit appends to one file."""
    mode = db.pragma("journal_mode", "wal")
    if mode != "wal":
        raise StoreError(
            f"{db.filename} can't use a write-ahead log (SQLite answers {mode!r}); its file"
            " system lacks shared memory or locks",
            "put the basedir on a local file system",
        )


def sync_every_commit(db: apsw.Connection) -> None:
    """Durability "commit": sync the log at every commit, so that power loss loses no commit."""
    db.pragma("synchronous", "FULL")


def sync_at_checkpoints(db: apsw.Connection) -> None:
    """Durability "acknowledged" and "process": kill -9 loses no commit, but power loss may.

    With "acknowledged" the master itself syncs the log before it answers.
    """
    db.pragma("synchronous", "NORMAL")


def no_checkpoint_at_commit(db: apsw.Connection) -> None:
    """Never checkpoint at a commit, which must stay short: the master does it in a thread.

    A checkpoint waits for syncs.
    """
    db.pragma("wal_autocheckpoint", 0)


def page_cache(db: apsw.Connection) -> None:
    """Cache 8 MiB: the upper levels of every index that a build uses, at 1 M builds of history."""
    db.pragma("cache_size", -8 * 1024)


def sort_in_memory(db: apsw.Connection) -> None:
    """Sort in memory, so that a full /tmp does not make a query fail."""
    db.pragma("temp_store", "MEMORY")


def sort_in_files(db: apsw.Connection) -> None:
    """Sort in temporary files, for work on a whole state file, such as creating an index.

    The memory used must not grow with the size of the file.
    """
    db.pragma("temp_store", "FILE")


def checkpoint_at_64_mib(db: apsw.Connection) -> None:
    """Checkpoint at 64 MiB of log instead of 4, because each checkpoint waits for the disk."""
    db.pragma("wal_autocheckpoint", 16384)


def check_cell_sizes(db: apsw.Connection) -> None:
    """Report a damaged page as SQLITE_CORRUPT when it is first read, and not later."""
    db.pragma("cell_size_check", True)


def query_only(db: apsw.Connection) -> None:
    """Refuse writes: work wrongly taken for a read fails, and does not become a second writer."""
    db.pragma("query_only", True)


def keep_log_on_close(db: apsw.Connection) -> None:
    """Leave the log as it is when the last connection closes.

    Otherwise SQLite moves its content into the file and deletes it.
    """
    db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)


EVERY_CONNECTION: tuple[Pragma, ...] = (page_cache, sort_in_memory, check_cell_sizes)
NEW_FILE: tuple[Pragma, ...] = (incremental_vacuum, write_ahead_log)
MASTER: tuple[Pragma, ...] = (write_ahead_log, no_checkpoint_at_commit)
DURABILITY: dict[str, tuple[Pragma, ...]] = {
    "acknowledged": (sync_at_checkpoints,),
    "commit": (sync_every_commit,),
    "process": (sync_at_checkpoints,),
}
READER: tuple[Pragma, ...] = (query_only,)


def connect(
    path: Path | str,
    pragmas: tuple[Pragma, ...] = (),
    *,
    create: bool = False,
    busy_timeout_ms: int = 5000,
) -> apsw.Connection:
    """Open a state file (":memory:" for a private one in memory) and set its pragmas.

    A missing file is created only with `create`.  `pragmas` are added to EVERY_CONNECTION.
    `busy_timeout_ms` is how long a statement waits for another process's lock.

    Raises StoreError, with the reason, if the file is missing, is not a database or can't be read
    or written, and if the SQLite library has the WAL-reset bug.
    """
    flags = apsw.SQLITE_OPEN_READWRITE
    if create:
        flags |= apsw.SQLITE_OPEN_CREATE
    return _open(Path(path), str(path), flags, pragmas, busy_timeout_ms)


def private_wal_index(db: apsw.Connection) -> None:
    """Keep the index of the log in this process's memory, and other processes out of the file."""
    db.pragma("locking_mode", "EXCLUSIVE")


def open_for_inspection(path: Path, *, stopped: bool = False) -> apsw.Connection:
    """Open a state file to read it, whether its master runs or not.  Changes nothing on disk.

    With `stopped` the caller knows that no master runs on it.  Then the log's index, which a killed
    master may have left or not, is neither changed nor created either.

    Raises StoreError if the file is missing or this user can't read it.
    """
    # Where there is no log, nobody has the file open, and SQLite would create a log even to read
    # it.  Where there is one, closing must not move it into the file: a master that died may have
    # left it, and the file may need it.
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
            first = (private_wal_index, query_only)
    name = f"file:{quote(str(path))}{options}"
    return _open(path, name, flags, (keep_log_on_close,), INSPECTION_TIMEOUT_MS, first)


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
    """The StoreError that tells the user why a state file can't be opened."""
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
