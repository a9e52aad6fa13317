"""Replaces a file in one step, so that nobody ever reads a half-written one, and locks folders."""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextlib import suppress
from pathlib import Path

from litebot.errors import LitebotError
from litebot.process import command_line_of
from litebot.process import locked_by

# The name of the lock file in a folder whose files are changed.
LOCK_FILE = ".litebot.lock"
LOCK_TIMEOUT_S = 10.0
# Nobody but the owner may open a file of this mode, and so nobody else may lock it.
PRIVATE = 0o600
WRITABLE_BY_OTHERS = 0o022


@contextmanager
def locked(
    directory: Path, name: str = LOCK_FILE, timeout_s: float = LOCK_TIMEOUT_S
) -> Iterator[None]:
    """Hold the lock under which litebot reads, changes and replaces files in `directory`.

    The lock is on a file of its own, which only its owner may open: whoever may read a folder could
    lock it for ever.  The file is removed at the end; one that a killed process left is used again.
    The kernel releases the lock when its holder dies.

    Waits at most `timeout_s` while this or another process holds it.  Raises LitebotError with its
    holder then, or if the file can't be made or belongs to another user.
    """
    path = directory / name
    fd = _take_lock(path, time.monotonic() + timeout_s, timeout_s)
    try:
        yield
    finally:
        # It is removed while it is held, so whoever has waited for it finds that it is gone.
        with suppress(OSError):
            path.unlink()
        os.close(fd)


def _take_lock(path: Path, give_up_at: float, timeout_s: float) -> int:
    """Return the descriptor of a lock file that this process has locked."""
    while True:
        fd = _open_lock(path)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.pwrite(fd, str(os.getpid()).encode(), 0)
            if os.path.samestat(os.fstat(fd), os.lstat(path)):
                return fd
            os.close(fd)  # the holder before has removed it
        except FileNotFoundError:
            os.close(fd)
        except BlockingIOError:
            holder = _holder(fd)
            os.close(fd)
            if time.monotonic() > give_up_at:
                raise LitebotError(
                    f"{path.parent} is locked by {holder}, after a wait of {timeout_s:g} s",
                    f"try again when that has ended, or: fuser -v {shlex.quote(str(path))}",
                ) from None
            time.sleep(0.02)
        except OSError as error:
            os.close(fd)
            raise _refused(path, error) from error


def _open_lock(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        folder = path.parent.stat()
    except OSError as error:
        raise LitebotError(f"{path.parent} can't be opened: {error.strerror}") from error
    try:
        fd = os.open(path, flags, PRIVATE)
    except OSError as error:
        raise LitebotError(
            f"{path.parent} can't be locked: {path}: {error.strerror}",
            f"ls -ld {shlex.quote(str(path.parent))} {shlex.quote(str(path))}",
        ) from error
    status, user = os.fstat(fd), os.geteuid()
    if not stat.S_ISREG(status.st_mode) or status.st_uid not in {user, 0, folder.st_uid}:
        os.close(fd)
        raise LitebotError(
            f"{path} was made by another user (uid {status.st_uid}), who could hold up commands",
            f"rm {shlex.quote(str(path))}",
        )
    if user == 0 and status.st_uid == 0 != folder.st_uid:
        os.fchown(fd, folder.st_uid, folder.st_gid)  # or the folder's owner could not open it
    return fd


def _holder(fd: int) -> str:
    """Return who holds the lock of an open file, in words."""
    written = os.pread(fd, 32, 0)
    pid = locked_by(os.fstat(fd)) or (int(written) if written.isdigit() else 0)
    command = command_line_of(pid) if pid else ""
    shown = f" ({command})" if command else ""
    return f"the process with pid {pid}{shown}" if pid else "another process"


@contextmanager
def not_writable_by_others() -> Iterator[None]:
    """Run a `with` block under a umask that lets nobody else write the files that it makes."""
    before = os.umask(PRIVATE)
    os.umask(before | WRITABLE_BY_OTHERS)
    try:
        yield
    finally:
        os.umask(before)


def open_private(path: Path | str, flags: int) -> int:
    """Open a file as os.open() does; a new one has mode 0600, whatever the umask.

    It is the `opener` of a call of open().
    """
    return os.open(path, flags | os.O_CLOEXEC, PRIVATE)


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
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)
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
