"""The projects of a master that is stopped: changes come into effect when it starts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from contextlib import asynccontextmanager
from typing import Any

from buildbot.config.errors import ConfigErrors

from litebot.basedir import Basedir
from litebot.errors import LitebotError
from litebot.master.projects.kept.store import store_for
from litebot.master.projects.kept.versions import Version
from litebot.master.projects.projects import Projects
from litebot.master.projects.projects import by_name
from litebot.master.projects.projects import not_saved
from litebot.master.projects.projects import projects_of
from litebot.projects.definition import Project
from litebot.settings import Settings


class StoppedProjects(Projects):
    """Checks changes with `loader`, a ConfigLoader, and writes them."""

    def __init__(self, files: Basedir, database: Any, loader: Any) -> None:
        super().__init__(files, lambda: database)
        self._loader = loader

    async def read(self, settings: Settings) -> None:
        """Read the projects.  Raises LitebotError if they can't be read."""
        self._store = store_for(self.files, settings, self._database)
        self._newest = by_name(await self._store.newest())

    async def _try_lines(self, project: Project, lines: Sequence[str]) -> list[dict[str, Any]]:
        raise LitebotError(
            "the master is stopped, and a message is sent by one that runs",
            f"litebot start {self.files.quoted}",
        )

    def _turn(self) -> AbstractAsyncContextManager[None]:
        return _alone()

    async def _apply(
        self,
        saved: Sequence[Version],
        before: Mapping[str, Version],
        after: Mapping[str, Version],
    ) -> None:
        try:
            self._loader.load_with(lambda _: projects_of(after))
        except ConfigErrors as error:
            raise not_saved(error) from error
        await self._store.add(saved)
        self._newest = after

    async def _tell(self, saved: Sequence[Version]) -> None:
        pass


@asynccontextmanager
async def _alone() -> AsyncIterator[None]:
    yield
