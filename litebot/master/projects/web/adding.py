"""The forms in which an admin adds a project: its address, keys for SSH, and what it will be."""

from __future__ import annotations

from typing import Any

from litebot.errors import LitebotError
from litebot.master.pages.answers import Page
from litebot.master.pages.answers import Redirect
from litebot.master.pages.answers import sentence
from litebot.master.pages.request import PageRequest
from litebot.master.projects.kept.versions import Conflict
from litebot.master.projects.kept.versions import Version
from litebot.master.projects.logins import deploy_keys
from litebot.master.projects.logins import secret_files
from litebot.master.projects.logins.git import Login
from litebot.master.projects.logins.host_keys import host_key
from litebot.master.projects.looking import NO_LOGIN
from litebot.master.projects.looking import Sighting
from litebot.master.projects.looking import look
from litebot.master.projects.web import form_values
from litebot.master.projects.web.changing import author_of
from litebot.master.projects.web.changing import require_writable
from litebot.master.projects.web.changing import text_of
from litebot.projects.addresses import check_address
from litebot.projects.addresses import check_name
from litebot.projects.addresses import is_ssh
from litebot.projects.addresses import shown
from litebot.projects.addresses import suggested_name
from litebot.projects.definition import DefinitionError
from litebot.projects.definition import checked
from litebot.projects.definition import from_values
from litebot.projects.logins import is_http
from litebot.projects.logins import key_name

# The keys of a project that say how git logs in, as `Login` has them.
LOGIN = ("key", "password", "host_key")


class Adding:
    """The handlers of these forms; each has in it what the ones before it have found."""

    def __init__(self, master: Any) -> None:
        self._master = master

    async def ask_address(self, request: PageRequest) -> Page:
        """Ask for the address of a repository."""
        require_writable(self._master.projects)
        return Page("projects/address.html", self._address(request.value("url")))

    async def add(self, request: PageRequest) -> Page | Redirect:
        """Look at a repository, and show what to add; or add it."""
        require_writable(self._master.projects)
        if request.value("step") == "save":
            return await self._add_now(request)
        url = request.value("url").strip()
        login, wanted = NO_LOGIN, request.value("name").strip()
        try:
            login = Login(*(str(checked(key, request.value(key).strip())) for key in LOGIN))
            url = check_address(url)
            name = check_name(wanted or self._free_name(suggested_name(url)))
            if is_ssh(url) and not (login.key and login.host_key):
                return await self._exchange_keys(url, name)
        except LitebotError as error:
            return Page(
                "projects/address.html", self._address(url, wanted, login, text_of(error)), 422
            )
        try:
            found = await look(self._master.reactor, self._master.files, url, None, login)
        except LitebotError as error:
            if is_ssh(url):
                return await self._exchange_keys(url, name, login, text_of(error))
            return Page(
                "projects/address.html", self._address(url, wanted, login, text_of(error)), 422
            )
        values = {"url": found.url, "branch": found.branch}
        values |= {key: getattr(login, key) for key in LOGIN}
        if found.file is None:
            values["steps"] = found.proposed
        return self._confirm(values, name, found)

    def _address(
        self, url: str, name: str = "", login: Login = NO_LOGIN, error: str = ""
    ) -> dict[str, Any]:
        asks_password = bool(error) and is_http(url)
        shown_password = login.password if asks_password else None
        return {"url": url, "name": name, "error": error, "password": shown_password}

    async def _exchange_keys(
        self, url: str, name: str, login: Login = NO_LOGIN, error: str = ""
    ) -> Page:
        """Show the key of an SSH server, to be confirmed, and the public one of the project."""
        files, reactor = self._master.files, self._master.reactor
        key = login.key or (await deploy_keys.make(reactor, files, name))[0]
        server = await host_key(reactor, files, url)
        values = {
            "name": name,
            "url": url,
            "address": shown(url),
            "key": key,
            "public": deploy_keys.described(secret_files.read_key(files, key), name),
            "server": server,
            "error": error,
        }
        return Page("projects/key.html", values, 422 if error else 200)

    def _free_name(self, name: str) -> str:
        """Return a name, with a number where another project or builder has it."""
        taken = {version.name.lower() for version in self._master.projects.all()}
        taken |= {builder.name.lower() for builder in self._master.config.builders}
        names = (name, *(f"{name}-{number}" for number in range(2, len(taken) + 3)))
        return next(each for each in names if each.lower() not in taken)

    async def _add_now(self, request: PageRequest) -> Page | Redirect:
        name, values = request.value("name").strip(), form_values.values_in(request)
        try:
            project = from_values(name, values)
            await self._master.projects.save(project, author_of(request, "added"), 0)
        except DefinitionError as error:
            return self._confirm(values, name, faults=error.faults)
        except Conflict as error:
            theirs = error.theirs
            if theirs.project is None:  # it was removed, and its history goes on
                return await self._add_again(request, theirs)
            taken = LitebotError("There is a project of this name already.", "Give it another.")
            return self._confirm(values, name, faults={"name": taken})
        except LitebotError as error:
            return self._confirm(values, name, error=sentence(text_of(error)))
        return Redirect("projects", name, done="added")

    async def _add_again(self, request: PageRequest, removed: Version) -> Page | Redirect:
        name, values = removed.name, form_values.values_in(request)
        try:
            project = from_values(name, values)
            await self._master.projects.save(project, author_of(request, "added"), removed.number)
        except LitebotError as error:
            return self._confirm(values, name, error=sentence(text_of(error)))
        return Redirect("projects", name, done="added")

    def _confirm(
        self,
        values: dict[str, Any],
        name: str,
        found: Sighting | None = None,
        *,
        faults: dict[str, LitebotError] | None = None,
        error: str = "",
    ) -> Page:
        """Show what is to be added, also when it could not be added so."""
        faults = faults or {}
        fields = form_values.fields_of(values, faults)
        shown_values = {
            "name": name,
            "name_error": text_of(faults["name"]) if "name" in faults else "",
            "address": shown(values.get("url", "")),
            "fields": fields,
            "faulty": [fields[key] for key in ("branch", "steps") if key in faults],
            "found": found,
            "has_own_key": values.get("key") == key_name(name),
            "error": error or _of_hidden(faults),
        }
        status = 422 if faults or error else 200
        return Page("projects/add.html", shown_values, status)


def _of_hidden(faults: dict[str, LitebotError]) -> str:
    """Return what is wrong with keys that the form for adding does not show."""
    return "\n".join(
        text_of(fault) for key, fault in faults.items() if key not in ("name", "branch", "steps")
    )
