"""Replaces a file in one step, so that nobody ever reads a half-written one."""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from contextlib import suppress
from pathlib import Path

from litebot.errors import LitebotError


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock under which litebot reads, changes and replaces a file in `directory`.

    Waits while this or another process holds it; the kernel releases it when the holder dies.  The
    lock is on the directory itself, so no lock file is left behind.  Raises LitebotError if the
    directory can't be opened.
    """
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise LitebotError(f"{directory} can't be opened: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def sync(path: Path) -> None:
    """Sync a file, or a folder's list of files, to disk.  Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_file(path: Path, text: str, *, new_mode: int) -> None:
    """Write `text` to `path` so that readers, also after a power loss, find the old or new text.

    Call it under `locked(path.parent)`.  An existing file keeps its mode, and a new one gets
    `new_mode`.  If root calls it, an existing file also keeps its owner and a new one gets the
    owner of its directory: otherwise `sudo litebot ...` would leave a file that the master can't
    read.  A symbolic link stays one.  Raises LitebotError if the file can't be written; the old one
    is then still there.
    """
    path = path.resolve()
    temporary = path.with_name(f".{path.name}.new")
    try:
        old = path.stat() if path.exists() else None
        temporary.unlink(missing_ok=True)
        # The mode is 0600 from the start, as the file may contain password hashes.
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            if os.geteuid() == 0:
                owner = old or path.parent.stat()
                os.fchown(fd, owner.st_uid, owner.st_gid)
            os.fchmod(fd, old.st_mode & 0o7777 if old else new_mode)
            file.flush()
            os.fsync(fd)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise _refused(path, error) from error


def refuse_unwritable(path: Path) -> None:
    """Raise LitebotError, as `replace_file` would, if this user may not replace the file."""
    path = path.resolve()
    if not os.access(path.parent, os.W_OK | os.X_OK):
        code = errno.EACCES if path.parent.exists() else errno.ENOENT
        raise _refused(path, OSError(code, os.strerror(code)))


def _refused(path: Path, error: OSError) -> LitebotError:
    where = shlex.quote(str(path.parent))
    return LitebotError(f"{path} can't be written: {error.strerror}", f"ls -ld {where}; df {where}")
