"""The projects that are defined on the page and by command, whether their master runs or not."""

from __future__ import annotations

import abc
import difflib
import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from buildbot.config.errors import ConfigErrors

from litebot.basedir import Basedir
from litebot.errors import LitebotError
from litebot.errors import MasterNotRunning
from litebot.master.projects.kept.folder import FolderStore
from litebot.master.projects.kept.store import NoProject
from litebot.master.projects.kept.store import ProjectStore
from litebot.master.projects.kept.store import TableStore
from litebot.master.projects.kept.store import store_for
from litebot.master.projects.kept.versions import Author
from litebot.master.projects.kept.versions import Conflict
from litebot.master.projects.kept.versions import Taken
from litebot.master.projects.kept.versions import Version
from litebot.master.projects.logins import secret_files
from litebot.projects.definition import Project
from litebot.settings import Database
from litebot.settings import Settings

# The comment of a version that is an older one again.
AGAIN = "version {} again"


class Projects(abc.ABC):
    """All projects of a basedir, and how they are changed.

    A change is checked as a whole, written, and applied; where one of these fails, all is as it
    was.
    """

    def __init__(self, files: Basedir, database: Callable[[], Any]) -> None:
        super().__init__()
        self.files = files
        self._database = database
        self._store: ProjectStore = TableStore(files, Database(), database)
        self._newest: Mapping[str, Version] | None = None  # also those that are removed

    # reading

    def configured(self, settings: Settings) -> list[Project]:
        """Return the projects for a configuration that is loaded, perhaps in a thread.

        Raises LitebotError if they can't be read.
        """
        store = store_for(self.files, settings, self._database)
        # Of a table, what was read once stays the newest; another database takes a restart.
        if self._newest is None or not (store.is_kept and self._store.is_kept):
            self._newest = by_name(store.load())
            self._store = store
        return projects_of(self._newest)

    def all(self) -> list[Version]:
        """Return the newest version of each project that is not removed, by name."""
        newest = (self._newest or {}).values()
        return sorted((v for v in newest if v.project is not None), key=lambda v: v.name.lower())

    def all_and_removed(self) -> list[Version]:
        """Return the newest version of each project that there is or was, by name."""
        return sorted(self._current().values(), key=lambda v: v.name.lower())

    def find(self, name: str) -> Version | None:
        """Return the newest version of a project, or None if there is no such project."""
        found = self._current().get(name)
        return None if found is None or found.project is None else found

    def get(self, name: str) -> Version:
        """Return the newest version of a project.  Raises NoProject."""
        found = self.find(name)
        removed = self._current().get(name)
        if found is None and removed is not None:
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(removed.saved_at))
            raise NoProject(
                f"there is no project {name} any more: {removed.author.name} removed it at {when}",
                f"litebot project undo {name} {self.files.quoted}  # brings it back",
            )
        if found is None:
            near = difflib.get_close_matches(name, [version.name for version in self.all()], n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise NoProject(
                f"there is no project {name}{meant}",
                f"litebot project list {self.files.quoted}",
            )
        return found

    @property
    def folder(self) -> Path | None:
        """The folder whose files decide, so that nothing can be saved here; or None."""
        return self._store.folder if isinstance(self._store, FolderStore) else None

    async def history(self, name: str) -> list[Version]:
        """Return all versions of a project, the newest first.  Raises NoProject."""
        found = await self._store.history(name)
        if not found:
            self.get(name)
        return found

    async def try_telling(self, name: str, only: str = "") -> list[dict[str, Any]]:
        """Send a test message to those whom a project tells, as the lines that begin with `only`.

        Returns a dict for each: see telling.trying.  Raises NoProject, and LitebotError if there is
        no such line.
        """
        project = self.get(name).project
        assert project is not None
        lines = [line for line in project.tell if line.startswith(only)]
        if not lines:
            such = f" that begins with {only!r}" if only else ""
            raise LitebotError(
                f"project {name} tells nobody{such}",
                f"litebot project edit --tell 'mail team@example.org' {name} {self.files.quoted}",
            )
        return await self._try_lines(project, lines)

    def require_free(self, name: str) -> None:
        """Raise Taken if there is a project of this name."""
        if (found := self.find(name)) is not None:
            raise Taken(found, self.files.quoted)

    # changing

    async def save(self, project: Project, author: Author, base: int | None = None) -> Version:
        """Save and apply a project.

        `base` is the number of the version that it was made from, 0 for a new one, which may have
        the name of a removed one; None means the newest.  Raises Conflict if another one is the
        newest, and LitebotError if it can't be applied.
        """
        return await self._save_one(project.name, project, author, base)

    async def remove(self, name: str, author: Author, base: int | None = None) -> Version:
        """Remove a project; its builds stay.  Raises NoProject, and what `save` raises."""
        self.get(name)
        return await self._save_one(name, None, author, base)

    async def undo(
        self, name: str, author: Author, to: int | None = None, base: int | None = None
    ) -> Version:
        """Save an older version anew: version `to`, or the one before the newest.

        Where the newest is itself an older one that was saved anew, that is the one before that.

        Raises NoProject, LitebotError if there is no such version, and what `save` raises.
        """
        self._store.require_writable()
        history = {version.number: version for version in await self.history(name)}
        number = _origin(history) - 1 if to is None else to
        if number == 0 and to is None:
            raise LitebotError(
                f"project {name} is as it was at first; there is no older version of it",
                f"litebot project undo --to {max(history)} {name} {self.files.quoted}",
            )
        if number not in history:
            raise LitebotError(
                f"project {name} has no version {number}; it has 1 to {max(history)}",
                f"litebot project history {name} {self.files.quoted}",
            )
        author = author._replace(comment=author.comment or AGAIN.format(number))
        return await self._save_one(name, history[number].project, author, base)

    async def _save_one(
        self, name: str, project: Project | None, author: Author, base: int | None
    ) -> Version:
        bases = {} if base is None else {name: base}
        (saved,) = await self.save_all({name: project}, author, bases)
        return saved

    async def save_all(
        self,
        changed: Mapping[str, Project | None],
        author: Author,
        bases: Mapping[str, int] | None = None,
    ) -> list[Version]:
        """Save and apply several projects, all or none; None removes one.  See `save`."""
        self._store.require_writable()
        async with self._turn():
            # Another master on the same database may have saved something meanwhile.
            self._newest = before = by_name(await self._store.newest())
            for name in (name for name, base in (bases or {}).items() if base == 0):
                self.require_free(name)
            saved = list(_next_versions(before, changed, author, bases or {}))
            for version in saved:
                if version.project is not None:
                    old = before.get(version.name)
                    known = None if old is None else old.project
                    secret_files.require(self.files, version.project, known)
            after = {**before, **by_name(saved)}
            await self._apply(saved, before, after)
        await self._tell(saved)
        return saved

    async def waiting_pulls(self, name: str) -> dict[str, str]:
        """Return the pull requests from forks that nobody has built yet: {ref: commit}."""
        raise self._needs_master(name)

    async def build_pull(self, name: str, ref: str, by: str) -> int:
        """Ask for a build of a pull request from a fork; return the id of its build request."""
        raise self._needs_master(name)

    def _needs_master(self, name: str) -> LitebotError:
        self.get(name)
        return MasterNotRunning(
            f"no master runs in {self.files.path}", f"litebot start {self.files.quoted}"
        )

    @abc.abstractmethod
    async def _try_lines(self, project: Project, lines: Sequence[str]) -> list[dict[str, Any]]:
        """Send a test message as each line says."""

    @abc.abstractmethod
    def _turn(self) -> AbstractAsyncContextManager[None]:
        """Keep others from changing the configuration meanwhile."""

    @abc.abstractmethod
    async def _apply(
        self,
        saved: Sequence[Version],
        before: Mapping[str, Version],
        after: Mapping[str, Version],
    ) -> None:
        """Check the versions `after`, add those that are new to the store, and use them."""

    @abc.abstractmethod
    async def _tell(self, saved: Sequence[Version]) -> None:
        """Do what comes after a change."""

    def _current(self) -> Mapping[str, Version]:
        return self._newest or {}


def _next_versions(
    before: Mapping[str, Version],
    changed: Mapping[str, Project | None],
    author: Author,
    bases: Mapping[str, int],
) -> Iterator[Version]:
    """Yield the versions that a change makes.  Raises Conflict."""
    now = time.time()
    for name, project in changed.items():
        last = before.get(name)
        number = 0 if last is None else last.number
        if last is not None and (bases.get(name) or number) != number:
            raise Conflict(last)
        if project is not None:
            _refuse_like(name, before, changed)
        yield Version(name, number + 1, project, now, author)


def _origin(history: Mapping[int, Version]) -> int:
    """Return the number of the version that the newest one is again, or its own."""
    number = max(history)
    while True:
        version = history[number]
        earlier = next(
            (
                other
                for other in range(number - 1, 0, -1)
                if version.author.comment == AGAIN.format(other)
                and history[other].project == version.project
            ),
            None,
        )
        if earlier is None:
            return number
        number = earlier


def not_saved(errors: ConfigErrors) -> LitebotError:
    """Return the error for a change after which the configuration would be faulty."""
    return LitebotError("nothing was saved: " + "\n".join(errors.errors))


def by_name(found: Iterable[Version]) -> dict[str, Version]:
    """Return versions by the names of their projects."""
    return {version.name: version for version in found}


def projects_of(newest: Mapping[str, Version]) -> list[Project]:
    """Return the projects of versions, without those that were removed."""
    return [version.project for version in newest.values() if version.project is not None]


def _refuse_like(
    name: str, known: Mapping[str, Version], changed: Mapping[str, Project | None]
) -> None:
    """Raise LitebotError if another project has the same name but for capital letters."""
    there = {other for other, version in known.items() if version.project is not None}
    there |= {other for other, project in changed.items() if project is not None}
    for other in sorted(there):
        if other != name and other.lower() == name.lower():
            raise LitebotError(
                f"project {name} would differ from {other} in capital letters alone; some disks"
                " take both names for the same",
                "give it another name",
            )
