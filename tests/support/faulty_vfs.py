"""A disk that fails when a test wants it to, as a SQLite VFS; and damage to a file.

While the VFS is in use it is SQLite's default, so code under test opens files as it always does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

REAL = "unix"
INTERIOR = 5  # the type of a table's page that has child pages


class FaultyDisk(apsw.VFS):
    """Counts the operations on files, and refuses those that a test chooses."""

    def __init__(self) -> None:
        self.syncs: dict[str, int] = {}
        self.calls: Counter[str] = Counter()  # by operation
        self.refused = 0
        self._refusals: dict[tuple[str, str], int] = {}
        self._skip: dict[tuple[str, str], int] = {}
        self._once = False
        super().__init__("faulty", REAL, makedefault=True)

    def refuse(
        self, operation: str, suffix: str, code: int, *, after: int = 0, once: bool = False
    ) -> None:
        """Refuse an operation, with an extended result code of SQLite, after `after` successes.

        From then on it is always refused, or only `once`.

        `operation` is "write", "sync", "read" or "truncate"; `suffix` is how the file's name ends.
        """
        self._refusals[operation, suffix] = code
        self._skip[operation, suffix] = after
        self._once = once

    def heal(self) -> None:
        """Refuse nothing from now on."""
        self._refusals.clear()

    def check(self, operation: str, name: str) -> None:
        self.calls[operation] += 1
        for (refused, suffix), code in list(self._refusals.items()):
            if refused != operation or not name.endswith(suffix):
                continue
            if self._skip[refused, suffix] == 0:
                self.refused += 1
                if self._once:
                    self.heal()
                error = apsw.exception_for(code)
                error.args = (f"{operation} of {name} refused by the test",)
                raise error
            self._skip[refused, suffix] -= 1

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return _File(self, name, flags)


class _File(apsw.VFSFile):
    def __init__(
        self, disk: FaultyDisk, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> None:
        super().__init__(REAL, name, flags)
        self._disk = disk
        self._name = name.filename() if isinstance(name, apsw.URIFilename) else name or ""

    def xRead(self, amount: int, offset: int) -> bytes:
        self._disk.check("read", self._name)
        return super().xRead(amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._disk.check("write", self._name)
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        self._disk.check("truncate", self._name)
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        self._disk.check("sync", self._name)
        super().xSync(flags)
        self._disk.syncs[self._name] = self._disk.syncs.get(self._name, 0) + 1


@contextmanager
def faulty_disk() -> Iterator[FaultyDisk]:
    """Let SQLite open all files of this process on a faulty disk until the block ends."""
    disk = FaultyDisk()
    try:
        yield disk
    finally:
        disk.heal()
        disk.unregister()


def damage(path: Path, table: str) -> int:
    """Overwrite the pages with a table's rows, except the first; nobody may have the file open.

    Returns the number of pages left whole: 1, or 0 if the table is a single page.
    """
    db = apsw.Connection(str(path))
    root: int = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).get
    size_bytes: int = db.pragma("page_size")
    db.close()
    data = bytearray(path.read_bytes())

    def page(number: int) -> bytes:
        return bytes(data[(number - 1) * size_bytes : number * size_bytes])

    leaves, level = [], [root]
    for number in level:
        if page(number)[0] != INTERIOR:
            leaves.append(number)
            continue
        cells = int.from_bytes(page(number)[3:5])
        starts = [int.from_bytes(page(number)[12 + 2 * n :][:2]) for n in range(cells)]
        level += [int.from_bytes(page(number)[start:][:4]) for start in starts]
        level.append(int.from_bytes(page(number)[8:12]))
    spared = leaves[:1] if len(leaves) > 1 else []
    for number in leaves:
        if number not in spared:
            data[(number - 1) * size_bytes : number * size_bytes] = b"\xff" * size_bytes
    path.write_bytes(data)
    return len(spared)
