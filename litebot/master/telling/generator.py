"""Which builds of a project are told of."""

from __future__ import annotations

from typing import Any

from buildbot.process.results import RETRY
from buildbot.process.results import SKIPPED
from buildbot.process.results import SUCCESS
from buildbot.reporters import utils
from buildbot.reporters.generators.build import BuildStatusGenerator
from buildbot.util.twisted import async_to_deferred

from litebot.master.telling.base import About
from litebot.master.telling.begin import BEGUN
from litebot.master.telling.facts import TELLING
from litebot.master.telling.facts import facts_of
from litebot.master.telling.facts import is_elsewhere
from litebot.master.telling.facts import thd_result_before

END = ("builds", None, "finished")
BEGIN = ("builds", None, BEGUN)


class ProjectBuilds(BuildStatusGenerator):
    """Makes a report of each build of a project that ends, and with `begins` also that begins.

    With `only_changes` only of those with another result than the one before, of the same branch
    and cell of the matrix; a first one that is good is no change.  A build that is tried again, or
    that has nothing to do, is not told of.
    """

    compare_attrs = ("about", "begins", "only_changes")

    def __init__(
        self, about: About, formatter: Any, *, begins: bool = False, only_changes: bool = False
    ) -> None:
        super().__init__(
            mode="change" if only_changes else "all",
            builders=[about.name],
            message_formatter=formatter,
        )
        self.about = about
        self.begins = begins
        self.only_changes = only_changes
        self.wanted_event_keys = [END, BEGIN] if begins else [END]

    @async_to_deferred
    async def generate(self, master: Any, reporter: Any, key: Any, build: Any) -> Any:
        """Return a report, or None."""
        if build["builderid"] != reporter.only_builderid or build["results"] in (RETRY, SKIPPED):
            return None
        await utils.getDetailsForBuild(
            master, build, want_properties=True, want_steps=self.formatter.want_steps
        )
        if is_elsewhere(build, self.about):
            return None
        if self.only_changes and not await self._is_change(master, build):
            return None
        return await self.build_message(self.formatter, master, reporter, build)

    async def _is_change(self, master: Any, build: Any) -> bool:
        facts = facts_of(build, self.about)
        before = await master.db.do_sql(
            thd_result_before, build["builderid"], build["number"], facts, self.about.branch
        )
        build["prev_build"] = None if before is None else {"results": before}
        results = build["results"]
        return results in TELLING and results != (SUCCESS if before is None else before)
