"""Where projects are kept: an interface, and the table of the master's database behind it.

The other one behind it is in `folder`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path
from typing import Any
from typing import Protocol

from litebot.basedir import Basedir
from litebot.errors import LitebotError
from litebot.master.projects.kept import versions
from litebot.master.projects.kept.folder import FolderStore
from litebot.master.projects.kept.versions import Version
from litebot.projects.definition import Project
from litebot.projects.definition import to_toml
from litebot.settings import Database
from litebot.settings import Settings


class ProjectStore(Protocol):
    """Keeps all versions of all projects."""

    # Whether versions are only added here, so that those that were read once stay the newest.
    is_kept: bool

    def load(self) -> list[Version]:
        """Return the newest versions; called before the database is open, or in a thread.

        Raises LitebotError if they can't be read.
        """

    async def newest(self) -> list[Version]:
        """Return the newest version of each project, also of removed ones."""

    async def history(self, name: str) -> list[Version]:
        """Return all versions of a project, the newest first."""

    def require_writable(self) -> None:
        """Raise LitebotError if versions can't be added."""

    async def add(self, added: Sequence[Version]) -> None:
        """Add versions, all or none; they survive a crash when this returns.

        Raises Conflict if the version before one of them is not the newest of its project.
        """

    async def withdraw(self, added: Sequence[Version]) -> None:
        """Take back versions that were added last and never came into effect."""


@dataclass(frozen=True)
class TableStore:
    """Keeps projects in the table litebot_projects.

    `settings` say where the database of the basedir is; `database` returns it once it is open.
    """

    files: Basedir
    settings: Database
    database: Callable[[], Any] = field(compare=False)
    is_kept = True

    def load(self) -> list[Version]:
        return versions.stored(
            self.files, self.settings, stopped=self.files.owner() is None or _is_mine(self.files)
        )

    async def newest(self) -> list[Version]:
        found: list[Version] = await self.database().do_sql(versions.thd_newest)
        return found

    async def history(self, name: str) -> list[Version]:
        found: list[Version] = await self.database().do_sql(versions.thd_history, name)
        return found

    def require_writable(self) -> None:
        pass

    async def add(self, added: Sequence[Version]) -> None:
        await self.database().do_sql(versions.thd_add, rows_of(added))
        await self.database().on_disk()

    async def withdraw(self, added: Sequence[Version]) -> None:
        await self.database().do_sql(versions.thd_withdraw, added)
        await self.database().on_disk()


def _is_mine(files: Basedir) -> bool:
    """Return whether this process owns a basedir; it has not opened the database yet."""
    owner = files.owner()
    return owner is not None and owner.pid == os.getpid()


def store_for(files: Basedir, settings: Settings, database: Callable[[], Any]) -> ProjectStore:
    """Return where the projects of a basedir are, by its settings."""
    if directory := settings.projects.directory:
        return FolderStore(files, Path(files.path, directory))
    return TableStore(files, settings.database, database)


def projects_in(files: Basedir, settings: Settings) -> list[Project]:
    """Return the projects of a basedir, whether its master runs or not.

    Raises LitebotError if they can't be read.
    """

    def closed() -> None:
        raise AssertionError("the database is not open here")

    found = store_for(files, settings, closed).load()
    return [version.project for version in found if version.project is not None]


def rows_of(added: Sequence[Version]) -> list[tuple[Version, str | None]]:
    """Return versions with their definitions, as `thd_add` takes them."""
    return [
        (version, None if version.project is None else to_toml(version.project))
        for version in added
    ]


class NoProject(LitebotError):
    """There is no such project."""
