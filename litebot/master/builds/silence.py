"""Workers that do not answer: noticed, given no builds, and after a while taken for lost.

Buildbot asks a worker once an hour and waits for the answer without an end.  A worker that stands
still, or whose network is dead, then keeps its builds until the kernel gives the connection up.

Time is counted in looks, not by a clock.  A master that itself stood still makes one look when it
goes on, and so does not take all of its workers for lost.
"""

from __future__ import annotations

import time
from typing import Any

from buildbot.util.lineboundaries import LineBoundaryFinder
from buildbot.worker import manager
from buildbot.worker.protocols import msgpack
from buildbot.worker.protocols import pb
from twisted.internet import defer
from twisted.python import log

from litebot.master.builds.whole_lines import LONGEST_OVER_WEBSOCKET
from litebot.master.builds.whole_lines import CutLines
from litebot.master.runtime.services import Following
from litebot.master.runtime.subclasses import put_before

# How many looks, each of which would see an answer, make up `[workers] silence`.
LOOKS = 6
# From so many looks without an answer on, the worker gets no builds.
SILENT_LOOKS = 2
INTERRUPT_ANSWERED_WITHIN_S = 5.0
# A worker answers nothing while it makes the archive of this command, which may take long; but no
# longer than so many times `[workers] silence`.
ARCHIVES, ARCHIVING_LOOKS = "uploadDirectory", 60 * LOOKS


class AnsweringConnection:
    """Put before Buildbot's connections to workers, for keepalives that time out.

    `lost_because` says why this connection was given up, if it was.
    """

    master: Any
    worker: Any
    lost_because: str | None = None
    _looks = 0  # how many there were since the worker was heard
    _archiving = 0  # how many archives it is told to make, and has not begun to send
    _heard: Any = None
    _question: defer.Deferred[None] | None = None

    @property
    def keepalive_interval(self) -> float:
        """The seconds between two looks."""
        return float(self.master.settings.workers.silence) / LOOKS

    @property
    def is_silent(self) -> bool:
        """Whether the worker has not answered for a while."""
        return self._looks >= SILENT_LOOKS and not self._archiving

    def ask(self) -> Any:
        """Ask the worker for an answer, of which its log says nothing; returns a Deferred."""
        raise NotImplementedError

    def abort(self) -> None:
        """Close the connection at once, without waiting for the worker."""
        raise NotImplementedError

    def _do_keepalive(self) -> None:
        """Look whether the worker was heard since the last look; Buildbot calls this."""
        self._keepalive_action_handler.set_interval(  # type: ignore[attr-defined]
            self.keepalive_interval
        )
        if self._heard != self.worker.lastMessageReceived:
            self._heard = self.worker.lastMessageReceived
            self._is_heard()
        elif self._question is not None:
            self._looks += 1
        if self._looks >= (ARCHIVING_LOOKS if self._archiving else LOOKS):
            self._give_up()
        elif self._question is None:
            self._ask()

    def _ask(self) -> defer.Deferred[None]:
        question: defer.Deferred[None] = defer.Deferred()
        self._question = question
        defer.maybeDeferred(self.ask).addBoth(self._answered)
        return question

    def _answered(self, _: Any) -> None:
        # An error is an answer, too: of the worker, or of the loss of the connection.
        question, self._question = self._question, None
        self._is_heard()
        if question is not None:
            question.callback(None)

    def _is_heard(self) -> None:
        was_silent, self._looks = self.is_silent, 0
        if was_silent and self.worker.conn is self:
            log.msg(f"litebot: the worker {self.worker.name} answers again")
            self.master.botmaster.maybeStartBuildsForWorker(self.worker.name)

    def _give_up(self) -> None:
        seconds = self.master.settings.workers.silence
        self.lost_because = f"the worker {self.worker.name} did not answer for {seconds} s"
        log.msg(f"litebot: {self.lost_because}, and is taken for lost")
        self.worker.lost = {"since": time.time(), "words": f"did not answer for {seconds} s"}
        self.abort()

    async def answers_within(self, timeout_s: float) -> bool:
        """Return whether the worker answers in time; one that does not counts as silent."""
        heard = self.worker.lastMessageReceived
        answered: defer.Deferred[None] = defer.Deferred()
        defer.maybeDeferred(self.ask).addBoth(lambda _: answered.callback(None))
        try:
            await answered.addTimeout(timeout_s, self.master.reactor)
        except defer.TimeoutError:
            if self._archiving or self.worker.lastMessageReceived != heard:
                return True  # what it has to send comes before its answer
            self._looks = max(self._looks, SILENT_LOOKS)
            return False
        return True

    def remoteStartCommand(
        self, remoteCommand: Any, builderName: Any, commandId: Any, commandName: str, args: Any
    ) -> Any:
        """Do as Buildbot does, and note that a worker makes an archive."""
        arguments = (remoteCommand, builderName, commandId, commandName, args)
        d = super().remoteStartCommand(*arguments)  # type: ignore[misc]
        if commandName == ARCHIVES:
            self._archiving += 1
            d.addBoth(self._has_archived)
        return d

    def _has_archived(self, result: Any) -> Any:
        self._archiving -= 1
        self._looks = 0
        return result

    def remoteInterruptCommand(self, *args: Any) -> Any:
        """Do as Buildbot does, but do not wait for a worker that does not answer."""
        d = super().remoteInterruptCommand(*args)  # type: ignore[misc]
        return d.addTimeout(INTERRUPT_ANSWERED_WITHIN_S, self.master.reactor)


