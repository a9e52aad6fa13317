"""The start of a master, from the lock on its basedir to the message that it is ready."""

from __future__ import annotations

import os
from typing import Any

import sqlalchemy as sa
from buildbot.config.errors import ConfigErrors
from buildbot.util.twisted import async_to_deferred
from twisted.internet import defer
from twisted.python import log

from litebot.basedir import Basedir
from litebot.basedir import refused_by_system
from litebot.errors import ConfigError
from litebot.errors import LitebotError
from litebot.errors import SettingsError
from litebot.master import preflight
from litebot.master import recovery
from litebot.master.configuration.loader import ConfigLoader
from litebot.master.configuration.ports import configured_ports
from litebot.master.configuration.ports import require_free
from litebot.master.db import schema
from litebot.master.db.sqlite import commit_watermark
from litebot.master.limits import descriptors
from litebot.master.recovery.requests import complete_buildsets
from litebot.master.runtime import memory
from litebot.master.runtime import outcome
from litebot.master.runtime.error_log import logged_errors

# The name of a state file's only master in the table masters.  Buildbot's name is host:folder, so
# that a master which was moved would not recognize what it had claimed before.
SOLE_MASTER = "litebot"

# Source: https://github.com/python/cpython/issues/135034
UNSAFE_TARFILE = (
    "this Python unpacks hostile tar files outside their folder (CVE-2025-4517); uploads of"
    " directories do not depend on it, but code of yours may: use Python 3.11.13, 3.12.11, 3.13.4"
    " or later"
)


class Startup:
    """Starts `master`, once.

    If the master could not run well, the start fails with a LitebotError, which ends the process.
    Otherwise it repairs what an earlier process of the master has left half done, before anything
    is built.  `unreadable` is the error if litebot.toml could not be read.
    """

    def __init__(self, master: Any, unreadable: SettingsError | None) -> None:
        self._master = master
        self._unreadable = unreadable
        self._expected: commit_watermark.Content | None = None
        self._notes: list[str] = []  # what the user should know about a successful start
        self.startid: int | None = None  # the row of this start in litebot_starts

    def note(self, message: str | None) -> None:
        """Tell the user something, if not None, once the start has succeeded."""
        self._notes += [message] if message else []

    async def run(self, start_buildbot: Any) -> None:
        """Lock the basedir, check everything, start as Buildbot does, and report the outcome."""
        master = self._master
        memory.settle_imports()
        try:
            await self._run(start_buildbot)
        except LitebotError as error:
            master.shutdown.give_up(error)
        except OSError as error:
            master.shutdown.give_up(refused_by_system(master.files.path, error))
        except (Exception, SystemExit) as error:
            log.err(None, "while starting the master")
            master.shutdown.give_up(LitebotError(f"the master can't start: {error!r}"))

    async def _run(self, start_buildbot: Any) -> None:
        master = self._master
        running: defer.Deferred[None] = defer.Deferred()
        master.reactor.callWhenRunning(running.callback, None)
        await running
        master.ownership.take()
        descriptors.raise_limit(master.settings.limits.connections)
        if self._unreadable is not None:
            raise self._unreadable
        state_file = master.settings.database.sqlite_path(master.files.path)
        if state_file is not None:
            self._expected = commit_watermark.read(state_file)
        self._notes += preflight.check(master.files, master.settings)
        master.db.durability = master.settings.database.durability
        with logged_errors() as errors:
            await start_buildbot()
        # Buildbot gives the heartbeat a parent as the last part of a successful start.
        if master.masterHeartbeatService.parent is None:
            raise self._why_failed(errors)
        if master._got_sigterm or not master.ownership.is_held:
            raise LitebotError("the master was stopped while it started")
        await complete_buildsets(master)
        await master.outbox.resume()
        await master.cluster.take_part()
        await master.control.setServiceParent(master)
        master.files.keep_reserve()
        memory.settle_started()
        master.ownership.announce(master.url)
        master.note_outage()
        self._announce_ready()

    def _announce_ready(self) -> None:
        master = self._master
        notes = list(self._notes)
        if isinstance(master.config_loader, ConfigLoader):
            notes += master.config_loader.notes
        if not hasattr(os.path, "ALLOW_MISSING"):  # it came with the correction of tarfile
            log.msg(f"litebot: warning: {UNSAFE_TARFILE}")
        for note in notes:
            log.msg(f"litebot: {note}")
        outcome.ready(pid=os.getpid(), url=master.url, notes=notes)

    def _why_failed(self, errors: list[BaseException]) -> LitebotError:
        """Return why Buildbot's start failed, from what it has logged."""
        for error in errors:
            if isinstance(error, LitebotError):
                return error
        files, loader = self._master.files, self._master.config_loader
        if isinstance(loader, ConfigLoader) and loader.errors:
            return config_error(loader.errors, files)
        if errors:
            return LitebotError(f"the master can't start: {errors[-1]!r}")
        return LitebotError(f"the master can't start; the reason may be in {files.log_file}")

    # between opening the database and its first use

    @async_to_deferred
    async def begin(self) -> None:
        """Upgrade the tables, prove to other masters that this one is alive, and repair."""
        master, db, cluster = self._master, self._master.db, self._master.cluster
        await cluster.enter()
        for port in configured_ports(master.config):
            require_free(*port, master.settings, master.files)
        await db.pool.do(self._upgrade)
        master.masterid = await db.masters.findMasterId(name=master.name)
        await cluster.join()
        self.startid, findings = await db.pool.do(
            recovery.begin,
            master.name,
            master.name == SOLE_MASTER,
            master.settings.recovery.max_attempts,
            self._expected,
            master.masterid,
        )
        cluster.started_as(self.startid)
        for finding in findings:
            log.msg(f"found: {finding.message}")
        self._notes += [finding.message for finding in findings if finding.kind == recovery.LOST]
        await db.count_commits()
        await master.outbox.note_last()

    def _upgrade(self, conn: sa.engine.Connection) -> None:
        """Upgrade the tables.  Raises StoreError if another master uses them as they are."""
        schema.lock(conn)
        self._master.cluster.refuse_upgrade(conn)
        schema.upgrade(conn)


def config_error(errors: ConfigErrors, files: Basedir) -> ConfigError:
    """Return the errors of a configuration as one error for the user."""
    listed = "\n".join(f"  {line}" for line in str(errors).splitlines())
    return ConfigError(
        f"the configuration has errors:\n{listed}", f"litebot check-config {files.quoted}"
    )
