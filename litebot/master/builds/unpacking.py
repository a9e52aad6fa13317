"""Unpacks an archive that a worker has sent, and nothing outside its folder.

These rules do not depend on `filter="data"` of tarfile, which some Pythons let an archive fool
(CVE-2025-4517).  All of an archive is checked before the first file is written.  It may have files,
folders, relative symlinks that stay inside, and hard links to its own files.
"""

from __future__ import annotations

import bz2
import gzip
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextlib import suppress
from dataclasses import dataclass
from typing import IO
from typing import Any

from litebot.master.limits.refusals import printable

# The headers that hold the next member's name and the like; tarfile reads each into memory.
LARGEST_HEADER = 1_000_000  # bytes
HEADERS = {
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
}
DAMAGED = (tarfile.TarError, EOFError, zlib.error, RecursionError, UnicodeError, ValueError)

Parts = tuple[str, ...]


class RefusedArchive(Exception):
    """An archive has what it must not have; the message names the member."""


@dataclass(frozen=True)
class Limits:
    """What an archive may hold; `key` is where `most_bytes` comes from, such as "maxsize"."""

    most_bytes: int
    key: str
    most_members: int


class _Member(tarfile.TarInfo):
    """A member whose headers have a bound."""

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        if self.type in HEADERS and self.size > LARGEST_HEADER:
            raise RefusedArchive(f"the archive has a header of {self.size} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]


def unpack(path: str, compress: str | None, folder: str, limits: Limits) -> None:
    """Unpack an archive, packed with "gz", "bz2" or None, into a folder, which may exist.

    Files that are there and are in the archive, too, are replaced; others stay.  All is written
    before the first one gets its name.  Raises RefusedArchive, usually before anything is written,
    and OSError.
    """
    root = os.path.realpath(folder)
    plan = _Plan(root, limits)
    for member, _ in _members(path, compress):
        plan.add(member)
    plan.check_links()
    os.makedirs(root, exist_ok=True)
    staging = tempfile.mkdtemp(prefix="buildbot-transfer-", dir=root)
    try:
        for member, archive in _members(path, compress):
            _write(staging, member, archive)
        _move(staging, root)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _move(staging: str, root: str) -> None:
    """Give what was unpacked its names, in place of files that had them."""
    for folder, folders, files in os.walk(staging):
        for name in [*folders, *files]:
            path = os.path.join(folder, name)
            moved = tarfile.TarInfo(os.path.relpath(path, staging))
            is_folder = os.path.isdir(path) and not os.path.islink(path)
            moved.type = tarfile.DIRTYPE if is_folder else tarfile.REGTYPE
            parts = _parts(moved.name)
            _check_on_disk(root, moved, parts)  # others may have changed it meanwhile
            target = os.path.join(root, *parts)
            if is_folder:
                os.makedirs(target, exist_ok=True)
            else:
                os.replace(path, target)


@contextmanager
def _opened(path: str, compress: str | None) -> Iterator[IO[bytes]]:
    opener: Any = {"gz": gzip.open, "bz2": bz2.open}.get(compress or "", open)
    with opener(path, "rb") as file:
        yield file


def _members(path: str, compress: str | None) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    try:
        with (
            _opened(path, compress) as file,
            tarfile.open(fileobj=file, mode="r|", tarinfo=_Member) as archive,
        ):
            for member in archive:
                yield member, archive
                archive.members = []  # type: ignore[attr-defined]  # else it keeps all of them
    except DAMAGED as error:
        raise RefusedArchive(f"the archive from the worker is damaged: {error}") from error
    except OSError as error:
        # gzip raises it for what is not gzip; the errors of the disk have a number.
        if error.errno is not None:
            raise
        raise RefusedArchive(f"the archive from the worker is damaged: {error}") from error


def _shown(member: tarfile.TarInfo) -> str:
    return f"'{printable(member.name)}'"


def _parts(name: str) -> Parts:
    return tuple(part for part in name.split("/") if part not in {"", "."})


class _Plan:
    """What an archive would do, checked member by member."""

    def __init__(self, root: str, limits: Limits) -> None:
        self._root = root
        self._limits = limits
        self._members = self._bytes = 0
        self._kinds: dict[Parts, bytes] = {}
        self._folders: set[Parts] = set()  # those that other members are in
        self._passed: dict[Parts, str] = {}  # what links pass through, with the names of these

    def add(self, member: tarfile.TarInfo) -> None:
        """Check a member.  Raises RefusedArchive."""
        shown, parts = _shown(member), _parts(member.name)
        self._members += 1
        self._bytes += member.size
        if self._members > self._limits.most_members:
            raise RefusedArchive(
                f"the archive has more than {self._limits.most_members:,} members, the"
                " [limits] upload_files of litebot.toml"
            )
        if member.size < 0 or self._bytes > self._limits.most_bytes:
            raise RefusedArchive(
                f"the archive unpacks to more than {self._limits.most_bytes:,} bytes, its"
                f" {self._limits.key}"
            )
        if member.name.startswith("/") or ".." in parts or "\0" in member.name:
            raise RefusedArchive(f"{shown} leads out of the folder of the upload")
        if not (member.isreg() or member.isdir() or member.issym() or member.islnk()) or (
            member.issparse()
        ):
            raise RefusedArchive(f"{shown} is no file, folder or link, but a device or the like")
        if not parts and not member.isdir():
            raise RefusedArchive("the archive has a member without a name")
        if self._kinds.get(parts, member.type) != member.type or (
            parts in self._kinds and not member.isdir()
        ):
            raise RefusedArchive(f"{shown} is twice in the archive")
        if parts in self._folders and not member.isdir():
            raise RefusedArchive(f"{shown} is both a folder and none in the archive")
        for length in range(1, len(parts)):
            parent = parts[:length]
            if self._kinds.get(parent, tarfile.DIRTYPE) != tarfile.DIRTYPE:
                raise RefusedArchive(f"{shown} is below a link or a file of the archive")
            self._folders.add(parent)
        if member.issym():
            self._check_symlink(member, parts)
        elif member.islnk():
            target = _parts(member.linkname)
            if self._kinds.get(target) not in tarfile.REGULAR_TYPES:
                raise RefusedArchive(f"{shown} is a hard link to what is not in the archive")
        self._kinds[parts] = member.type
        _check_on_disk(self._root, member, parts)

    def _check_symlink(self, member: tarfile.TarInfo, parts: Parts) -> None:
        target, at = member.linkname, list(parts[:-1])
        if not target or target.startswith("/") or "\0" in target:
            raise RefusedArchive(
                f"{_shown(member)} is a symlink to '{printable(target)}'; a symlink in an upload"
                " must be relative"
            )
        names_passed: list[Parts] = []
        for part in _parts(target):
            if part != "..":
                at.append(part)
                continue
            if not at:
                raise RefusedArchive(
                    f"{_shown(member)} is a symlink to '{printable(target)}', which leads out of"
                    " the folder of the upload"
                )
            names_passed.append(tuple(at))
            at.pop()
        for passed in names_passed:
            self._passed[passed] = _shown(member)

    def check_links(self) -> None:
        """Check that no symlink goes up from another one, as that leads elsewhere."""
        for passed, shown in self._passed.items():
            for length in range(1, len(passed) + 1):
                part = passed[:length]
                is_link = self._kinds.get(part) == tarfile.SYMTYPE
                if is_link or os.path.islink(os.path.join(self._root, *part)):
                    raise RefusedArchive(f"{shown} is a symlink through another symlink")


def _check_on_disk(root: str, member: tarfile.TarInfo, parts: Parts) -> None:
    """Check what is on the disk where a member goes.  Raises RefusedArchive."""
    path = root
    for number, part in enumerate(parts, start=1):
        path = os.path.join(path, part)
        is_last = number == len(parts)
        if is_last and not member.isdir():
            if os.path.isdir(path) and not os.path.islink(path):
                raise RefusedArchive(f"{_shown(member)} is a folder on the master")
            return
        if os.path.islink(path):
            if not _leads_inside(root, path):
                raise RefusedArchive(
                    f"{_shown(member)} goes through {path}, a symlink that leads elsewhere"
                )
        elif not os.path.lexists(path):
            return
        elif not os.path.isdir(path):
            raise RefusedArchive(f"{_shown(member)} is in or is a folder, but {path} is a file")


def _leads_inside(root: str, path: str) -> bool:
    try:
        real = os.path.realpath(path, strict=True)
    except OSError:
        return False
    return os.path.isdir(real) and os.path.commonpath([root, real]) == root


def _write(root: str, member: tarfile.TarInfo, archive: tarfile.TarFile) -> None:
    parts = _parts(member.name)
    path = os.path.join(root, *parts)
    if member.isdir():
        os.makedirs(path, exist_ok=True)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.lexists(path):
        os.unlink(path)
    if member.issym():
        os.symlink(member.linkname, path)
    elif member.islnk():
        os.link(os.path.join(root, *_parts(member.linkname)), path, follow_symlinks=False)
    else:
        _write_file(path, member, archive)


def _write_file(path: str, member: tarfile.TarInfo, archive: tarfile.TarFile) -> None:
    source = archive.extractfile(member)
    assert source is not None
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        shutil.copyfileobj(source, file)
        # As filter="data" does: no setuid, not writable for others.
        mode = member.mode & 0o755 | 0o600
        os.fchmod(file.fileno(), mode if mode & 0o100 else mode & ~0o111)
        with suppress(OverflowError, ValueError, OSError):
            os.utime(file.fileno(), (member.mtime, member.mtime))
