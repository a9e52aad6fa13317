"""The turn queue: runs all database work of one reactor turn, or of a few, in one transaction.

It takes the place of Buildbot's DBThreadPool and has the same interface, so that every connector
component and plugin runs on it unchanged.  Work is queued.  Once per reactor turn the queue is
drained in order between BEGIN IMMEDIATE and COMMIT, each piece of work in a savepoint of its own.
Results are delivered in a later turn than the one that submitted the work, as from a thread.

The commit comes before the delivery; or, as a *group commit*, up to `group_commit_s` later, so that
a page which many pieces of work change is written once.  Whoever acts on the outside world waits
for committed() or on_disk() first.  So a kill can only undo work that had no effect outside, and it
undoes all or nothing of a transaction.

Work that only reads for a request sees committed data, on connections of its own: short reads
inline, all others in threads.
"""

from __future__ import annotations

import errno
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import sqlalchemy as sa
from twisted.internet import defer
from twisted.python import log
from twisted.python.failure import Failure

from litebot.errors import StoreFailed
from litebot.master.db.dispatcher import TURN_S
from litebot.master.db.dispatcher import Dispatcher
from litebot.master.db.pool import EXPECTED
from litebot.master.db.pool import Pool
from litebot.master.db.pool import Work
from litebot.master.db.sqlite.checkpointer import Checkpointer
from litebot.master.db.sqlite.commit_watermark import CommitWatermark
from litebot.master.db.sqlite.read_pool import SqliteReadPool
from litebot.master.db.sqlite.wal_sync import Syncer
from litebot.store import dbapi
from litebot.store.dialect import engine_on
from litebot.store.sql import ApswSql

BUSY_RETRY_S = 0.010
BUSY_LOG_EVERY_S = 5.0
BUSY_GIVE_UP_S = 60.0

# A sync reports a full disk by these, where space is only allocated when data are written out.
NO_SPACE_ERRNOS = (errno.ENOSPC, errno.EDQUOT)


