"""`master.projects`: the projects of a master that runs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from buildbot.config.errors import ConfigErrors
from buildbot.schedulers.forcesched import CollectedValidationError
from buildbot.util import service
from buildbot.util.twisted import async_to_deferred
from twisted.internet import defer
from twisted.python import log

from litebot.errors import LitebotError
from litebot.master.projects.building.names import force_scheduler
from litebot.master.projects.building.names import nightly_scheduler
from litebot.master.projects.building.names import poller_name
from litebot.master.projects.building.names import push_scheduler
from litebot.master.projects.building.pulls import LISTED
from litebot.master.projects.building.pulls import number_of
from litebot.master.projects.kept.versions import Version
from litebot.master.projects.projects import Projects
from litebot.master.projects.projects import by_name
from litebot.master.projects.projects import not_saved
from litebot.master.projects.projects import projects_of
from litebot.projects.build_file import TimeOfDay
from litebot.projects.definition import Project
from litebot.store.sql import Sql

# The routing keys of events are EVENTS, the name of a project, and one of these.
EVENTS = "litebot_projects"
SAVED, LOOK, NIGHTLY = "saved", "look", "nightly"


class RunningProjects(Projects, service.AsyncService):
    """Applies changes without a restart, and asks for builds."""

    name: str | None = "projects"

    def __init__(self, master: Any) -> None:
        super().__init__(master.files, lambda: self.master.db)
        self._reconfiguration = master.reconfiguration
        self._consumers: list[Any] = []
        # Patterns of workers by build request, where the file that is built lets not all build it.
        # A build that is given to another worker is tried again, and says so anew.
        self.workers_of: dict[int, tuple[str, ...]] = {}

    async def _try_lines(self, project: Project, lines: Sequence[str]) -> list[dict[str, Any]]:
        from litebot.master.telling.trying import try_lines  # it takes memory

        return await try_lines(self.master, project, lines)

    def _turn(self) -> AbstractAsyncContextManager[None]:
        turn: AbstractAsyncContextManager[None] = self._reconfiguration.turn()
        return turn

    async def _apply(
        self,
        saved: Sequence[Version],
        before: Mapping[str, Version],
        after: Mapping[str, Version],
    ) -> None:
        try:
            config = await self._reconfiguration.load(lambda _: projects_of(after))
        except ConfigErrors as error:
            raise not_saved(error) from error
        await self._store.add(saved)
        self._newest = after  # pollers that begin while it is applied ask for it
        try:
            await self._reconfiguration.use(config)
        except LitebotError as error:
            self._newest = before
            await self._store.withdraw(saved)
            await self._go_back(before, error)
            raise

    async def _go_back(self, before: Mapping[str, Version], error: LitebotError) -> None:
        """Use the projects again that there were.  Raises LitebotError if that fails, too."""
        try:
            config = await self._reconfiguration.load(lambda _: projects_of(before))
            await self._reconfiguration.use(config)
        except (ConfigErrors, LitebotError) as second:
            raise LitebotError(
                f"{error.what}; and what was before can't be used again: {second}",
                f"litebot restart {self.files.quoted}",
            ) from error

    async def _tell(self, saved: Sequence[Version]) -> None:
        for version in saved:
            message = {"name": version.name, "version": version.number}
            self.master.mq.produce((EVENTS, version.name, SAVED), message)

    # building

    async def build_first(self, name: str) -> None:
        """Ask for the first build of a project, unless it had one.

        This is called when its poller has noted how far the repository is: what is pushed before
        that is in this build, and what is pushed later is a change.
        """
        version = self.find(name)
        if version is not None and not await self.master.db.do_sql(_thd_was_built, name):
            await self.build(name, by=version.author.name, reason="first build")

    async def build(
        self,
        name: str,
        *,
        by: str,
        reason: str = "build now",
        branch: str | None = None,
        revision: str | None = None,
        properties: Mapping[str, Any] | None = None,
    ) -> int:
        """Ask for a build of a branch; return the id of its build request.

        Raises NoProject, and LitebotError if the scheduler refuses it.
        """
        self.get(name)
        asked = dict(properties or {})
        asked.update({k: v for k, v in (("branch", branch), ("revision", revision)) if v})
        scheduler = self.master.scheduler_manager.namedServices.get(force_scheduler(name))
        if scheduler is None:
            raise LitebotError(
                f"project {name} is not in use yet", f"litebot reconfig {self.files.quoted}"
            )
        try:
            _, brids = await scheduler.force(by, builderNames=[name], reason=reason, **asked)
        except CollectedValidationError as error:
            raise LitebotError(f"project {name} can't be built so: {error}") from error
        return int(next(iter(brids.values())))

    async def waiting_pulls(self, name: str) -> dict[str, str]:
        """Return the pull requests from forks that nobody has built yet: {ref: commit}."""
        poller = self._poller(name)
        seen = None if poller is None else await poller.pulls()
        return {} if seen is None else seen.waiting

    async def build_pull(self, name: str, ref: str, by: str) -> int:
        """Ask for a build of a pull request, as it was when it began to wait, if it does.

        `ref` may also be the number of one that waits.  Returns the id of its build request.
        Raises NoProject, and LitebotError if the ref is of no pull request.
        """
        waiting = await self.waiting_pulls(name)
        ref = next((each for each in waiting if ref in (each, str(number_of(each)))), ref)
        if number_of(ref) is None:
            raise LitebotError(
                f"{ref} is no pull request; these have refs such as {', '.join(LISTED)}",
                f"litebot project pulls {name} {self.files.quoted}",
            )
        brid = await self.build(name, by=by, branch=ref, revision=waiting.get(ref))
        await self._poller(name).let_through(ref)
        return brid

    def _poller(self, name: str) -> Any:
        """Return the poller of a project, whichever master polls; None if it is disabled."""
        return self.master.change_svc.namedServices.get(poller_name(self._project(name)))

    def look_now(self, name: str) -> None:
        """Have the poller of a project look at once, on whichever master it is."""
        self.master.mq.produce((EVENTS, name, LOOK), {"name": name})

    def _look(self, _key: Any, message: Mapping[str, Any]) -> None:
        if self.find(message["name"]) is None:
            return
        poller = self._poller(message["name"])
        if poller is not None and poller.active:
            poller.force()

    async def set_nightly(self, name: str, time: TimeOfDay | None) -> None:
        """Build a project at this time of each day, or at none."""
        scheduler = self.master.scheduler_manager.namedServices.get(nightly_scheduler(name))
        if scheduler is not None and await scheduler.set_time(time):
            self.master.mq.produce((EVENTS, name, NIGHTLY), {"name": name})

    def _take_nightly(self, _key: Any, message: Mapping[str, Any]) -> None:
        name = nightly_scheduler(message["name"])
        scheduler = self.master.scheduler_manager.namedServices.get(name)
        if scheduler is not None:
            scheduler.take_time().addErrback(lambda f: log.err(f, f"while setting {name}"))

    def scheduler_of(self, change: Mapping[str, Any]) -> str | None:
        """Return the one scheduler that gets a change which a project's poller found, or None.

        Schedulers of master.cfg don't know of projects: they would build it as their own.
        """
        version = self._current().get(change["project"])
        project = None if version is None else version.project
        if project is None or project.url != change["repository"]:
            return None
        return push_scheduler(project.name)

    def _project(self, name: str) -> Project:
        project = self.get(name).project
        assert project is not None
        return project

    # several masters

    @async_to_deferred
    async def startService(self) -> None:
        """Follow what other masters on the same database save."""
        await defer.maybeDeferred(super().startService)
        for left in (*self.files.path.glob(".look-*"), *self.files.path.glob(".key-*")):
            shutil.rmtree(left, ignore_errors=True)  # of a look that a kill cut off
        callbacks = {SAVED: self._follow, LOOK: self._look, NIGHTLY: self._take_nightly}
        for action, callback in callbacks.items():
            consumer = await self.master.mq.startConsuming(callback, (EVENTS, None, action))
            self._consumers.append(consumer)

    @async_to_deferred
    async def stopService(self) -> None:
        while self._consumers:
            await defer.maybeDeferred(self._consumers.pop().stopConsuming)
        await defer.maybeDeferred(super().stopService)

    def _follow(self, _key: Any, message: Mapping[str, Any]) -> None:
        known = self._current().get(message["name"])
        if known is None or known.number < message["version"]:
            d: defer.Deferred[Any] = defer.ensureDeferred(self.reload())
            why = "while applying the projects that another master has saved"
            d.addErrback(lambda failure: log.err(failure, why))

    async def reload(self) -> None:
        """Read all projects, and apply them."""
        async with self._turn():
            self._newest = by_name(await self._store.newest())
        if (failure := await self.master.reconfig()) is not None:
            log.msg(f"litebot: {failure.what}")


def _thd_was_built(sql: Sql, name: str) -> bool:
    """Return whether a build of a builder was ever asked for."""
    query = "SELECT id FROM builders WHERE name = ?"
    asked = "SELECT 1 FROM buildrequests WHERE builderid = ? LIMIT 1"
    return any(sql.row(asked, builderid) is not None for (builderid,) in sql.rows(query, name))
