"""Simulates power losses, and checks what the disk may then hold of what a process wrote.

The record of a process (disk_trace.c) has its writes, truncations, syncs, and files created and
removed.  At each point of the record the power may fail.  What was synced by then is on the disk;
of the rest, any sectors may be, in any order.  A sector that was never written may hold anything.

The assumptions are those of https://sqlite.org/atomiccommit.html#hardware_assumptions, except that
here no sector is written in part: SQLite's log has a checksum for each page, and all else is synced
before it counts.
"""

from __future__ import annotations

import hashlib
import os
import random
import struct
import subprocess
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path
from typing import NamedTuple

import apsw

from support.commands import require

RECORDER = Path(__file__).with_name("disk_trace.c")
RECORD = struct.Struct("<cQQQ")
SECTOR_BYTES = 512
FOLDER = 0  # the recorder's number for the folder, whose sync makes names durable
NAME = "state.sqlite"
LOG = f"{NAME}-wal"

# Of SQLite's log.  Source: https://sqlite.org/fileformat2.html#walformat
LOG_HEADER_BYTES, FRAME_HEADER_BYTES, PAGE_BYTES = 32, 24, 4096

Files = dict[str, bytes]
# Returns whether a sector of an operation is on the disk; takes the operation's number and the
# sector's.
Keeps = Callable[[int, int], bool]


class Event(NamedTuple):
    """One operation of the process; the kinds are those of the recorder."""

    kind: str
    file: int
    at: int
    data: bytes


def recording(state_file: Path, library_folder: Path) -> tuple[Path, dict[str, str]]:
    """Compile the recorder; return the file that it writes to and the variables that turn it on.

    Skips the test if there is no C compiler.
    """
    library, trace = library_folder / "disk_trace.so", library_folder / "trace"
    compiled = subprocess.run(
        ["sh", "-c", 'cc -shared -fPIC -O2 -o "$0" "$1" -ldl', library, RECORDER],
        capture_output=True,
        text=True,
        check=False,
    )
    require(compiled.returncode == 0, f"no C compiler makes a recorder: {compiled.stderr.strip()}")
    variables = {
        "LD_PRELOAD": str(library),
        "DISK_TRACE_OF": str(state_file),
        "DISK_TRACE_TO": str(trace),
    }
    return trace, variables


def read_trace(path: Path) -> list[Event]:
    """Return all events of a record."""
    text, at, events = path.read_bytes(), 0, []
    while at < len(text):
        kind, file, where, size = RECORD.unpack_from(text, at)
        at += RECORD.size + size
        events.append(Event(kind.decode(), file, where, text[at - size : at]))
    return events


def all_is_lost(_number: int, _sector: int) -> bool:
    return False


def all_is_kept(_number: int, _sector: int) -> bool:
    return True


def some_way(rng: random.Random, numbers: list[int]) -> Keeps:
    """Choose at random which of the operations with these numbers are kept, also in part."""
    if not numbers or rng.random() < 0.2:
        return rng.choice([all_is_lost, all_is_kept])
    one, sector, chance = rng.choice(numbers), rng.randrange(9), rng.choice([0.1, 0.5, 0.9])
    ways: list[Keeps] = [
        lambda n, s: (n, s) < (one, sector),  # in order, and the last one is torn
        lambda n, s: n >= one,  # only the later ones
        lambda n, s: n != one,
        lambda n, s: rng.random() < chance,
    ]
    return rng.choice(ways)


class _File:
    """The bytes of a file that are on the disk, and the operations that may not be."""

    def __init__(self, durable: bytes = b"") -> None:
        self._durable = bytearray(durable)
        self.pending: list[tuple[int, Event]] = []

    def synced(self, before: int) -> None:
        """Put on the disk all operations before the one with this number."""
        for number, event in self.pending:
            if number < before:
                _do(self._durable, number, event, all_is_kept, b"\0")
        self.pending = [pair for pair in self.pending if pair[0] >= before]

    def after(self, keeps: Keeps, never_written: bytes) -> bytes:
        content = bytearray(self._durable)
        for number, event in self.pending:
            _do(content, number, event, keeps, never_written)
        return bytes(content)


