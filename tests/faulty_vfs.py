"""A disk that fails when it is told to: a SQLite VFS over the real one.

While it is in use it is SQLite's default, so code under test opens files as it always does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import apsw

REAL = "unix"


class FaultyDisk(apsw.VFS):
    """Counts the syncs of files, and refuses the operations that a test wants refused."""

    def __init__(self) -> None:
        self.syncs: dict[str, int] = {}
        self._refusals: dict[tuple[str, str], int] = {}
        self._skip: dict[tuple[str, str], int] = {}
        super().__init__("faulty", REAL, makedefault=True)

    def refuse(self, operation: str, suffix: str, code: int, *, after: int = 0) -> None:
        """From now on fail with an extended result code of SQLite, once `after` have gone well.

        `operation` is "write", "sync" or "read"; `suffix` is how the file's name ends.
        """
        self._refusals[operation, suffix] = code
        self._skip[operation, suffix] = after

    def heal(self) -> None:
        """Everything works again."""
        self._refusals.clear()

    def check(self, operation: str, name: str) -> None:
        for (refused, suffix), code in self._refusals.items():
            if refused != operation or not name.endswith(suffix):
                continue
            if self._skip[refused, suffix] == 0:
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

    def xSync(self, flags: int) -> None:
        self._disk.check("sync", self._name)
        super().xSync(flags)
        self._disk.syncs[self._name] = self._disk.syncs.get(self._name, 0) + 1


@contextmanager
def faulty_disk() -> Iterator[FaultyDisk]:
    """Every file that SQLite opens meanwhile, in this process, lies on a faulty disk."""
    disk = FaultyDisk()
    try:
        yield disk
    finally:
        disk.heal()
        disk.unregister()
