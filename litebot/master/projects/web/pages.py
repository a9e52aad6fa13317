"""The pages of projects that only show something: the overview, and the page of each project."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from litebot.master.delivery.source_problems import Problem
from litebot.master.pages.access import may_read
from litebot.master.pages.answers import Page
from litebot.master.pages.answers import Redirect
from litebot.master.pages.frame import Pages
from litebot.master.pages.request import PageRequest
from litebot.master.projects.building.names import poller_name
from litebot.master.projects.kept.store import NoProject
from litebot.master.projects.kept.versions import Version
from litebot.master.projects.logins.deploy_keys import public_key
from litebot.master.projects.web.acting import Acting
from litebot.master.projects.web.adding import Adding
from litebot.master.projects.web.branches import Branch
from litebot.master.projects.web.branches import branches_of
from litebot.master.projects.web.branches import thd_branches
from litebot.master.projects.web.changing import Changing
from litebot.master.projects.web.changing import require
from litebot.master.projects.web.form_values import hidden_keys
from litebot.master.projects.web.form_values import shown_value
from litebot.master.projects.web.overview import Activity
from litebot.master.projects.web.overview import Origin
from litebot.master.projects.web.overview import ShownBuild
from litebot.master.projects.web.overview import thd_activity
from litebot.projects.addresses import shown
from litebot.projects.build_file import FILE_NAME
from litebot.projects.definition import KEYS
from litebot.projects.definition import Project

TEMPLATES = Path(__file__).parent / "templates"
# The builds that the page of a project shows.
LISTED, PLOTTED = 20, 50
NOTICES = {
    "added": "Added. Its first build begins as soon as a worker is free.",
    "saved": "Saved. What runs goes on as it began; what begins now has the new settings.",
    "removed": "Removed. Its builds stay, and its history can bring it back.",
    "restored": "Restored.",
    "asked": "A build is asked for.",
    "looked": "The repository is asked for new commits.",
    "enabled": "Enabled: new commits are built.",
    "disabled": "Disabled: new commits are not built. Its builds can still be asked for.",
}


@dataclass(frozen=True)
class Row:
    """A project or, of master.cfg, a builder on the overview."""

    name: str
    activity: Activity
    group: str = ""
    address: str = ""
    is_enabled: bool = True
    # Of a project: the branch that it is about, and how that is.
    branch: str = ""
    own: Branch | None = None
    is_unreadable: bool = False

    @property
    def result(self) -> ShownBuild | None:
        """The build that says how it is."""
        if self.branch:
            return None if self.own is None else self.own.build
        return self.activity.last_ended or self.activity.last

    @property
    def origin(self) -> Origin:
        """What that build was made of."""
        return self.activity.origin if self.own is None else self.own.origin


class ProjectPages:
    """Shows the projects of a master; `changing` has the forms that change them."""

    def __init__(self, master: Any) -> None:
        self._master = master
        self._changing = Changing(master)

    def add_to(self, pages: Pages) -> None:
        """Register all pages of projects."""
        changing = self._changing
        pages.add_templates(TEMPLATES)
        pages.add_entry("Projects", "")
        pages.add("", self.overview)
        pages.add("projects", self.all)
        adding = Adding(self._master)
        pages.add("projects/add", adding.ask_address, post=adding.add)
        pages.add("projects/<name>", self.project)
        pages.add("projects/<name>/edit", changing.edit, post=changing.save)
        pages.add("projects/<name>/history", changing.history)
        pages.add("projects/<name>/undo", post=changing.undo)
        pages.add("projects/<name>/remove", changing.ask_remove, post=changing.remove)
        Acting(self._master).add_to(pages)

    async def all(self, request: PageRequest) -> Redirect:
        """Lead to the overview, where all projects are."""
        return Redirect()

    async def overview(self, request: PageRequest) -> Page:
        """Show all projects, and the builders that master.cfg defines itself."""
        versions = self._master.projects.all()
        ours = {version.name for version in versions}
        others = [each for each in self._master.config.builders if each.name not in ours]
        names = [*ours, *(each.name for each in others)]
        found = await self._master.db.do_sql(thd_activity, names)
        own = await self._own(versions, found)
        values = {
            "rows": list(self._rows(versions, found, own)),
            "others": [
                Row(each.name, found.get(each.name, Activity(0)), each.project or "")
                for each in sorted(others, key=lambda each: (each.project or "", each.name))
            ],
            "notice": NOTICES.get(request.value("done")),
            "of": request.value("of"),
            "basedir": self._master.files.quoted,
            "folder": self._master.projects.folder,
        }
        return Page("projects/overview.html", values)

    async def project(self, request: PageRequest) -> Page:
        """Show a project, its last builds, and its settings."""
        name = request.names["name"]
        if (removed := await self._removed(name)) is not None:
            return Page("projects/removed.html", {"name": name, "removed": removed}, 404)
        version = require(self._master.projects, name)
        project = version.project
        assert project is not None
        found = await self._master.db.do_sql(thd_activity, [name], PLOTTED, PLOTTED)
        activity = found.get(name, Activity(0))
        own = await self._own([version], found)
        branches = list(branches_of(activity))
        hidden = {"url", "branch", "steps", *hidden_keys(request.is_admin)}
        values = {
            "version": version,
            "project": project,
            "address": shown(project.url),
            "activity": activity,
            "builds": activity.builds[: -LISTED - 1 : -1],
            "own": own.get(activity.builderid),
            "branches": [each for each in branches if not each.is_pull],
            "built_pulls": [each for each in branches if each.is_pull],
            "settings": [
                (KEYS[key].metadata["label"], shown_value(key, value))
                for key, value in project.values().items()
                if value != KEYS[key].default and key not in hidden
            ],
            "pulls": await self._pulls(request, name),
            "problems": await self._problems(request, project),
            "public_key": public_key(self._master.files, project) if request.is_admin else None,
            "file_name": FILE_NAME,
            "folder": self._master.projects.folder,
            "notice": NOTICES.get(request.value("done")),
        }
        return Page("projects/project.html", values)

    async def _own(
        self, versions: Sequence[Version], found: dict[str, Activity]
    ) -> dict[int, Branch]:
        """Return how the branch of each project is, by the ids of their builders."""
        wanted = {
            found[version.name].builderid: version.project.branch
            for version in versions
            if version.project is not None and version.name in found
        }
        own: dict[int, Branch] = await self._master.db.do_sql(thd_branches, wanted)
        return own

    async def _removed(self, name: str) -> Version | None:
        """Return the version that has removed a project, if it is removed."""
        if self._master.projects.find(name) is not None:
            return None
        try:
            newest: Version = (await self._master.projects.history(name))[0]
        except NoProject:
            return None
        return newest if newest.project is None else None

    async def _problems(self, request: PageRequest, project: Project) -> list[Problem]:
        """Return why a repository can't be read, for those who may read of change sources."""
        found: list[Problem] = self._master.source_problems.of(poller_name(project))
        return found if found and await may_read(request, "changesources") else []

    async def _pulls(self, request: PageRequest, name: str) -> dict[str, str]:
        """Return the pull requests from forks that wait for an admin, {ref: commit}."""
        if not request.is_admin:
            return {}
        found: dict[str, str] = await self._master.projects.waiting_pulls(name)
        return found

    def _rows(
        self, versions: Sequence[Version], found: dict[str, Activity], own: dict[int, Branch]
    ) -> Iterable[Row]:
        for version in versions:
            project = version.project
            assert project is not None
            activity = found.get(version.name, Activity(0))
            yield Row(
                version.name,
                activity,
                "",
                shown(project.url),
                project.enabled,
                project.branch,
                own.get(activity.builderid),
                bool(self._master.source_problems.of(poller_name(project))),
            )