class TurnQueue(Pool):
    """Runs database work on the thread that made the queue (the reactor's), one transaction a turn.

    `handle` is the only connection that writes.  `path` is its file, or None for a database in
    memory, which nobody else can read and which needs no checkpoints.  `on_failure` is called once,
    with a StoreFailed, when the disk fails; from then on all work fails with it.  `sync_later` is
    for a handle that does not sync at a commit; on_disk() then does.  `group_commit_s` is how long
    a commit may wait for more work, and the minimum time between two; with 0 each turn commits.
    """

    _readers: SqliteReadPool | None

    def __init__(
        self,
        handle: apsw.Connection,
        reactor: Any,
        path: Path | None = None,
        on_failure: Callable[[StoreFailed], None] | None = None,
        *,
        sync_later: bool = False,
        group_commit_s: float = 0.0,
    ) -> None:
        super().__init__()
        self.engine = engine_on(handle, check=self._check_thread, on_fatal=self._record_fatal_error)
        self.reactor = reactor
        self.path = path
        self.failure: StoreFailed | None = None
        self._handle = handle
        self._thread = threading.get_ident()
        self._readers = SqliteReadPool(path, reactor) if path else None
        self._checkpointer = Checkpointer(handle, path, reactor, self.fail) if path else None
        self._syncer = Syncer(path, reactor, self.fail) if path and sync_later else None
        self._watermark: CommitWatermark | None = None
        self._changes_at_commit = handle.total_changes()
        self._group_commit_s = group_commit_s
        self._group_commit: Any = None
        self._committed_at = 0.0
        self._awaiting_commit: list[defer.Deferred[None]] = []
        self._on_failure = on_failure
        self._queue: deque[Work] = deque()
        self._inline_reads: deque[Work] = deque()  # inline reads whose commit is done
        self._inline_scheduled = False
        self._dispatcher = Dispatcher(reactor, lambda: self.is_busy, self._commit_all)
        self._scheduled = False
        self._in_turn = False
        self._connection: sa.engine.Connection | None = None
        self._sql = ApswSql(handle, self.engine, self._record_fatal_error)
        self._fatal_error: dbapi.Error | None = None
        self._busy_since: float | None = None
        self._busy_logged_at = 0.0

    # the interface that Buildbot calls

    @defer.inlineCallbacks
    def stop(self) -> Any:
        """Finish the work submitted so far, abort reads for requests, and close all connections."""
        if not self.running:
            return
        try:
            while self._queue:
                yield self.do(lambda _conn: None)
        except StoreFailed:
            pass  # on_failure was called; only the connections remain to be closed
        self.commit()
        self.running = False
        if self._readers is not None:
            self._readers.stop()
        while self._inline_reads:
            self._refuse(self._inline_reads.popleft())
        self._dispatcher.stop()
        if self._checkpointer is not None:
            yield self._checkpointer.stop()
        if self._syncer is not None:
            yield self._syncer.stop()
        if self._connection is not None:
            self._connection.close()
        if self._watermark is not None:
            self._watermark.close()
        self.engine.dispose()
        self._handle.close()

    def committed(self) -> defer.Deferred[None]:
        """Fires when all work done so far is committed, so that a kill won't undo it.

        Commits at once if the last commit was at least `group_commit_s` ago.  Fails with
        StoreFailed.
        """
        if self.failure is not None:
            return defer.fail(StoreFailed(self.failure.what, self.failure.hint))
        if self._group_commit is None:
            return defer.succeed(None)
        d: defer.Deferred[None] = defer.Deferred()
        self._awaiting_commit.append(d)
        wait_s = self._committed_at + self._group_commit_s - self.reactor.seconds()
        if wait_s > 0:
            self._group_commit.reset(min(wait_s, self._group_commit_s))
        else:
            self.commit()
        return d

    def on_disk(self) -> defer.Deferred[None]:
        """Fires when all work done so far will survive a power loss.  Fails with StoreFailed."""
        d = self.committed()
        if self._syncer is not None:
            syncer = self._syncer
            d.addCallback(lambda _: syncer.on_disk())
        return d

    @property
    def _works(self) -> bool:
        return self._group_commit is not None

    def _commit_all(self) -> bool:
        """Commit, and return whether no work is left in the queue."""
        self.commit()
        return not self._queue

    def count_commits(self, watermark: CommitWatermark) -> None:
        """Count all commits from now on, and record in `watermark` how many are on disk."""
        self._watermark = watermark
        if self._syncer is not None:
            self._syncer.watermark = watermark

    def commit(self) -> None:
        """Commit at once what waits for a group commit."""
        if self._group_commit is None:
            return
        try:
            self._commit()
        except (apsw.Error, dbapi.Error, OSError) as error:
            self.fail(error)
        self._fire_committed()

    # the turn

    def _enqueue(self, work: Work) -> None:
        if work.is_short and work.for_reader and self._can_skip_queue(work):
            self._read_when_committed(work)
            return
        self._queue.append(work)
        self._schedule()

    def _can_skip_queue(self, work: Work) -> bool:
        """Whether the work of a request need not wait for the work in the queue.

        That is so if the queue is empty, or if the request has waited for a commit already.
        """
        assert work.snapshot is not None
        return not self._in_turn and (work.snapshot.has_waited or not self._queue)

    def _schedule(self) -> None:
        # callFromThread is cheaper than callLater, and a test reactor runs it at once, as
        # Buildbot's tests expect of their thread pool.
        if not self._scheduled and not self._in_turn:
            self._scheduled = True
            self.reactor.callFromThread(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        if not self._queue or not self.running:
            return
        done: list[Work] = []
        reads: list[Work] = []
        self._in_turn = True
        try:
            self._drain(done, reads)
            if self._handle.in_transaction:
                if self._group_commit_s:
                    self._commit_soon()
                else:
                    self._commit()
        except (apsw.Error, dbapi.Error, sa.exc.DBAPIError, OSError) as error:
            # None of this turn's work is committed, so it fails together with what is queued.
            self._queue.extendleft(reversed(done + reads))
            done, reads = [], []
            self.fail(error)
        finally:
            self._in_turn = False
        if self._group_commit is None:
            self._fire_committed()
        for work in reads:
            self._read_when_committed(work)
        for work in done:
            if self.failure is not None:  # a commit that a read waited for has just failed
                self._refuse(work)
            else:
                work.deliver()
        if self._queue:
            self._schedule()

    def _commit_soon(self) -> None:
        """Commit after `group_commit_s`, together with the work that comes until then."""
        if self._group_commit is None:
            self._group_commit = self.reactor.callLater(self._group_commit_s, self.commit)

    def _commit(self) -> None:
        if self._group_commit is not None:
            if self._group_commit.active():
                self._group_commit.cancel()
            self._group_commit = None
        wrote = self._handle.total_changes() != self._changes_at_commit
        if self._handle.in_transaction:  # not where VACUUM has ended it
            content = (
                self._watermark.count(self._sql) if self._watermark is not None and wrote else None
            )
            self._handle.execute("COMMIT")
            if self._watermark is not None and content is not None:
                self._watermark.committed = content
                if self._syncer is None:
                    self._watermark.record(content)
        self._committed_at = self.reactor.seconds()
        self._changes_at_commit = self._handle.total_changes()
        if wrote:
            self._worked_at = time.monotonic()
            if self._syncer is not None:
                self._syncer.committed()

    def _fire_committed(self) -> None:
        """Fire the Deferreds that wait for a commit.  If it failed, fail() has emptied the list."""
        waiting, self._awaiting_commit = self._awaiting_commit, []
        for d in waiting:
            d.callback(None)

    def _drain(self, done: list[Work], reads: list[Work]) -> None:
        """Run queued work for at most TURN_S.  Raises an error of the disk."""
        ends_at = time.monotonic() + TURN_S
        while self._queue:
            if self._queue[0].for_reader:
                # It starts after the commit, so that it sees all work submitted before it.
                reads.append(self._queue.popleft())
                continue
            if not self._handle.in_transaction and not self._begin():
                return
            work = self._queue.popleft()
            done.append(work)
            work.result = self._run(work)
            self._clean_up_connection()
            if self._fatal_error is not None:
                raise self._fatal_error
            if time.monotonic() > ends_at:
                return

    def _begin(self) -> bool:
        """Take the write lock, and return whether that worked.

        If another process has the lock, the turn is tried again later.
        """
        try:
            self._handle.execute("BEGIN IMMEDIATE")
        except apsw.BusyError:
            self._wait_for_lock()
            return False
        self._busy_since = None
        return True

    def _run(self, work: Work) -> Any:
        """Return the result of one piece of work, or its Failure."""
        try:
            return self._call(work)
        except BaseException as error:  # the other pieces must get their results
            if not isinstance(error, EXPECTED) and self._fatal_error is None:
                log.err(error, "Got fatal Exception on DB")
            return Failure()

    def _clean_up_connection(self) -> None:
        """Close unread cursors, and undo what a piece of work did not commit and what it set."""
        conn = self._connection
        if conn is None or conn.closed:
            return
        dbapi_connection = conn.connection.dbapi_connection
        assert isinstance(dbapi_connection, dbapi.Connection)
        dbapi_connection.close_cursors()
        conn.rollback()
        if conn.get_execution_options():
            conn.close()

    def _call(self, work: Work) -> Any:
        if work.on == "sql":
            return self._sql.run(work.callable, *work.args)
        if work.on == "engine":
            return work.run(self.engine)
        if self._connection is None or self._connection.closed:
            self._connection = self.engine.connect()
        return work.run(self._connection)

    def _check_thread(self) -> None:
        if threading.get_ident() != self._thread:
            raise dbapi.ProgrammingError(
                "the master's database connection belongs to the reactor's thread; use"
                " master.db.pool.do"
            )

    def _read_when_committed(self, work: Work) -> None:
        """Read for a request as soon as all work done so far is committed."""
        assert work.snapshot is not None
        if work.snapshot.has_waited:
            self._read_now(None, work)
            return
        self.committed().addCallbacks(
            self._read_now, self._refuse_read, callbackArgs=(work,), errbackArgs=(work,)
        )

    def _read_now(self, _committed: None, work: Work) -> None:
        assert work.snapshot is not None
        work.snapshot.mark_waited()
        if not work.is_short:
            self._read(work)
            return
        self._inline_reads.append(work)
        self._read_inline_soon()

    def _read_inline_soon(self) -> None:
        if not self._inline_scheduled:
            self._inline_scheduled = True
            self.reactor.callFromThread(self._read_all_inline)

    def _read_all_inline(self) -> None:
        """Do short reads on this thread for at most TURN_S."""
        ends_at = time.monotonic() + TURN_S
        while self._inline_reads and time.monotonic() < ends_at:
            self._read_inline(self._inline_reads.popleft())
        self._inline_scheduled = False
        if self._inline_reads:
            self._read_inline_soon()

    def _read_inline(self, work: Work) -> None:
        """Read inline and deliver the result, or read in a thread if that takes too long."""
        assert self._readers is not None
        try:
            work.result = self._readers.read_inline(work.callable, *work.args)
        except Exception:  # in a thread it has time to succeed, or fails with its own error
            self._read(work)
        else:
            work.deliver()

    def _refuse_read(self, _failure: Failure, work: Work) -> None:
        self._refuse(work)

    def _is_refused_write(self, error: BaseException) -> bool:
        return isinstance(error, dbapi.ReadOnlyError)

    def _is_fatal(self, error: BaseException) -> bool:
        if isinstance(error, dbapi.FATAL):
            self.fail(error)
        return self.failure is not None

    # when the disk fails

    def _record_fatal_error(self, error: dbapi.Error) -> None:
        self._fatal_error = error

    def _wait_for_lock(self) -> None:
        """Try the turn again soon: another process writes to the file, although none should.

        Raises BusyError when that has lasted for BUSY_GIVE_UP_S.
        """
        now = time.monotonic()
        if self._busy_since is None:
            self._busy_since = self._busy_logged_at = now
        waited_s = now - self._busy_since
        if waited_s > BUSY_GIVE_UP_S:
            raise dbapi.BusyError(f"locked for {BUSY_GIVE_UP_S:.0f} s")
        if now - self._busy_logged_at > BUSY_LOG_EVERY_S:
            self._busy_logged_at = now
            log.msg(
                f"{self._handle.filename} has been locked by another process for"
                f" {waited_s:.0f} s; waiting until it is unlocked"
            )
        self._scheduled = True
        self.reactor.callLater(BUSY_RETRY_S, self._turn)

    def fail(self, error: Exception) -> StoreFailed:
        """Fail all queued and all later work, and call on_failure once; return the failure."""
        if self.failure is None:
            self.failure = store_failed(self._handle.filename, error)
            if self._handle.in_transaction:
                try:
                    self._handle.execute("ROLLBACK")
                except apsw.Error as second:
                    log.msg(f"rollback after {error}: {second}")
            if self._on_failure is not None:
                self._on_failure(self.failure)
        while self._queue:
            self._refuse(self._queue.popleft())
        waiting, self._awaiting_commit = self._awaiting_commit, []
        for d in waiting:
            d.errback(StoreFailed(self.failure.what, self.failure.hint))
        return self.failure


def store_failed(filename: str, error: Exception) -> StoreFailed:
    """Return the error that tells the user how the disk failed under a running master."""
    error = getattr(error, "orig", None) or error
    if isinstance(error, apsw.Error):
        error = dbapi.translate(error)
    kept = ", and nothing that it had acknowledged is lost"
    if isinstance(error, dbapi.FullDiskError) or getattr(error, "errno", None) in NO_SPACE_ERRNOS:
        what, hint = "no space is left to write it", "free some space, then: litebot start BASEDIR"
    elif isinstance(error, dbapi.DamagedError):
        what, hint = "a page of it is damaged", "restore a backup of it; the old file may tell more"
        kept = ""
    elif isinstance(error, dbapi.BusyError):
        what, hint = "another process keeps it locked", "stop the other process: fuser -v FILE"
    elif isinstance(error, dbapi.ReadOnlyError):
        what, hint = "it can't be written any more", "check its permissions and its file system"
    else:
        what, hint = "the operating system refused to read or write it", "check the disk: dmesg"
    code = getattr(error, "code", None)
    reason = f"{error}, code {code}" if code is not None else f"{error}"
    return StoreFailed(
        f"{filename}: {what} ({reason}); the master stops{kept}", hint.replace("FILE", filename)
    )
