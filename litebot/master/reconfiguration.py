"""The reconfiguration of a running master.

Reconfigurations run one at a time.  One that can't be applied is refused as a whole; one that was
applied only in part is reported.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Sequence
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakSet

from buildbot.config.errors import ConfigErrors
from buildbot.config.master import MasterConfig
from twisted.internet import defer
from twisted.internet.threads import deferToThreadPool
from twisted.python import log

from litebot.errors import LitebotError
from litebot.master.configuration.reconfig import Unchangeable
from litebot.master.configuration.reconfig import check_changes
from litebot.master.runtime import memory
from litebot.master.runtime.error_log import logged_errors
from litebot.master.runtime.error_log import store_failed
from litebot.projects.definition import Project
from litebot.settings import Settings

# How often it is looked whether builds of an old configuration still run.
SETTLE_EVERY_S = 30.0


class Reconfiguration:
    """Reconfigures `master`."""

    def __init__(self, master: Any) -> None:
        self._master = master
        self._lock = defer.DeferredLock()
        self._unapplied: ConfigErrors | None = None

    async def run(self, reconfig: Any) -> LitebotError | None:
        """Load the configuration again and apply it, after a reconfig that is already running.

        Returns an error if it was not applied or only in part, and None if all went well.
        """
        master = self._master
        async with self.turn():
            self._unapplied = None
            with logged_errors() as failures:
                await reconfig()
            # Only now do workers have their new builders; Buildbot has looked for builds before.
            master.botmaster.maybeStartBuildsForAllBuilders()
            master.ownership.note_url(master.url)
            # By then the caller has let go of the old configuration, too.
            master.reactor.callLater(0, self._settle)
            return self._error_of(failures)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for the reconfig that runs, if one does; no other begins meanwhile."""
        await self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()

    async def load(self, projects: Callable[[Settings], Sequence[Project]]) -> MasterConfig:
        """Load the configuration that there would be with these projects, in a thread.

        Raises ConfigErrors if it is faulty.
        """
        master = self._master
        load = functools.partial(master.config_loader.load_with, projects)
        config: MasterConfig = await deferToThreadPool(
            master.reactor, master.reactor.getThreadPool(), load
        )
        return config

    async def use(self, config: MasterConfig) -> None:
        """Apply a configuration that was loaded.  Raises LitebotError if all of it can't be.

        Source: buildbot/master.py, doReconfig
        """
        master = self._master
        await master.initLock.acquire()
        try:
            master.config_version += 1
            master.config = config
            await master.reconfigServiceWithBuildbotConfig(config)
        except Exception as error:
            if store_failed(error) is not None:
                raise
            log.err(error, "while a configuration was applied")
            raise LitebotError(f"it can't be applied: {error}") from error
        finally:
            master.initLock.release()
        master.botmaster.maybeStartBuildsForAllBuilders()
        master.reactor.callLater(0, self._settle)

    async def apply(self, apply: Any, new_config: MasterConfig) -> None:
        """Apply a configuration as Buildbot does, with change delivery paused meanwhile."""
        master = self._master
        await master.change_delivery.pause()
        try:
            await apply(new_config)
        except ConfigErrors as error:
            self._unapplied = error  # Buildbot's reconfig only prints it
            raise
        finally:
            await master.cluster.introduce()
            await master.change_delivery.resume()

    def _settle(self) -> None:
        """Free what the old configuration needed, and again when its last build has ended."""
        old = self._running()
        memory.settle_reconfigured(builds_run=bool(old))
        if old:
            self._master.reactor.callLater(SETTLE_EVERY_S, self._settle_later, old)

    def _settle_later(self, old: WeakSet[Any]) -> None:
        if set(old) & set(self._running()):
            self._master.reactor.callLater(SETTLE_EVERY_S, self._settle_later, old)
        else:
            memory.settle_reconfigured(builds_run=False)

    def _running(self) -> WeakSet[Any]:
        builders = self._master.botmaster.builders.values()
        return WeakSet(build for each in builders for build in each.building)

    def refuse(self, settings: Settings, config: MasterConfig) -> None:
        """Raise Unchangeable if a started master can get this configuration only by a restart."""
        master = self._master
        if master.ownership.is_announced:
            check_changes(master.files, (master.settings, master.config), (settings, config))

    def _error_of(self, failures: list[BaseException]) -> LitebotError | None:
        basedir = self._master.files.quoted
        errors = getattr(self._master.config_loader, "errors", None)
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
