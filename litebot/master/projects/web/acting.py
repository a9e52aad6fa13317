"""The buttons on the page of a project: build now, look now, enable, show its hook."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from litebot.master.pages.answers import Page
from litebot.master.pages.answers import PageError
from litebot.master.pages.answers import Redirect
from litebot.master.pages.frame import Pages
from litebot.master.pages.request import PageRequest
from litebot.master.projects.web.changing import author_of
from litebot.master.projects.web.changing import require
from litebot.master.projects.web.hook import hook_path
from litebot.master.projects.web.hook import hook_secret


class Acting:
    """The handlers of these buttons."""

    def __init__(self, master: Any) -> None:
        self._master = master

    def add_to(self, pages: Pages) -> None:
        """Register them."""
        pages.add("projects/<name>/build", post=self.build)
        pages.add("projects/<name>/pull", post=self.build_pull)
        pages.add("projects/<name>/look", post=self.look)
        pages.add("projects/<name>/enable", post=self.enable)
        pages.add("projects/<name>/disable", post=self.disable)
        pages.add("projects/<name>/hook", post=self.hook)

    async def build(self, request: PageRequest) -> Redirect:
        """Ask for a build of a branch."""
        name = require(self._master.projects, request.names["name"]).name
        branch = request.value("branch").strip() or None
        await self._master.projects.build(name, by=author_of(request).name, branch=branch)
        return Redirect("projects", name, done="asked")

    async def build_pull(self, request: PageRequest) -> Redirect:
        """Build a pull request from a fork, as it was when the admin who asks looked at it."""
        name = require(self._master.projects, request.names["name"]).name
        ref, by = request.value("ref"), author_of(request).name
        waiting = await self._master.projects.waiting_pulls(name)
        if ref in waiting and waiting[ref] != request.value("revision"):
            raise PageError(409, f"{ref} has changed meanwhile.", "Look at it anew.")
        await self._master.projects.build_pull(name, ref, by)
        return Redirect("projects", name, done="asked")

    async def look(self, request: PageRequest) -> Redirect:
        """Ask the repository for new commits at once."""
        name = require(self._master.projects, request.names["name"]).name
        self._master.projects.look_now(name)
        return Redirect("projects", name, done="looked")

    async def enable(self, request: PageRequest) -> Redirect:
        """Have new commits built."""
        return await self._set_enabled(request, True)

    async def disable(self, request: PageRequest) -> Redirect:
        """Have new commits not built."""
        return await self._set_enabled(request, False)

    async def _set_enabled(self, request: PageRequest, enabled: bool) -> Redirect:
        version = require(self._master.projects, request.names["name"])
        assert version.project is not None
        done = "enabled" if enabled else "disabled"
        if version.project.enabled != enabled:
            changed = replace(version.project, enabled=enabled)
            await self._master.projects.save(changed, author_of(request, done), version.number)
        return Redirect("projects", version.name, done=done)

    async def hook(self, request: PageRequest) -> Page:
        """Show the address of a hook, with its secret; a GET would leave it in histories."""
        name = require(self._master.projects, request.names["name"]).name
        values = {
            "name": name,
            "address": f"{self._master.config.buildbotURL}{hook_path(name)}",
            "secret": hook_secret(self._master.files, name),
        }
        return Page("projects/hook.html", values)