def _do(content: bytearray, number: int, event: Event, keeps: Keeps, never_written: bytes) -> None:
    if event.kind == "T":
        if keeps(number, 0):
            _resize(content, event.at, b"\0")
        return
    end = event.at + len(event.data)
    for sector in range(event.at // SECTOR_BYTES, -(-end // SECTOR_BYTES)):
        start = max(event.at, sector * SECTOR_BYTES)
        stop = min(end, (sector + 1) * SECTOR_BYTES)
        if keeps(number, sector - event.at // SECTOR_BYTES):
            if start > len(content):
                _resize(content, start, never_written)
            content[start:stop] = event.data[start - event.at : stop - event.at]


def _resize(content: bytearray, size: int, never_written: bytes) -> None:
    more = size - len(content)
    content += (never_written * (more // len(never_written) + 1))[: max(0, more)]
    del content[size:]


class Disk:
    """What is on the disk, and what may not be yet, at one point of a record."""

    def __init__(self, state_file: Path) -> None:
        """Begin with the disk as it is before the process: a state file without a log."""
        assert not state_file.with_name(LOG).exists()
        inode = state_file.stat().st_ino
        self._files = {inode: _File(state_file.read_bytes())}
        self._names: dict[str, int] = {NAME: inode}
        self._names_pending: list[tuple[int, str, int | None]] = []
        self._begun: dict[int, int] = {}
        self._number = 0

    def follow(self, event: Event) -> bool:
        """Apply an event; return whether it concerns the disk."""
        self._number += 1
        if event.kind in "WT":
            self._files[event.file].pending.append((self._number, event))
        elif event.kind == "C":
            self._files[event.file] = _File()
            self._names_pending.append((self._number, event.data.decode(), event.file))
        elif event.kind == "U":
            self._names_pending.append((self._number, event.data.decode(), None))
        elif event.kind == "B":
            self._begun[event.at] = self._number
        elif event.kind == "E":
            self._synced(event.file, self._begun.pop(event.at))
        else:
            return False
        return True

    def _synced(self, file: int, before: int) -> None:
        if file != FOLDER:
            self._files[file].synced(before)
            return
        for number, name, inode in self._names_pending:
            if number < before:
                _name(self._names, name, inode)
        self._names_pending = [entry for entry in self._names_pending if entry[0] >= before]

    @property
    def pending(self) -> list[int]:
        """Return the numbers of the operations that may be lost."""
        numbers = [entry[0] for entry in self._names_pending]
        numbers += [number for file in self._files.values() for number, _ in file.pending]
        return sorted(numbers)

    def after_power_loss(self, keeps: Keeps, never_written: bytes = b"\0") -> Files:
        """Return the files after a power loss, by their names."""
        names = dict(self._names)
        for number, name, inode in self._names_pending:
            if keeps(number, 0):
                _name(names, name, inode)
        return {
            name: self._files[inode].after(keeps, never_written) for name, inode in names.items()
        }


def _name(names: dict[str, int], name: str, inode: int | None) -> None:
    if inode is None:
        names.pop(name, None)
    else:
        names[name] = inode


class Commits:
    """The content of the database after each commit, read from the pages of the log."""

    def __init__(self, state_file: Path) -> None:
        content = state_file.read_bytes()
        starts = range(0, len(content), PAGE_BYTES)
        self._pages = [content[start : start + PAGE_BYTES] for start in starts]
        self._log = bytearray()
        self._log_inode: int | None = None
        self._frames = 0  # how many frames of the log are committed
        self.count = 0
        self.numbers = {digest(content): 0}  # the last commit that left a content, by its digest

    def follow(self, event: Event) -> None:
        if event.kind == "C" and event.data.decode() == LOG:
            self._log_inode, self._log, self._frames = event.file, bytearray(), 0
        elif event.kind == "W" and event.file == self._log_inode:
            _do(self._log, 0, event, all_is_kept, b"\0")
            if event.at == 0:
                self._frames = 0  # the log starts over
            elif len(event.data) == PAGE_BYTES:
                self._written(event.at - FRAME_HEADER_BYTES)
            else:
                assert len(event.data) == FRAME_HEADER_BYTES

    def _written(self, at: int) -> None:
        """Take up a whole frame; one that ends a transaction has the size of the database."""
        size_pages = int.from_bytes(self._log[at + 4 : at + 8])
        if size_pages == 0:
            return
        frame_bytes = FRAME_HEADER_BYTES + PAGE_BYTES
        first = LOG_HEADER_BYTES + self._frames * frame_bytes
        for start in range(first, at + 1, frame_bytes):
            number = int.from_bytes(self._log[start : start + 4])
            data = start + FRAME_HEADER_BYTES
            self._pages += [b""] * (number - len(self._pages))
            self._pages[number - 1] = bytes(self._log[data : data + PAGE_BYTES])
        del self._pages[size_pages:]
        self._frames = (at - LOG_HEADER_BYTES) // frame_bytes + 1
        self.count += 1
        self.numbers[digest(b"".join(self._pages))] = self.count


def digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


@dataclass
class Outcome:
    """The results of many power losses."""

    points: int = 0  # after how many events the power failed
    states: int = 0  # how many states of the disk were examined
    contents: set[bytes] = field(default_factory=set)  # of the database, as found
    answers: int = 0  # how many answers the process gave
    lost: list[str] = field(default_factory=list)  # what was acknowledged and is missing
    unsound: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.points} points, {self.states} states of the disk, {len(self.contents)}"
            f" contents of the database, {self.answers} answers;"
            f" {len(self.lost)} lose something, {len(self.unsound)} are unsound"
        )


class Examiner:
    """Opens the files of a disk with SQLite, in a folder of its own, and checks them."""

    def __init__(self, folder: Path, commits: Commits) -> None:
        folder.mkdir()
        self._folder = folder
        self._commits = commits
        self._faults: dict[bytes, list[str]] = {}
        self._there: Files = {}
        self.found: set[bytes] = set()

    def look(self, files: Files, query: str = "") -> tuple[int, set[str], list[str]]:
        """Return the number of the last commit, the first column of a query, and the faults.

        The number is -1 if the content is that of no commit or can't be read.
        """
        self._put(files)
        try:
            return self._look(query)
        except apsw.Error as error:
            return -1, set(), [f"{type(error).__name__}: {error}"]

    def _put(self, files: Files) -> None:
        """Put just these files into the folder; most are unchanged since the last state."""
        for path in self._folder.iterdir():
            if path.name not in files or self._there.get(path.name) != files[path.name]:
                path.unlink()  # file systems sync a file that is truncated and written again
        for name, content in files.items():
            if self._there.get(name) != content:
                (self._folder / name).write_bytes(content)
        self._there = files

    def _look(self, query: str) -> tuple[int, set[str], list[str]]:
        db = apsw.Connection(str(self._folder / NAME), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            # Only for speed: otherwise close() would move the log into the file.
            db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            content = digest(_content(db))
            if content not in self._faults:
                self._faults[content] = list(_faults(db))
            self.found.add(content)
            faults = list(self._faults[content])
            number = self._commits.numbers.get(content, -1)
            if number < 0:
                faults.append("the content is that of no commit")
            rows = {str(row[0]) for row in db.execute(query)} if query else set()
            return number, rows, faults
        finally:
            db.close()


def _content(db: apsw.Connection) -> bytes:
    """Return all pages of a database, also those that are still in the log."""
    content = db.serialize("main")
    if content is None:  # a page can't be read; a query may raise SQLite's reason
        db.execute("SELECT * FROM sqlite_schema").fetchall()
        raise apsw.CorruptError("its pages can't be read")
    return bytes(content)


def _faults(db: apsw.Connection) -> Iterator[str]:
    answer = db.pragma("integrity_check")
    if answer != "ok":
        yield f"integrity_check: {answer}"
    broken = db.execute("PRAGMA foreign_key_check").fetchall()
    if broken:
        yield f"foreign_key_check: {broken[:3]}"


class Promises:
    """What must be on the disk, by the answers that the process has given so far.

    `commit` follows from marks: "acknowledged 7" promises all that was committed at the mark
    "asked 7".
    `values` follow from answers over HTTP: a 2xx promises the value that was sent from the port to
    which it goes.
    """

    def __init__(self, sent: Mapping[int, str]) -> None:
        self._sent = sent
        self._asked: dict[str, int] = {}
        self.commit = 0
        self.values: set[str] = set()
        self.answers = 0

    def follow(self, event: Event, commits: int) -> None:
        if event.kind == "M":
            word, _, number = event.data.decode().partition(" ")
            if word == "asked":
                self._asked[number] = commits
            else:
                self.answers += 1
                self.commit = max(self.commit, self._asked[number])
        elif event.kind == "A" and event.data.startswith(b"HTTP/1.1 2") and event.at in self._sent:
            self.answers += 1
            self.values.add(self._sent[event.at])


def fail_everywhere(
    events: list[Event],
    disk: Disk,
    examiner: Examiner,
    commits: Commits,
    rng: random.Random,
    *,
    states: int,
    points: float = 1.0,
    sent: Mapping[int, str] | None = None,
    query: str = "",
) -> Outcome:
    """Let the power fail after events of a record, and examine what is on the disk.

    It fails after the fraction `points` of the events, in `states` ways after each.  `sent` has the
    values that were sent over HTTP, by the port of the client; `query` finds them.
    """
    outcome, promises = Outcome(), Promises(sent or {})
    followed = 0
    for at, event in enumerate(events):
        while followed <= _whole_at(events, at):
            commits.follow(events[followed])
            followed += 1
        promises.follow(event, commits.count)
        if not disk.follow(event) or rng.random() >= points:
            continue
        outcome.points += 1
        pending = disk.pending
        for _ in range(states if pending else 1):
            keeps = some_way(rng, pending)
            noise = rng.choice([b"\0", rng.randbytes(SECTOR_BYTES)])
            number, found, faults = examiner.look(disk.after_power_loss(keeps, noise), query)
            outcome.states += 1
            outcome.unsound += [f"after event {at}: {fault}" for fault in faults]
            if number < promises.commit:
                outcome.lost.append(f"after event {at}: commit {number}, not {promises.commit}")
            if missing := promises.values - found:
                outcome.lost.append(f"after event {at}: {sorted(missing)}")
    outcome.answers, outcome.contents = promises.answers, examiner.found
    return outcome


def _whole_at(events: list[Event], at: int) -> int:
    """Return the index of the event after which the frame that this event begins may be whole.

    That is the next write to the log, of the page; but the page may be there already, from the log
    that was written at this place before.  If this event begins no frame, returns its own index.
    """
    file = events[at].file
    if events[at].kind == "W" and len(events[at].data) == FRAME_HEADER_BYTES:
        for later in range(at + 1, len(events)):
            if (events[later].kind, events[later].file) == ("W", file):
                return later
    return at


def is_all_recorded(disk: Disk, state_file: Path) -> bool:
    """Return whether the record explains every byte of the files that the process has left."""
    left = {
        path.name: path.read_bytes()
        for path in (state_file, state_file.with_name(LOG))
        if path.exists()
    }
    return disk.after_power_loss(all_is_kept) == left


def seed() -> int:
    """Return and print the seed in LITEBOT_POWER_SEED, or a random one."""
    number = int(os.environ.get("LITEBOT_POWER_SEED") or random.SystemRandom().randrange(10**6))
    print(f"LITEBOT_POWER_SEED={number}")
    return number
