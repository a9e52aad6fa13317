"""The forms in which admins edit, remove and restore projects."""

from __future__ import annotations

from typing import Any

from litebot.errors import LitebotError
from litebot.master.pages.answers import Page
from litebot.master.pages.answers import PageError
from litebot.master.pages.answers import Redirect
from litebot.master.pages.answers import sentence
from litebot.master.pages.request import PageRequest
from litebot.master.projects.kept.store import NoProject
from litebot.master.projects.kept.versions import PAGE
from litebot.master.projects.kept.versions import Author
from litebot.master.projects.kept.versions import Conflict
from litebot.master.projects.kept.versions import Version
from litebot.master.projects.web import form_values
from litebot.projects.definition import DefinitionError
from litebot.projects.definition import from_values

LONGEST_COMMENT = 200


class Changing:
    """The handlers of these forms; a form that can't be saved is shown again as it was sent."""

    def __init__(self, master: Any) -> None:
        self._master = master

    # editing

    async def edit(self, request: PageRequest) -> Page:
        """Show the settings of a project as a form."""
        version = require(self._master.projects, request.names["name"])
        require_writable(self._master.projects)
        assert version.project is not None
        return self._form(version, version.project.values(), version.number)

    async def save(self, request: PageRequest) -> Page | Redirect:
        """Save the settings; where somebody else has saved meanwhile, show the difference."""
        name = request.names["name"]
        version = require(self._master.projects, name)
        base, given = _number(request, "base"), form_values.values_in(request)
        assert version.project is not None
        values = {**version.project.values(), **given}
        comment = request.value("comment").strip()[:LONGEST_COMMENT]
        try:
            project = from_values(name, values)
            await self._master.projects.save(project, author_of(request, comment), base)
        except DefinitionError as error:
            return self._form(version, values, base, error.faults, comment=comment)
        except Conflict as error:
            return await self._differ(error.theirs, project.values(), base, comment)
        except LitebotError as error:
            text = sentence(text_of(error))
            return self._form(version, values, base, error=text, comment=comment)
        return Redirect("projects", name, done="saved")

    async def _differ(self, theirs: Version, mine: dict[str, Any], base: int, comment: str) -> Page:
        """Show what somebody else has saved since version `base`, and both together as a form."""
        history = await self._master.projects.history(theirs.name)
        before = next((each.project for each in history if each.number == base), None)
        if theirs.project is None or before is None:
            raise PageError(409, "Somebody has removed this project meanwhile.")
        together = form_values.merged(before, theirs.project, mine)
        page = self._form(theirs, together, theirs.number, comment=comment)
        differences = form_values.clashes(before, theirs.project, mine)
        found = {"differences": differences, "is_conflict": True}
        return Page(page.template, {**page.values, **found}, 409)

    def _form(
        self,
        version: Version,
        values: dict[str, Any],
        base: int,
        faults: dict[str, LitebotError] | None = None,
        *,
        error: str = "",
        comment: str = "",
    ) -> Page:
        fields = form_values.fields_of(values, faults)
        shown_values = {
            "name": version.name,
            "version": version,
            "base": base,
            "groups": form_values.groups_of(fields),
            "comment": comment,
            "error": error,
            "faulty": [field for field in fields.values() if field.error],
            "differences": [],
            "is_conflict": False,
        }
        return Page("projects/edit.html", shown_values, 422 if error or faults else 200)

    # the history

    async def history(self, request: PageRequest) -> Page:
        """Show all versions of a project, also of a removed one."""
        name = request.names["name"]
        try:
            versions = await self._master.projects.history(name)
        except NoProject as error:
            raise PageError(404, f"There is no project {name}.") from error
        before = [*(each.project for each in versions[1:]), None]
        hidden = form_values.hidden_keys(request.is_admin)
        rows = [
            (version, form_values.changes(old, version.project, hidden))
            for version, old in zip(versions, before, strict=True)
        ]
        may_change = request.is_admin and self._master.projects.folder is None
        shown_values = {"rows": rows, "newest": versions[0], "may_change": may_change}
        return Page("projects/history.html", {"name": name, **shown_values})

    async def undo(self, request: PageRequest) -> Redirect:
        """Save an older version anew."""
        name = request.names["name"]
        to, base = _number(request, "to"), _number(request, "base")
        saved = await self._master.projects.undo(name, author_of(request, ""), to, base)
        if saved.project is None:
            return Redirect(done="removed", of=name)
        return Redirect("projects", name, done="restored")

    async def ask_remove(self, request: PageRequest) -> Page:
        """Ask whether a project is really to be removed."""
        version = require(self._master.projects, request.names["name"])
        require_writable(self._master.projects)
        return Page("projects/remove.html", {"name": version.name, "version": version})

    async def remove(self, request: PageRequest) -> Redirect:
        """Remove a project."""
        name = request.names["name"]
        require(self._master.projects, name)
        author = author_of(request, "removed")
        await self._master.projects.remove(name, author, _number(request, "base"))
        return Redirect(done="removed", of=name)


def require(projects: Any, name: str) -> Version:
    """Return the newest version of a project.  Raises PageError 404."""
    try:
        found: Version = projects.get(name)
    except NoProject as error:
        raise PageError(404, f"{error.what[:1].upper()}{error.what[1:]}.") from error
    return found


def require_writable(projects: Any) -> None:
    """Raise PageError 409 where the files of a folder decide."""
    if projects.folder is not None:
        what = f"The projects are what the files in {projects.folder} say; they are changed there."
        raise PageError(409, what, f"Then: litebot reconfig {projects.files.quoted}")


def author_of(request: PageRequest, comment: str = "") -> Author:
    """Return who saves something on a page, and what for."""
    return Author(request.user or "anonymous", PAGE, comment)


def _number(request: PageRequest, field: str) -> int:
    """Return the number of a version in a form.  Raises PageError 400."""
    text = request.value(field)
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise PageError(400, f"The form has no number of a version in {field}.")
    return int(text)


def text_of(error: LitebotError) -> str:
    """Return what an error says, and its remedy."""
    return "\n".join(filter(None, (error.what, error.hint)))
