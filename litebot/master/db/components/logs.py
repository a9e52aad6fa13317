"""Logs: lines that are appended within GATHER_S become one chunk, written in one transaction.

Source: buildbot/db/logs.py and buildbot/data/logs.py, whose names and models these keep.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator
from collections.abc import Callable
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from buildbot.db import logs
from twisted.internet import defer
from twisted.python import log
from twisted.python.failure import Failure

from litebot.master.db.components.log_texts import texts
from litebot.master.db.components.pruning import delete_log_chunks
from litebot.master.db.components.values import INTEGRITY_ERRORS
from litebot.master.db.components.values import encodable
from litebot.master.db.read_pool import read_snapshot
from litebot.master.runtime.deferreds import when_fired
from litebot.store.sql import Row
from litebot.store.sql import Sql

GATHER_S = 0.050
# Longer ones are cut, and say so.  Buildbot cuts those that can't be compressed to 64 KiB, which no
# database needs.
LONGEST_LINE_BYTES = 64 * 1024 * 1024
GATHER_BYTES = logs.LogsConnectorComponent.MAX_CHUNK_SIZE
# If a log grows faster than it can be stored, appending to it waits from this size on.
BACKLOG_BYTES = 16 * GATHER_BYTES
# Up to this size compressing takes less time than handing it to a thread.
COMPRESS_HERE_BYTES = 4096
READ_CHUNKS = 16
# A piece of a long answer is made of so many chunks, or of less if they are long.
READ_SMALL_CHUNKS = 200
READ_BYTES = 192 * 1024
YIELD_EVERY = 20

COLUMNS = "id, name, slug, stepid, complete, num_lines, type"

# Content without its last newline, the id of its compression, and its number of lines.
Chunk = tuple[bytes, int, int]


def model_of(row: Row) -> logs.LogModel:
    """Return the model of a row of COLUMNS."""
    id, name, slug, stepid, complete, num_lines, type = row
    return logs.LogModel(id, name, slug, stepid, bool(complete), num_lines, type)


@dataclasses.dataclass(slots=True, eq=False)
class Gathered:
    """Lines of one log that are not in the database yet; `model` is the log as it is there."""

    model: logs.LogModel
    num_lines: int = 0  # including the lines that are not stored yet
    lines: list[bytes] = dataclasses.field(default_factory=list)
    size: int = 0
    writing: defer.Deferred[None] | None = None
    failure: Failure | None = None


class LogsConnectorComponent(logs.LogsConnectorComponent):
    """Buildbot's, with `gather`; splits chunks so that they keep Buildbot's limits.

    `on_append` is called with the LogModel each time gathered lines have been stored.
    """

    on_append: Callable[[logs.LogModel], None] | None = None

    def __init__(self, connector: Any) -> None:
        super().__init__(connector)
        self._gathered: dict[int, Gathered] = {}
        self._to_write: set[Gathered] = set()
        self._timer: Any = None
        self._answer_count = 0

    @defer.inlineCallbacks
    def stopService(self) -> Any:
        """Store the lines that wait, and stop."""
        for logid in list(self._gathered):
            yield self._flush(logid)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        yield super().stopService()

    # reading

    @defer.inlineCallbacks
    def getLog(self, logid: int) -> Any:
        yield self._flush(logid)
        return (yield self.db.do_sql(self._thd_log, "id = ?", logid))

    @defer.inlineCallbacks
    def getLogBySlug(self, stepid: int, slug: str) -> Any:
        yield self._flush_step(stepid)
        return (yield self.db.do_sql(self._thd_log, "slug = ? AND stepid = ?", slug, stepid))

    @defer.inlineCallbacks
    def getLogs(self, stepid: int | None = None) -> Any:
        yield self._flush_step(stepid)
        if stepid is None:
            return (yield super().getLogs())

        def thd(sql: Sql) -> list[logs.LogModel]:
            query = f"SELECT {COLUMNS} FROM logs WHERE stepid = ? ORDER BY id"
            return [model_of(row) for row in sql.rows(query, stepid)]

        return (yield self.db.do_sql(thd))

    @staticmethod
    def _thd_log(sql: Sql, where: str, *parameters: Any) -> logs.LogModel | None:
        row = sql.row(f"SELECT {COLUMNS} FROM logs WHERE {where}", *parameters)
        return None if row is None else model_of(row)

    async def iter_log_lines(
        self, logid: int, first_line: int = 0, last_line: int | None = None
    ) -> AsyncGenerator[str, None]:
        """Yield each line with its newline.  A thread decompresses one chunk at a time."""
        await self._flush(logid)
        until = 2**62 if last_line is None else last_line
        while chunks := await self.db.do_sql(_thd_chunks, logid, first_line, until):
            for start, end, content, compressed in chunks:
                lines = await self._defer_to_compression_pool(self._decompress, content, compressed)
                for line in lines[max(0, first_line - start) : until - start + 1]:
                    yield line
                first_line = end + 1

    async def iter_texts(
        self, logid: int, first_line: int = 0, last_line: int | None = None, *, strip: bool = False
    ) -> AsyncGenerator[str, None]:
        """Do as iter_log_lines, but yield many lines at once, or parts of one that is very long.

        `strip` leaves out the first character of each line, which is the stream of a "s" log.
        """
        await self._flush(logid)
        until = 2**62 if last_line is None else last_line
        while chunks := await self.db.do_sql(_thd_some_chunks, logid, first_line, until):
            with_compressors = [
                (start, end, content, self._get_compressor(compressed))
                for start, end, content, compressed in chunks
            ]
            found = texts(with_compressors, first_line, until, strip=strip)
            while text := await self._defer_to_compression_pool(next, found, ""):
                yield text
            first_line = chunks[-1][1] + 1

    def _decompress(self, content: bytes, compressed: int) -> list[str]:
        text = self._get_compressor(compressed).read(content).decode()
        return [f"{line}\n" for line in text.split("\n")]

    # deleting

    def deleteOldLogChunks(self, older_than_timestamp: int) -> defer.Deferred[int]:
        return defer.ensureDeferred(delete_log_chunks(self.db, older_than_timestamp))

    # writing

    def addLog(self, stepid: int, name: str, slug: str, type: str) -> Any:
        """Start a log.  Raises LogSlugExistsError."""
        assert type in "tsh", "Log type must be one of t, s, or h"

        def thd(sql: Sql) -> int:
            row = {"name": name, "slug": slug, "stepid": stepid, "complete": 0, "num_lines": 0}
            try:
                return sql.insert("logs", **row, type=type)
            except INTEGRITY_ERRORS as error:
                raise logs.LogSlugExistsError(
                    f"log with slug '{slug!r}' already exists in this step"
                ) from error

        return self.db.do_sql(thd)

    @defer.inlineCallbacks
    def appendLog(self, logid: int, content: str) -> Any:
        """Store whole lines.

        Returns the numbers of the first and the last line, or None if there is no such log.
        """
        assert content[-1] == "\n"
        yield self._flush(logid)
        chunks = yield self._compress(logid, encodable(content).encode())
        return (yield self.db.do_sql(_thd_append, logid, chunks, False))

    def open(self, model: logs.LogModel) -> None:
        """Gather what is appended to this new log, until finishLog."""
        self._gathered[model.id] = Gathered(model)

    def is_open(self, logid: int) -> bool:
        """Return whether what is appended to this log is gathered."""
        return logid in self._gathered

    def type_of(self, logid: int) -> str | None:
        """Return the type of an open log: "s" if its lines begin with the letter of a stream."""
        gathered = self._gathered.get(logid)
        return None if gathered is None else gathered.model.type

    def gather(self, logid: int, content: str) -> Any:
        """Do as appendLog for an open log, but store the lines soon, together with what follows."""
        gathered = self._gathered[logid]
        if gathered.failure is not None:
            return defer.fail(gathered.failure)
        assert content[-1] == "\n"
        data = encodable(content).encode()
        first = gathered.num_lines
        gathered.num_lines += data.count(b"\n")
        gathered.lines.append(data)
        gathered.size += len(data)
        lines = (first, gathered.num_lines - 1)
        if gathered.size < GATHER_BYTES:
            self._write_soon(gathered)
            return self._answer(lines)
        writing = self._write(gathered)
        if gathered.size < BACKLOG_BYTES:
            return self._answer(lines)
        return when_fired(writing).addCallback(lambda _: lines)

    def _answer(self, lines: tuple[int, int]) -> defer.Deferred[tuple[int, int]]:
        """Return a Deferred that has fired; each YIELD_EVERY-th fires in a later turn.

        Callers that wait for a log's lock run each inside the answer to the one before, so many
        immediate answers in a row would overflow the stack.
        """
        self._answer_count += 1
        if self._answer_count % YIELD_EVERY:
            return defer.succeed(lines)
        d: defer.Deferred[tuple[int, int]] = defer.Deferred()
        self.master.reactor.callLater(0, d.callback, lines)
        return d

    @defer.inlineCallbacks
    def finishLog(self, logid: int) -> Any:
        """Store the lines that wait, and mark the log as complete.

        Returns its model, or None if there is no such log.
        """
        gathered = self._gathered.get(logid)
        if gathered is None:
            yield self.db.do_sql(_thd_append, logid, [], True)
            return (yield self.getLog(logid))
        while gathered.writing is not None:
            yield when_fired(gathered.writing)
        if gathered.failure is None:
            yield when_fired(self._write(gathered, complete=True))
        self._gathered.pop(logid, None)
        self._to_write.discard(gathered)
        if gathered.failure is not None:
            gathered.failure.raiseException()
        return gathered.model

    def _write_soon(self, gathered: Gathered) -> None:
        self._to_write.add(gathered)
        if self._timer is None:
            self._timer = self.master.reactor.callLater(GATHER_S, self._write_waiting)

    def _write_waiting(self) -> None:
        self._timer = None
        waiting, self._to_write = self._to_write, set()
        for gathered in waiting:
            self._write(gathered)

    def _write(self, gathered: Gathered, *, complete: bool = False) -> defer.Deferred[None]:
        """Store the lines that wait.  Fires when they are stored or lost, and never fails."""
        if gathered.writing is None:
            gathered.writing = defer.Deferred()
            d = self._write_all(gathered, complete)
            d.addErrback(self._write_failed, gathered)
            d.addBoth(self._write_ended, gathered)
        return gathered.writing or defer.succeed(None)

    @defer.inlineCallbacks
    def _write_all(self, gathered: Gathered, complete: bool) -> Any:
        while gathered.lines or gathered.model.complete != complete:
            data, num_lines = b"".join(gathered.lines), gathered.num_lines
            gathered.lines, gathered.size = [], 0
            chunks = yield self._compress(gathered.model.id, data)
            yield self.db.do_sql(_thd_append, gathered.model.id, chunks, complete)
            if data:
                self._on_written(gathered, num_lines)
            gathered.model.complete = complete
            if gathered.size < GATHER_BYTES and not complete:
                break
        if gathered.lines:
            self._write_soon(gathered)

    def _write_failed(self, failure: Failure, gathered: Gathered) -> None:
        gathered.failure = failure
        # If these lines were stored now, they would get the numbers of the lines that were lost.
        gathered.lines, gathered.size = [], 0
        log.err(failure, f"while storing lines of log {gathered.model.id}")

    def _write_ended(self, _result: Any, gathered: Gathered) -> None:
        writing, gathered.writing = gathered.writing, None
        assert writing is not None
        writing.callback(None)

    def _on_written(self, gathered: Gathered, num_lines: int) -> None:
        gathered.model.num_lines = num_lines
        if self.on_append is not None:
            self.on_append(gathered.model)

    @defer.inlineCallbacks
    def _flush(self, logid: int) -> Any:
        """Fires when what was gathered so far can be read.

        For work that reads from a read snapshot it fires at once.
        """
        gathered = self._gathered.get(logid)
        if gathered is None or read_snapshot.get():
            return
        if gathered.writing is not None:
            yield when_fired(gathered.writing)
        if gathered.lines or gathered.writing is not None:  # lines that came meanwhile
            yield when_fired(self._write(gathered))

    @defer.inlineCallbacks
    def _flush_step(self, stepid: int | None) -> Any:
        """Do as _flush for the logs of a step, or for all logs if `stepid` is None."""
        for logid, gathered in list(self._gathered.items()):
            if stepid in (None, gathered.model.stepid):
                yield self._flush(logid)

    # chunks

    def _compress(self, logid: int, data: bytes) -> defer.Deferred[list[Chunk]]:
        """Make chunks of these lines, in a thread if that takes long."""
        if len(data) <= COMPRESS_HERE_BYTES:
            return defer.succeed(self._make_chunks(logid, data))
        return self._defer_to_compression_pool(self._make_chunks, logid, data)

    def _make_chunks(self, logid: int, data: bytes) -> list[Chunk]:
        compression = self._get_configured_compressor()
        return [self._make_chunk(logid, part, *compression) for part in self._split(data)]

    def _split(self, data: bytes) -> Iterator[bytes]:
        """Yield whole lines within the limits of a chunk, or one line that is longer."""
        start = 0
        while start < len(data):
            end = start + self.MAX_CHUNK_SIZE
            if end < len(data):
                end = data.rfind(b"\n", start, end) + 1 or data.find(b"\n", end) + 1
            part = data[start:end]
            if part.count(b"\n") > self.MAX_CHUNK_LINES:
                lines = part.split(b"\n", self.MAX_CHUNK_LINES)
                part = part[: len(part) - len(lines[-1])]
            yield part
            start += len(part)

    def _make_chunk(self, logid: int, part: bytes, id: int, compressor: Any) -> Chunk:
        count = part.count(b"\n")
        raw = part[:-1]
        content = compressor.dumps(raw)
        if len(raw) > LONGEST_LINE_BYTES:  # one line, as several are split before
            log.msg(f"truncating long line for log {logid}")
            kept = raw[:LONGEST_LINE_BYTES].decode(errors="ignore").encode()
            raw = kept + b" [%d bytes of this line are not kept]" % (len(raw) - len(kept))
            content = compressor.dumps(raw)
        if len(content) < len(raw):
            return content, id, count
        return raw, self.NO_COMPRESSION_ID, count

    @defer.inlineCallbacks
    def compressLog(self, logid: int, force: bool = False) -> Any:
        """Join small chunks; return how many bytes that saved."""

        def thd(sql: Sql) -> bool:
            query = "SELECT 1 FROM logchunks WHERE logid = ? LIMIT 2"
            return len(sql.rows(query, logid)) > 1

        if force or (yield self.db.do_sql(thd)):
            return (yield super().compressLog(logid, force))
        return 0


def _thd_chunks(sql: Sql, logid: int, first_line: int, last_line: int) -> list[Row]:
    columns = "first_line, last_line, content, compressed"
    return sql.rows(_chunks(columns, READ_CHUNKS), logid, first_line, last_line)


def _thd_some_chunks(sql: Sql, logid: int, first_line: int, last_line: int) -> list[Row]:
    """Do as _thd_chunks, but return up to READ_BYTES; at least one chunk, if there is one."""
    place = (logid, first_line, last_line)
    sizes = [row[0] for row in sql.rows(_chunks("length(content)", READ_SMALL_CHUNKS), *place)]
    some = sum(total <= READ_BYTES for total in accumulate(sizes))
    return sql.rows(_chunks("first_line, last_line, content, compressed", max(1, some)), *place)


def _chunks(columns: str, limit: int) -> str:
    return (
        f"SELECT {columns} FROM logchunks WHERE logid = ? AND last_line >= ? AND first_line <= ?"
        f" ORDER BY first_line LIMIT {limit}"
    )


def _thd_append(
    sql: Sql, logid: int, chunks: list[Chunk], complete: bool
) -> tuple[int, int] | None:
    row = sql.row("SELECT num_lines FROM logs WHERE id = ?", logid)
    if row is None:
        return None
    first_line = next_line = row[0]
    for content, compressed, count in chunks:
        sql.write(
            "INSERT INTO logchunks (logid, first_line, last_line, content, compressed)"
            " VALUES (?, ?, ?, ?, ?)",
            *(logid, next_line, next_line + count - 1, content, compressed),
        )
        next_line += count
    if complete:
        sql.update("logs", logid, num_lines=next_line, complete=1)
    else:
        sql.update("logs", logid, num_lines=next_line)
    return first_line, next_line - 1
