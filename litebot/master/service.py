"""The buildmaster: Buildbot's, composed of Buildbot's and litebot's parts in this one place."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from buildbot import master
from buildbot.config.master import MasterConfig
from buildbot.mq.connector import MQConnector
from buildbot.process import cache
from buildbot.process import debug
from buildbot.process import metrics
from buildbot.process.users.manager import UserManagerManager
from buildbot.util.twisted import async_to_deferred
from buildbot.wamp import connector as wampconnector
from twisted.application import internet
from twisted.internet import defer
from twisted.python import components

from litebot.basedir import Basedir
from litebot.errors import SettingsError
from litebot.errors import StoreFailed
from litebot.master import database
from litebot.master.builds.attempts import Attempts
from litebot.master.builds.attempts import SharedAttempts
from litebot.master.builds.distributor import BotMaster
from litebot.master.builds.silence import WorkerManager
from litebot.master.cluster import claims
from litebot.master.cluster.queue import SHARED_QUEUE
from litebot.master.cluster.shared import Shared
from litebot.master.configuration.loader import ConfigLoader
from litebot.master.control.socket import Control
from litebot.master.data.connector import Data
from litebot.master.database import Database
from litebot.master.db.cluster import Alone
from litebot.master.db.pool import Outage
from litebot.master.db.read_pool import MAX_LONG_READS
from litebot.master.delivery.changes import ChangeDelivery
from litebot.master.delivery.components import COMPONENTS
from litebot.master.delivery.controls import WorkerControls
from litebot.master.delivery.http_client import HTTPClientService
from litebot.master.delivery.outbox import Outbox
from litebot.master.delivery.queue import QUEUE
from litebot.master.delivery.scheduler_manager import SchedulerManager
from litebot.master.delivery.source_problems import SourceProblems
from litebot.master.delivery.turns import Turns
from litebot.master.limits.msgpack import MsgManager
from litebot.master.limits.pb import PBManager
from litebot.master.limits.reads import Reads
from litebot.master.limits.refusals import Refusals
from litebot.master.limits.worker_logins import WorkerLogins
from litebot.master.pages.frame import Pages
from litebot.master.projects.running import RunningProjects
from litebot.master.projects.web.hook import ProjectHook
from litebot.master.projects.web.pages import ProjectPages
from litebot.master.reconfiguration import Reconfiguration
from litebot.master.runtime.error_log import drop_follow_up_errors
from litebot.master.runtime.ownership import Ownership
from litebot.master.runtime.services import ChangeManager
from litebot.master.runtime.services import MachineManager
from litebot.master.runtime.services import SecretManager
from litebot.master.runtime.services import ServiceManager
from litebot.master.runtime.steady_clock import SteadyClock
from litebot.master.secrets.log import close_log_file
from litebot.master.shutdown import Shutdown
from litebot.master.startup import SOLE_MASTER
from litebot.master.startup import Startup
from litebot.master.web import rest
from litebot.master.web.service import WWWService
from litebot.settings import Settings
from litebot.settings import load

HEARTBEAT_S = 60


class BuildMaster(master.BuildMaster):
    """A Buildbot master on litebot's store; its arguments are those of Buildbot's.

    It touches nothing on disk before startService.
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
        unreadable = None
        try:
            self.settings = load(self.files.settings_file)
        except SettingsError as error:
            unreadable = error  # the start will report it
        self.ownership = Ownership(self.files)
        self.startup = Startup(self, unreadable)
        self.reconfiguration = Reconfiguration(self)
        self.shutdown = Shutdown(self)
        self.projects = RunningProjects(self)
        self.pages = Pages(self)
        ProjectPages(self).add_to(self.pages)
        rest.register()
        if config_loader is None:
            name, refuse = configFileName or "master.cfg", self.reconfiguration.refuse
            config_loader = ConfigLoader(basedir, name, refuse, self.projects.configured)
        super().__init__(basedir, umask=umask, reactor=reactor, config_loader=config_loader)
        self.refusals = Refusals(self.reactor)
        self.source_problems = SourceProblems(self.reactor)
        self.steady_clock = SteadyClock(self.reactor)
        self.source_turns = Turns(self.steady_clock)
        self.reads = Reads(self.reactor, self._max_reads, self._is_busy, self.refusals)
        # The name is set before the master gets a parent, which finds services by their names.
        if not isinstance(self.cluster, Shared):
            self.name = SOLE_MASTER

    # the parts

    @defer.inlineCallbacks
    def create_child_services(self) -> Any:
        """Make the parts in Buildbot's order; some of them are replaced by litebot's.

        Source: buildbot/master.py, create_child_services; a test compares this method with it.
        """
        is_sqlite = self.settings.database.sqlite_path(self.files.path) is not None
        self.httpservice = yield HTTPClientService.getService(self, "")

        self.metrics = metrics.MetricLogObserver()
        yield self.metrics.setServiceParent(self)

        self.caches = cache.CacheManager()
        yield self.caches.setServiceParent(self)

        worker_logins = WorkerLogins(self)
        self.pbmanager = PBManager(worker_logins)
        yield self.pbmanager.setServiceParent(self)

        self.msgmanager = MsgManager(worker_logins)
        yield self.msgmanager.setServiceParent(self)

        self.workers = WorkerManager(self)
        yield self.workers.setServiceParent(self)
        self.workers.reconfig_priority = 127

        self.change_svc = ChangeManager()
        yield self.change_svc.setServiceParent(self)

        self.botmaster = BotMaster()
        yield self.botmaster.setServiceParent(self)
        self.botmaster.reconfig_priority = 1001  # first, for projects and codebases

        self.machine_manager = MachineManager()
        yield self.machine_manager.setServiceParent(self)
        self.machine_manager.reconfig_priority = self.workers.reconfig_priority + 1

        self.scheduler_manager = SchedulerManager()
        yield self.scheduler_manager.setServiceParent(self)

        self.user_manager = UserManagerManager(self)
        yield self.user_manager.setServiceParent(self)

        self.cluster: Alone = Alone() if is_sqlite else Shared(self.note_outage)
        plain = {**database.COMPONENTS, **COMPONENTS}
        shared = {} if is_sqlite else claims.COMPONENTS
        owner = DatabaseOwner(self)
        self.db = Database(self.basedir, {**plain, **shared}, self.cluster, owner)
        yield self.db.set_master(self)

        self.wamp = wampconnector.WampConnector()
        yield self.wamp.setServiceParent(self)

        self.mq = MQConnector()
        self.mq.classes = {**self.mq.classes, "simple": QUEUE if is_sqlite else SHARED_QUEUE}
        yield self.mq.setServiceParent(self)

        self.data = Data()
        yield self.data.setServiceParent(self)

        self.www = WWWService({b"litebot": self.pages}, {b"project": ProjectHook(self)})
        yield self.www.setServiceParent(self)

        self.debug = debug.DebugServices()
        yield self.debug.setServiceParent(self)

        self.secrets_manager = SecretManager()
        yield self.secrets_manager.setServiceParent(self)
        self.secrets_manager.reconfig_priority = self.db.reconfig_priority - 1

        self.service_manager = ServiceManager()
        yield self.service_manager.setServiceParent(self)
        self.service_manager.reconfig_priority = 1000

        self.masterHouskeepingTimer = 0
        # Buildbot gives it a parent as the last part of a successful start.
        self.masterHeartbeatService = internet.TimerService(HEARTBEAT_S, self._heartbeat)
        self.masterHeartbeatService.clock = self.reactor

        # The parts that Buildbot does not have.
        self.change_delivery = ChangeDelivery()
        self.outbox = Outbox()
        self.attempts = Attempts() if is_sqlite else SharedAttempts()
        self.worker_controls = WorkerControls()
        for part in (
            *(self.change_delivery, self.outbox, self.attempts, self.worker_controls),
            *(self.projects, self.cluster),
        ):
            yield part.setServiceParent(self)
        self.control = Control(self.files.control_socket)  # it is started last of all

    @defer.inlineCallbacks
    def _heartbeat(self) -> Any:
        if self.masterid is not None:
            yield self.data.updates.masterActive(name=self.name, masterid=self.masterid)
        yield self.data.updates.expireMasters()

    def _max_reads(self) -> int:
        return min(self.settings.limits.reads, MAX_LONG_READS)

    def _is_busy(self) -> bool:
        return self.db.pool is not None and self.db.pool.is_busy

    # what Buildbot and twistd call

    def setServiceParent(self, parent: Any) -> Any:
        if isinstance(parent, components.Componentized):
            # Nothing is logged before buildbot.tac, which calls this, has come to its end.
            self.startup.note(close_log_file(parent))
            drop_follow_up_errors(parent)
        return super().setServiceParent(parent)

    def startService(self) -> Any:
        """See Startup."""
        return defer.ensureDeferred(self.startup.run(super().startService))

    def reconfig(self) -> Any:
        """See Reconfiguration; returns a LitebotError if not all of it is applied."""
        return defer.ensureDeferred(self.reconfiguration.run(super().reconfig))

    def reconfigServiceWithBuildbotConfig(self, new_config: MasterConfig) -> Any:
        """See Reconfiguration."""
        apply = super().reconfigServiceWithBuildbotConfig
        return defer.ensureDeferred(self.reconfiguration.apply(apply, new_config))

    def stopService(self) -> Any:
        """See Shutdown."""
        return defer.ensureDeferred(self.shutdown.run(super().stopService))

    # what other parts ask for

    @property
    def url(self) -> str | None:
        """The address of the web page, or None if there is none."""
        return self.config.buildbotURL if self.config.www["port"] else None

    def note_outage(self, _: Outage | None = None) -> None:
        """Record the present outage, or that there is none, for `litebot status`.

        An outage of the database, for which builds wait, is recorded rather than one of the
        cluster's session.
        """
        outage = self.db.outage or self.cluster.outage
        self.ownership.note_outage(asdict(outage) if outage is not None else None)


class DatabaseOwner(database.Owner):
    """Passes what happens to the database on to the master's start, shutdown and status."""

    def __init__(self, master: BuildMaster) -> None:
        self._master = master

    def opened(self) -> Any:
        return self._master.startup.begin()

    @async_to_deferred
    async def stopped(self) -> None:
        await self._master.shutdown.end()

    def failed(self, error: StoreFailed) -> None:
        self._master.shutdown.fail(error)

    def outage(self, outage: Outage | None) -> None:
        self._master.note_outage(outage)
