"""Who else on the machine may read or write the files of a basedir; what a start does about it.

What the master writes is for its user alone.  What users write and what builds make stays as it is,
except that nobody else may write what the master runs.
"""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import stat
from collections.abc import Iterable
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from litebot.basedir import Basedir
from litebot.basedir import name_of
from litebot.errors import BasedirError

OTHERS_READ = 0o077
EVERYBODY_WRITES = 0o002
GROUP_WRITES = 0o020


def private_files(files: Basedir, state_file: Path | None) -> Iterator[tuple[Path, list[Path]]]:
    """Yield the files that hold secrets or logs: each with what belongs to it, as old logs do."""
    for log in (files.log_file, files.path / "http.log"):
        yield log, rotated(log)
    yield files.settings_file, []
    if files.secrets.is_dir():
        yield files.secrets, [path for path in files.secrets.iterdir() if path.is_file()]
    for path in (files.lock_file, files.pid_file, files.reserve):
        yield path, []
    if state_file is not None:
        yield (
            state_file.with_name(f"{state_file.name}-tally"),
            list(state_file.parent.glob(f"{state_file.name}.moved-*")),
        )


def rotated(log: Path) -> list[Path]:
    """Return the old files of a rotated log."""
    return [path for path in log.parent.glob(f"{log.name}.*") if path.suffix[1:].isdigit()]


def tighten(files: Basedir, state_file: Path | None) -> list[str]:
    """Let only this user read what the master writes; return a note on each file that was open.

    Leaves files of other users, and a file system that refuses, as they are.
    """
    notes = []
    for first, more in private_files(files, state_file):
        changed = [path for path in (first, *more) if _mode_to_change(path) is not None]
        if not changed:
            continue
        mode = _mode_to_change(changed[0])
        closed = [path for path in changed if make_private(path)]
        if closed:
            others = f" and {len(closed) - 1} more of it" if closed[1:] else ""
            new = stat.S_IMODE(closed[0].stat().st_mode)
            notes.append(
                f"{closed[0]}{others} had mode {mode:04o}, now {new:04o}: others could read it"
            )
    return notes


def make_private(path: Path) -> bool:
    """Let only its owner read a file or folder; return whether its mode was changed."""
    mode = _mode_to_change(path)
    if mode is None:
        return False
    with suppress(OSError):
        path.chmod(mode & ~OTHERS_READ)
    return _mode_to_change(path) is None


def _mode_to_change(path: Path) -> int | None:
    """Return the mode of a file of this user's that others may read, or None."""
    try:
        status = path.stat()
    except OSError:
        return None
    mode = stat.S_IMODE(status.st_mode)
    return mode if status.st_uid == os.geteuid() and mode & OTHERS_READ else None


def refuse_foreign(files: Basedir, paths: Iterable[Path]) -> None:
    """Raise BasedirError if a file that the master writes belongs to somebody else.

    Whoever owns it could read what is written there, or have had the master write to another file
    by a link.  The owner of the basedir and root may own its files.
    """
    trusted = {0, os.geteuid(), files.path.stat().st_uid}
    for path in paths:
        with suppress(FileNotFoundError):
            if (owner := path.lstat().st_uid) not in trusted:
                raise BasedirError(
                    f"{path} belongs to {name_of(owner)}, and the master would write to it",
                    f"rm {shlex.quote(str(path))}  # or, if it is yours: chown -h"
                    f" {os.geteuid()} {shlex.quote(str(path))}",
                )


def written_files(files: Basedir) -> list[Path]:
    """Return the files that a master writes beside its state file."""
    return [
        *(files.log_file, files.path / "http.log", files.pid_file, files.lock_file),
        *(files.control_socket, files.reserve),
    ]


def keep_others_from_writing(files: Basedir) -> list[str]:
    """Let no other user write what the master runs; return notes on what was open or still is.

    Raises BasedirError if everybody could write the basedir and somebody has, and for root also if
    everybody may write what can't be closed here.
    """
    notes = []
    may_have_been_planted = files.path.stat().st_mode & EVERYBODY_WRITES
    if may_have_been_planted:
        refuse_foreign(files, files.path.iterdir())
    runs = (files.path, files.tac_file, files.config_file, files.settings_file)
    for path in (path for path in runs if path.exists()):
        mode = path.stat().st_mode
        if mode & EVERYBODY_WRITES:
            with suppress(OSError):
                path.chmod(stat.S_IMODE(mode) & ~EVERYBODY_WRITES)
            now = path.stat().st_mode
            if now & EVERYBODY_WRITES:
                notes.append(_open(path, "can be written by everybody on this machine"))
            else:
                notes.append(
                    f"{path} had mode {stat.S_IMODE(mode):04o}, now {stat.S_IMODE(now):04o}:"
                    " everybody could make the master run what they like"
                )
        elif mode & GROUP_WRITES and (group := _shared_group(path)):
            notes.append(_open(path, f"can be written by the group {group}", refuse=False))
    for parent in files.path.resolve().parents:
        mode = parent.stat().st_mode
        if mode & EVERYBODY_WRITES and not mode & stat.S_ISVTX:
            notes.append(_open(parent, "can be written by everybody on this machine"))
    return notes


def _open(path: Path, how: str, *, refuse: bool = True) -> str:
    """Return a note on what others may write; with `refuse`, raise it for root."""
    what = f"{path} {how}, who could make the master run what they like"
    remedy = f"chmod o-w {shlex.quote(str(path))}"
    if refuse and os.geteuid() == 0:
        raise BasedirError(what, remedy)
    return f"{what}; to change that: {remedy if refuse else remedy.replace('o-w', 'g-w')}"


def _shared_group(path: Path) -> str | None:
    """Return the name of a file's group if others are in it, or None."""
    gid, user = path.stat().st_gid, os.geteuid()
    try:
        group = grp.getgrgid(gid)
        me = pwd.getpwuid(user).pw_name
    except KeyError:
        return None
    others = any(entry.pw_gid == gid and entry.pw_uid not in (0, user) for entry in pwd.getpwall())
    return group.gr_name if others or set(group.gr_mem) - {me, "root"} else None
