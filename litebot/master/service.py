"""The buildmaster: Buildbot's, put together with litebot's parts.  The one composition root."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING
from typing import Any

import sqlalchemy as sa
from buildbot import master
from buildbot.config.errors import ConfigErrors
from buildbot.config.master import MasterConfig
from buildbot.util.twisted import async_to_deferred
from buildbot.worker.local import LocalWorker
from twisted.internet import defer
from twisted.internet import error as internet_error
from twisted.python import components
from twisted.python import log

from litebot.basedir import Basedir
from litebot.basedir import Owner
from litebot.basedir import OwnerLock
from litebot.basedir import refused_by_system
from litebot.errors import ConfigError
from litebot.errors import LitebotError
from litebot.errors import SettingsError
from litebot.errors import StoreError
from litebot.errors import StoreFailed
from litebot.master import cluster
from litebot.master import faults
from litebot.master import recovery
from litebot.master.builds.attempts import Attempts
from litebot.master.builds.distributor import BotMaster
from litebot.master.builds.shutdown import BuildInterrupter
from litebot.master.builds.shutdown import CommandEnder
from litebot.master.builds.shutdown import latent_workers
from litebot.master.builds.shutdown import let_end
from litebot.master.cluster.checks import refuse_running
from litebot.master.cluster.checks import refuse_strangers
from litebot.master.cluster.checks import refuse_two_sites
from litebot.master.cluster.neighbours import Neighbours
from litebot.master.cluster.peers import fence
from litebot.master.cluster.takeover import suspects
from litebot.master.configuration.loader import ConfigLoader
from litebot.master.configuration.ports import configured_ports
from litebot.master.configuration.ports import require_free
from litebot.master.configuration.reconfig import Unchangeable
from litebot.master.configuration.reconfig import check_changes
from litebot.master.control.socket import Control
from litebot.master.data.connector import Data
from litebot.master.database import HOT
from litebot.master.database import Database
from litebot.master.db import move_away
from litebot.master.db import postgres
from litebot.master.db import schema
from litebot.master.db.pool import Outage
from litebot.master.db.sqlite import commit_watermark
from litebot.master.db.sqlite import preflight
from litebot.master.delivery.changes import ChangeDelivery
from litebot.master.delivery.components import COMPONENTS
from litebot.master.delivery.controls import WorkerControls
from litebot.master.delivery.http_client import HTTPClientService
from litebot.master.delivery.outbox import Outbox
from litebot.master.delivery.queue import MQ_CLASS
from litebot.master.delivery.scheduler_manager import SchedulerManager
from litebot.master.recovery.requests import complete_buildsets
from litebot.master.runtime import outcome
from litebot.master.runtime.deferreds import wait_at_most
from litebot.master.runtime.error_log import drop_follow_up_errors
from litebot.master.runtime.error_log import logged_errors
from litebot.master.web import rest
from litebot.master.web.service import WWWService
from litebot.settings import Settings
from litebot.settings import load

if TYPE_CHECKING:
    from litebot.master.cluster.session import Session

# The name in the table masters.  Buildbot's is host:folder, so that a master which was moved would
# not know what it left claimed; a state file has one master, whatever it runs on.
SOLE_MASTER = "litebot"

# How long a master whose disk failed goes on, for its refusals to reach those who asked, and then
# waits for its workers to let go of their builds.
REFUSE_S = 0.1
ABANDON_S = 5.0

# How long a stop waits, after the grace, for all its parts; and before these, for schedulers and
# change sources to be given to other masters.
STOP_S = 9.0
LEAVE_S = 2.0

# How long a master that is to stop waits for a database that is away.
AWAY_S = 10.0


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
        self._unreadable: SettingsError | None = None  # startService says so
        gc.freeze()  # all that has been imported
        gc.enable()  # see run
        try:
            self.settings = load(self.files.settings_file)
        except SettingsError as error:
            self._unreadable = error
        self._lock: OwnerLock | None = None
        self._owner: Owner | None = None
        self._wrote_pid_file = False
        self._reconfigs = defer.DeferredLock()
        self._unapplied: ConfigErrors | None = None
        self._startid: int | None = None
        self._mended: str | None = None
        self._should_hold: commit_watermark.Content | None = None
        self._lost: list[str] = []
        self._stopping_for: LitebotError | None = None
        self.session: Session | None = None  # on Postgres
        self._no_store: defer.Deferred[None] = defer.Deferred()
        self.change_delivery = ChangeDelivery()
        self.outbox = Outbox()
        self.attempts = Attempts()
        self.worker_controls = WorkerControls()
        self.neighbours = Neighbours()
        rest.register()
        if config_loader is None:
            config_loader = ConfigLoader(basedir, configFileName or "master.cfg")
        super().__init__(basedir, umask=umask, reactor=reactor, config_loader=config_loader)
        self.control = Control(self.files.control_socket)
        # Before it gets a parent: services are found by their names.
        if self.settings.database.sqlite_path(self.files.path) is not None:
            self.name = SOLE_MASTER

    def __setattr__(self, name: str, value: Any) -> None:
        # Buildbot makes its parts by class in the middle of create_child_services, and they
        # register themselves with each other right after.  So ours take their places at the
        # moment of the assignment, before anything has been set up on Buildbot's.
        parts = {
            "db": self._make_db,
            "data": Data,
            "botmaster": BotMaster,
            "scheduler_manager": SchedulerManager,
            "www": WWWService,
        }
        make = parts.get(name)
        super().__setattr__(name, value if make is None else make())

    def _make_db(self) -> Database:
        db = Database(self.basedir)
        db.components = {**HOT, **COMPONENTS}
        db.after_setup = self._begin
        db.before_stop = self._end
        db.on_failure = self._disk_failed
        db.on_outage = self._note_outage
        return db

    def setServiceParent(self, parent: Any) -> Any:
        if isinstance(parent, components.Componentized):
            drop_follow_up_errors(parent)
        return super().setServiceParent(parent)

    @defer.inlineCallbacks
    def create_child_services(self) -> Any:
        yield super().create_child_services()
        yield self.httpservice.disownServiceParent()  # type: ignore[has-type]
        self.httpservice = yield HTTPClientService.getService(self, "")
        is_sqlite = self.settings.database.sqlite_path(self.files.path) is not None
        mq_class = MQ_CLASS if is_sqlite else cluster.POSTGRES
        self.mq.classes = {**self.mq.classes, "simple": mq_class}
        yield self.change_delivery.setServiceParent(self)
        yield self.outbox.setServiceParent(self)

    # starting

    @defer.inlineCallbacks
    def startService(self) -> Any:
        """Check, own the basedir, start as Buildbot does, and tell how it went."""
        try:
            yield self._start()
        except LitebotError as error:
            self._give_up(error)
        except OSError as error:
            self._give_up(refused_by_system(self.files.path, error))
        except (Exception, SystemExit) as error:
            log.err(None, "while starting the master")
            self._give_up(LitebotError(f"the master can't start: {error!r}"))

    @defer.inlineCallbacks
    def _start(self) -> Any:
        running: defer.Deferred[None] = defer.Deferred()
        self.reactor.callWhenRunning(running.callback, None)
        yield running
        self._lock = OwnerLock(self.files)
        self._write_pid_file()
        if self._unreadable is not None:
            raise self._unreadable
        state_file = self.settings.database.sqlite_path(self.files.path)
        if state_file is not None:
            self._should_hold = commit_watermark.read(state_file)
        self._mended = preflight.check(self.files, self.settings)
        self.db.durability = self.settings.database.durability
        with logged_errors() as errors:
            yield super().startService()
        # The heartbeat gets its parent as the last thing of a start that succeeds.
        if self.masterHeartbeatService.parent is None:
            raise self._reason(errors)
        if self._got_sigterm or self._lock is None:
            raise LitebotError("the master was stopped while it started")
        yield defer.ensureDeferred(complete_buildsets(self))
        yield defer.ensureDeferred(self.outbox.resume())
        if not self.db.is_sole_writer:
            yield defer.ensureDeferred(self.neighbours.cancel_again())
        if isinstance(self.config_loader, ConfigLoader):
            self.config_loader.refuse = self._refuse_to_change
        yield self.control.setServiceParent(self)
        self.files.keep_reserve()
        _leave_to_no_collection()
        self._owner = Owner(os.getpid(), time.time(), self.url)
        self._lock.write(self._owner)
        self._note_outage()
        notes = list(self._notes())
        for note in notes:
            log.msg(f"litebot: {note}")
        outcome.ready(pid=self._owner.pid, url=self._owner.url, notes=notes)

    def _note_outage(self, _: Outage | None = None) -> None:
        """Say in the lock file, where `litebot status` reads it, that the database is away.

        What builds wait for comes before what only the session can't do.
        """
        if self._lock is not None and self._owner is not None:
            outage = self.db.outage or (self.session.outage if self.session is not None else None)
            told = asdict(outage) if outage is not None else None
            self._owner = replace(self._owner, outage=told)
            self._lock.write(self._owner)

    def _notes(self) -> Iterator[str]:
        """What the user should know of this start, which went well."""
        yield from self._lost
        if self._mended:
            yield self._mended
        if isinstance(self.config_loader, ConfigLoader):
            yield from self.config_loader.notes

    def _write_pid_file(self) -> None:
        """For Buildbot's commands; twistd has written it where one of these started it."""
        pid, path = str(os.getpid()), self.files.pid_file
        if not path.exists() or path.read_text(encoding="utf-8", errors="replace") != pid:
            path.write_text(pid, encoding="ascii")
            self._wrote_pid_file = True

    @property
    def url(self) -> str | None:
        """Where the web page answers, or None without one."""
        return self.config.buildbotURL if self.config.www["port"] else None

    @defer.inlineCallbacks
    def _begin(self) -> Any:
        """Between opening the database and its first use."""
        if not self.db.is_sole_writer:
            url = self.db.configured_db_config.db_url
            yield self.db.pool.do(move_away.begin, postgres.shown(url), self.files.master_name)
        for port in configured_ports(self.config):
            require_free(*port, self.settings, self.files)
        yield self.db.pool.do(self._upgrade)
        faults.arm(self)
        sole = self.name == SOLE_MASTER
        self.masterid = yield self.db.masters.findMasterId(name=self.name)
        yield self._claim_name()
        self._startid, findings = yield self.db.pool.do(
            recovery.begin,
            self.name,
            sole,
            self.settings.recovery.max_attempts,
            self._should_hold,
            self.masterid,
        )
        if self.session is not None:
            self.session.started_as(self._startid)
            name = postgres.shown(self.db.configured_db_config.db_url)
            check = partial(_may_go_on, startid=self._startid, name=name)
            self.db.pool.before_batch_after_reconnect = check
        for finding in findings:
            log.msg(f"found: {finding.message}")
        self._lost = [finding.message for finding in findings if finding.kind == recovery.LOST]
        yield self.db.count_commits()
        yield defer.ensureDeferred(self.outbox.note_last())
        yield self.attempts.setServiceParent(self)
        yield self.worker_controls.setServiceParent(self)
        yield self.neighbours.setServiceParent(self)

    def _upgrade(self, conn: sa.engine.Connection) -> None:
        """Bring the tables up to date, unless another master uses them as they are."""
        schema.lock(conn)
        if not self.db.is_sole_writer and schema.is_older(conn):
            name = postgres.shown(self.db.configured_db_config.db_url)
            refuse_running(conn, name, self.files.master_name)
        schema.upgrade(conn)

    @defer.inlineCallbacks
    def _claim_name(self) -> Any:
        """See to it that no other master on this database has the name of this one."""
        if self.db.is_sole_writer:
            return
        from litebot.master.cluster.session import Session
        from litebot.master.db.postgres.server import Server  # these need psycopg

        server = Server(self.db.configured_db_config.db_url, self.files.path)
        yield self.db.pool.do(refuse_two_sites, server.shown)
        yield self.db.pool.do(refuse_strangers, server.shown)
        self.session = Session(server, self.reactor, self.masterid, self.name, suspects)
        self.session.on_failure = self._session_failed
        self.session.on_outage = self._note_outage
        self.session.on_dead = self.take_over
        self.session.on_gap = self.catch_up
        self.db.pool.application_name = postgres.application_name(self.masterid)
        try:
            yield self.session.start()
        except StoreError:
            self.masterid = None  # it is another's, and not to be marked as stopped
            raise

    @defer.inlineCallbacks
    def _end(self) -> Any:
        if self._startid is not None:
            yield self.db.pool.do(recovery.end, self._startid)
        if self.session is not None:
            yield self.session.stop()

    def _reason(self, errors: list[BaseException]) -> LitebotError:
        """Why Buildbot's start failed, from what it logged."""
        for error in errors:
            if isinstance(error, LitebotError):
                return error
        if isinstance(self.config_loader, ConfigLoader) and self.config_loader.errors:
            return config_error(self.config_loader.errors, self.files)
        if errors:
            return LitebotError(f"the master can't start: {errors[-1]!r}")
        return LitebotError(f"the master can't start; {self.files.log_file} may tell why")

    def _give_up(self, error: LitebotError) -> None:
        self._say(error)
        self._stop_reactor()

    def _say(self, error: LitebotError) -> None:
        """Why the master stops; what comes after that is a consequence of it."""
        if self._stopping_for is None:
            if error.hint:  # the store does not know whose it is
                error.hint = error.hint.replace("BASEDIR", self.files.quoted)
            self._stopping_for = error
            log.msg(f"litebot: {error.what}" + (f"\n  Try: {error.hint}" if error.hint else ""))
            outcome.failed(error)

    def _stop_reactor(self) -> None:
        with suppress(internet_error.ReactorNotRunning):  # Buildbot may have stopped it already
            self.reactor.stop()

    # reconfiguring

    @defer.inlineCallbacks
    def reconfig(self) -> Any:
        """Load the configuration anew, after a reconfig that runs already.

        Returns a LitebotError where it could not be applied, or not all of it, else None.
        """
        yield self._reconfigs.acquire()
        try:
            self._unapplied = None
            with logged_errors() as failures:
                yield super().reconfig()
            # Workers have new builders only now, and Buildbot looks for these before.
            self.botmaster.maybeStartBuildsForAllBuilders()
            if self._lock is not None and self._owner is not None:
                self._owner = replace(self._owner, url=self.url)
                self._lock.write(self._owner)
            return self._why_not(failures)
        finally:
            self._reconfigs.release()

    @defer.inlineCallbacks
    def reconfigServiceWithBuildbotConfig(self, new_config: MasterConfig) -> Any:
        """As Buildbot does; changes wait while the builders and the schedulers change."""
        yield defer.ensureDeferred(self.change_delivery.pause())
        try:
            yield super().reconfigServiceWithBuildbotConfig(new_config)
        except ConfigErrors as error:
            self._unapplied = error  # Buildbot's reconfig only prints it
            raise
        finally:
            yield defer.ensureDeferred(self.neighbours.introduce())
            yield defer.ensureDeferred(self.change_delivery.resume())

    def _why_not(self, failures: list[BaseException]) -> LitebotError | None:
        basedir = self.files.quoted
        errors = getattr(self.config_loader, "errors", None)
        if errors is not None:
            hint = f"litebot check-config {basedir}"
            if isinstance(errors, Unchangeable):
                hint = errors.hint or hint
            return LitebotError(f"the master keeps its old configuration: {errors}", hint)
        failure = self._unapplied or (failures[0] if failures else None)
        if failure is None:
            return None
        return LitebotError(
            f"the master uses only a part of its new configuration: {failure}",
            f"correct it, then: litebot restart {basedir}",
        )

    def _refuse_to_change(self, settings: Settings, config: MasterConfig) -> None:
        check_changes(self.files, (self.settings, self.config), (settings, config))

    # other masters

    @async_to_deferred
    async def take_over(self, masterid: int, holder: int) -> None:
        """Go on with the work of another master, dead as long as `holder` has its lock.

        Does nothing before this one has started and where it stops; it is asked again then.
        """
        if self._owner is not None and self._startid is not None and self.running:
            await self.neighbours.take_over(masterid, holder, self._startid)

    def catch_up(self) -> None:
        """See what there is to do: events may have been lost."""
        self.neighbours.catch_up()

    # stopping

    def _disk_failed(self, error: StoreFailed) -> None:
        self.files.reserve.unlink(missing_ok=True)  # room for this message, on a full disk
        self._say(error)
        self._no_store.callback(None)  # a stop that has begun would wait for what never comes
        self.reactor.callLater(REFUSE_S, self._stop_reactor)

    def _session_failed(self, error: StoreError) -> None:
        self.db.pool.fail(error)

    @defer.inlineCallbacks
    def stopService(self) -> Any:
        """Stop as Buildbot does; where the disk has failed, without asking the database."""
        if self.db.pool is not None:
            self.db.pool.give_up_after(AWAY_S)
        try:
            if not isinstance(self._stopping_for, StoreFailed):
                stop = defer.maybeDeferred(self._stop)
                waiting = [stop, self._no_store]
                yield defer.DeferredList(waiting, True, True, consumeErrors=True)
            if isinstance(self._stopping_for, StoreFailed):
                yield self._abandon()
        except Exception:
            # A part that could not start may not be able to stop; Buildbot would then never end.
            log.err(None, "while stopping the master")
        finally:
            if self._lock is not None:
                if self._wrote_pid_file:
                    self.files.pid_file.unlink(missing_ok=True)
                self._lock.release()
                self._lock = None

    @async_to_deferred
    async def _stop(self) -> None:
        if not self.running:  # the start failed
            await super().stopService()
            return
        await let_end(self, self.settings.stop.grace)
        ender = CommandEnder(self.reactor)
        ender.start()
        try:
            stopped = defer.ensureDeferred(self._stop_parts())
            if not await wait_at_most(stopped, STOP_S, self.reactor):
                await self._leave_parts()
        finally:
            ender.stop()

    async def _stop_parts(self) -> None:
        left = defer.ensureDeferred(self.neighbours.leave())
        await wait_at_most(left, LEAVE_S, self.reactor)
        interrupter = BuildInterrupter(self)
        interrupter.start()
        try:
            await super().stopService()
        finally:
            interrupter.stop()

    async def _leave_parts(self) -> None:
        """End without what does not stop, which ends with the process."""
        log.msg(f"litebot: some parts have not stopped after {STOP_S:g} s; ending without them")
        for name in latent_workers(self):
            log.msg(f"litebot: the latent worker {name} has not stopped; look for its instance")
        await self.data.updates.masterStopped(name=self.name, masterid=self.masterid)
        if self.db.running:
            await self.db.stopService()

    @defer.inlineCallbacks
    def _abandon(self) -> Any:
        """Let go of workers and ports: nothing that happens now could be written down."""
        workers = list(self.workers.workers.values())
        # What local steps have started is ended first: the others ask the database, which refuses.
        local = [worker.remote_worker for worker in workers if isinstance(worker, LocalWorker)]
        services = [*filter(None, local), *workers]
        stops = [defer.maybeDeferred(each.stopService) for each in services]
        waiting = defer.DeferredList(stops, consumeErrors=True)
        waiting.addTimeout(ABANDON_S, self.reactor)
        waiting.addErrback(lambda f: f.trap(defer.TimeoutError))
        yield waiting
        yield self.db.pool.stop()
        if self.session is not None:
            yield self.session.stop()


def _may_go_on(conn: sa.engine.Connection, startid: int, name: str) -> None:
    """Raise TakenOver or StoreError where others have done without this master meanwhile."""
    fence(conn, startid)
    move_away.refuse(conn, name)


def _leave_to_no_collection() -> None:
    """Keep what a started master is made of from the garbage collector, as it stays anyway.

    Else a collection looks at all of it now and then, which takes a tenth of a second.
    """
    gc.collect()
    gc.freeze()


def config_error(errors: ConfigErrors, files: Basedir) -> ConfigError:
    """The errors of a configuration as one error for the user."""
    listed = "\n".join(f"  {line}" for line in str(errors).splitlines())
    return ConfigError(
        f"the configuration has errors:\n{listed}", f"litebot check-config {files.quoted}"
    )
