"""The buildmaster: Buildbot's, put together with litebot's parts.  The one composition root."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from buildbot import master
from buildbot.config.errors import ConfigErrors
from buildbot.util.eventual import eventually
from twisted.internet import defer
from twisted.internet import error as internet_error
from twisted.python import log

from litebot.basedir import Basedir
from litebot.basedir import Owner
from litebot.basedir import OwnerLock
from litebot.errors import ConfigError
from litebot.errors import LitebotError
from litebot.errors import SettingsError
from litebot.errors import StoreFailed
from litebot.master import faults
from litebot.master import outcome
from litebot.master import preflight
from litebot.master import recovery
from litebot.master import rest
from litebot.master import schema
from litebot.master.config import ConfigLoader
from litebot.master.control import Control
from litebot.master.database import Database
from litebot.master.handover.changes import Handovers
from litebot.master.handover.components import install
from litebot.master.handover.mq import MQ_CLASS
from litebot.master.logged import logged_errors
from litebot.master.outbox import Outbox
from litebot.master.ports import require_free
from litebot.master.recovery.attempts import Attempts
from litebot.master.recovery.requests import complete_buildsets
from litebot.master.stopping import Interrupter
from litebot.master.stopping import let_end
from litebot.settings import Settings
from litebot.settings import load

# The name in the table masters.  Buildbot's is host:folder, so that a master which was moved would
# not know what it left claimed; a state file has one master, whatever it runs on.
SOLE_MASTER = "litebot"

# How long a master whose disk failed waits for its workers to let go of their builds.
ABANDON_S = 5.0


class BuildMaster(master.BuildMaster):
    """A Buildbot master on litebot's store; the arguments are those of Buildbot's.

    Nothing on disk is touched before startService.
    """

    def __init__(
        self,
        basedir: str,
        configFileName: str | None = None,
        umask: int | None = None,
        reactor: Any = None,
        config_loader: Any = None,
    ) -> None:
        self.files = Basedir(basedir)
        self.settings = Settings()
        self._lock: OwnerLock | None = None
        self._startid: int | None = None
        self._stopping_for: LitebotError | None = None
        self.handovers = Handovers()
        self.outbox = Outbox()
        rest.register()
        if config_loader is None:
            config_loader = ConfigLoader(basedir, configFileName or "master.cfg")
        super().__init__(basedir, umask=umask, reactor=reactor, config_loader=config_loader)
        self.control = Control(self.files.control_socket)
        with suppress(SettingsError):  # startService says so
            if load(self.files.settings_file).database.sqlite_path(self.files.path) is not None:
                self.name = SOLE_MASTER

    # Buildbot makes its DBConnector in the middle of create_child_services, and its components
    # register themselves with the other services right after.  So ours takes its place at the
    # moment of the assignment, before anything has been set up on Buildbot's.

    @property
    def db(self) -> Database:
        return self._db

    @db.setter
    def db(self, _stock: Any) -> None:
        self._db = Database(self.basedir)
        self._db.after_setup = self._begin
        self._db.before_stop = self._end
        self._db.on_failure = self._disk_failed

    @defer.inlineCallbacks
    def create_child_services(self) -> Any:
        yield super().create_child_services()
        yield install(self.db)
        self.mq.classes = {**self.mq.classes, "simple": MQ_CLASS}
        yield self.handovers.setServiceParent(self)
        yield self.outbox.setServiceParent(self)

    # starting

    @defer.inlineCallbacks
    def startService(self) -> Any:
        """Check, own the basedir, start as Buildbot does, and tell how it went."""
        try:
            yield self._start()
        except LitebotError as error:
            self._give_up(error)
        except (Exception, SystemExit) as error:
            log.err(None, "while starting the master")
            self._give_up(LitebotError(f"the master can't start: {error!r}"))

    @defer.inlineCallbacks
    def _start(self) -> Any:
        running: defer.Deferred[None] = defer.Deferred()
        self.reactor.callWhenRunning(running.callback, None)
        yield running
        self._lock = OwnerLock(self.files)
        self.settings = load(self.files.settings_file)
        preflight.check(self.files, self.settings)
        self._db.durability = self.settings.database.durability
        with logged_errors() as errors:
            yield super().startService()
        # The heartbeat gets its parent as the last thing of a start that succeeds.
        if self.masterHeartbeatService.parent is None:
            raise self._reason(errors)
        if self._got_sigterm or self._lock is None:
            raise LitebotError("the master was stopped while it started")
        yield defer.ensureDeferred(complete_buildsets(self))
        yield defer.ensureDeferred(self.outbox.resume())
        yield self.control.setServiceParent(self)
        owner = Owner(os.getpid(), time.time(), self.url)
        self._lock.write(owner)
        outcome.ready(pid=owner.pid, url=owner.url)

    @defer.inlineCallbacks
    def reconfigServiceWithBuildbotConfig(self, new_config: Any) -> Any:
        """As Buildbot does; schedulers are given changes when all of them are ready."""
        yield defer.ensureDeferred(self.handovers.pause())
        try:
            yield super().reconfigServiceWithBuildbotConfig(new_config)
        finally:
            yield defer.ensureDeferred(self.handovers.resume())

    @property
    def url(self) -> str | None:
        """Where the web page answers, or None without one."""
        return self.config.buildbotURL if self.config.www["port"] else None

    @defer.inlineCallbacks
    def _begin(self) -> Any:
        """Between opening the database and its first use."""
        for port in self._ports():
            require_free(*port, self.files.settings_file)
        yield self.db.pool.do(schema.upgrade)
        faults.arm(self)
        sole = self.name == SOLE_MASTER
        self._startid, findings = yield self.db.pool.do(
            recovery.begin, self.name, sole, self.settings.recovery.max_attempts
        )
        for finding in findings:
            log.msg(f"found: {finding.message}")
        yield defer.ensureDeferred(self.outbox.look_back())
        yield Attempts().setServiceParent(self)

    @defer.inlineCallbacks
    def _end(self) -> Any:
        if self._startid is not None:
            yield self.db.pool.do(recovery.end, self._startid)

    def _ports(self) -> list[tuple[Any, str]]:
        protocols = self.config.protocols.values()
        workers = [(options.get("port"), "workers") for options in protocols]
        return [(self.config.www["port"], "web"), *workers]

    def _reason(self, errors: list[BaseException]) -> LitebotError:
        """Why Buildbot's start failed, from what it logged."""
        for error in errors:
            if isinstance(error, LitebotError):
                return error
        if isinstance(self.config_loader, ConfigLoader) and self.config_loader.errors:
            return config_error(self.config_loader.errors, self.files.path)
        if errors:
            return LitebotError(f"the master can't start: {errors[-1]!r}")
        return LitebotError(f"the master can't start; {self.files.log_file} may tell why")

    def _give_up(self, error: LitebotError) -> None:
        if self._stopping_for is None:
            self._stopping_for = error
            log.msg(f"litebot: {error.what}" + (f"\n  Try: {error.hint}" if error.hint else ""))
            outcome.failed(error)
        with suppress(internet_error.ReactorNotRunning):  # Buildbot may have stopped it already
            self.reactor.stop()

    # stopping

    def _disk_failed(self, error: StoreFailed) -> None:
        eventually(self._give_up, error)

    @defer.inlineCallbacks
    def stopService(self) -> Any:
        """Stop as Buildbot does; where the disk has failed, without asking the database."""
        try:
            if isinstance(self._stopping_for, StoreFailed):
                yield self._abandon()
            else:
                yield self._stop()
        finally:
            if self._lock is not None:
                self._lock.release()
                self._lock = None

    @defer.inlineCallbacks
    def _stop(self) -> Any:
        if not self.running:  # the start failed
            yield super().stopService()
            return
        yield defer.ensureDeferred(let_end(self, self.settings.stop.grace))
        interrupter = Interrupter(self)
        interrupter.start()
        try:
            yield super().stopService()
        finally:
            interrupter.stop()

    @defer.inlineCallbacks
    def _abandon(self) -> Any:
        """Let go of workers and ports: nothing that happens now could be written down."""
        workers = list(self.workers.workers.values())
        stops = [defer.maybeDeferred(w.stopService) for w in workers]
        waiting = defer.DeferredList(stops, consumeErrors=True)
        waiting.addTimeout(ABANDON_S, self.reactor)
        waiting.addErrback(lambda f: f.trap(defer.TimeoutError))
        yield waiting
        yield self.db.pool.stop()


def config_error(errors: ConfigErrors, basedir: Path) -> ConfigError:
    """The errors of a configuration as one error for the user."""
    listed = "\n".join(f"  {line}" for line in str(errors).splitlines())
    return ConfigError(
        f"the configuration has errors:\n{listed}", f"litebot check-config {basedir}"
    )