class PBConnection(AnsweringConnection, pb.Connection):
    """A connection over PB.  A worker that loses it ends its commands by itself."""

    def remoteStartCommand(self, remoteCommand: Any, *args: Any) -> Any:
        """Do as Buildbot does; the log says what the worker cuts of long lines."""
        put_before(remoteCommand, CutLines)
        return super().remoteStartCommand(remoteCommand, *args)

    def ask(self) -> Any:
        return self.mind.callRemote("getVersion")

    def abort(self) -> None:
        self.stopKeepaliveTimer()
        self.mind.broker.transport.abortConnection()


class MsgpackConnection(AnsweringConnection, msgpack.Connection):
    """A connection over WebSocket.  A worker that loses it goes on with its commands."""

    def ask(self) -> Any:
        return self.remoteKeepalive()

    def abort(self) -> None:
        self.loseConnection()

    def _set_worker_settings(self) -> Any:
        """Have the worker cut only very long lines; the other settings are Buildbot's."""
        return self.protocol.get_message_result(
            {
                "op": "set_worker_settings",
                "args": {
                    "newline_re": LineBoundaryFinder.newline_re.pattern,
                    "max_line_length": LONGEST_OVER_WEBSOCKET,
                    "buffer_timeout": 5,
                    "buffer_size": 64 * 1024,
                },
            }
        )

    @defer.inlineCallbacks
    def attached(self, protocol: Any) -> Any:
        """Do as Buildbot does, and end the commands of the worker's last connection."""
        left, self.worker.left_commands = self.worker.left_commands, ()
        for command_id in left:
            d = protocol.get_message_result(
                {
                    "op": "interrupt_command",
                    "builder_name": "",
                    "command_id": command_id,
                    "why": "the connection to the master was lost",
                }
            )
            d.addErrback(lambda _: None)  # it has ended meanwhile
        yield super().attached(protocol)

    def detached(self, protocol: Any) -> None:
        """Do as Buildbot does, and note which commands the worker may still run."""
        self.worker.left_commands = tuple(protocol.command_id_to_command_map)
        super().detached(protocol)


class WorkerManager(Following, manager.WorkerManager):
    """`master.workers` of a litebot master, which makes these connections."""

    def __init__(self, master: Any) -> None:
        super().__init__(master)
        self.pb.ConnectionClass = PBConnection
        self.msgpack.ConnectionClass = MsgpackConnection
