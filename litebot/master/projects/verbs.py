"""What `litebot project` asks for, as JSON, of a master that runs or of one that is stopped."""

from __future__ import annotations

from dataclasses import asdict
from dataclasses import replace
from typing import Any

from litebot.errors import LitebotError
from litebot.master.projects.kept.versions import COMMAND
from litebot.master.projects.kept.versions import Author
from litebot.master.projects.kept.versions import Version
from litebot.master.projects.logins import deploy_keys
from litebot.master.projects.logins import secret_files
from litebot.master.projects.logins.advice import advice
from litebot.master.projects.logins.git import Login
from litebot.master.projects.logins.git import Unreachable
from litebot.master.projects.logins.host_keys import changed
from litebot.master.projects.logins.host_keys import host_key
from litebot.master.projects.looking import look
from litebot.master.projects.projects import Projects
from litebot.master.projects.web.hook import hook_path
from litebot.master.projects.web.hook import hook_secret
from litebot.projects.addresses import check_address
from litebot.projects.addresses import is_ssh
from litebot.projects.definition import from_values


async def do(projects: Projects, reactor: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """Do what `asked` says under "do" and return the answer.

    Raises LitebotError if it can't be done.
    """
    verb = VERBS.get(str(asked.get("do")))
    if verb is None:
        raise LitebotError(
            f"there is nothing like {asked.get('do')!r:.60} to do with projects",
            "use litebot's own commands, of the same version as the master",
        )
    return await verb(projects, reactor, asked)


async def _list(projects: Projects, reactor: Any, asked: dict[str, Any]) -> dict[str, Any]:
    found = projects.all_and_removed() if asked.get("all") else projects.all()
    return {"projects": [shown(version) for version in found]}


async def _show(projects: Projects, reactor: Any, asked: dict[str, Any]) -> dict[str, Any]:
    return shown(projects.get(_name(asked)))


async def _history(projects: Projects, reactor: Any, asked: dict[str, Any]) -> dict[str, Any]:
    return {"versions": [shown(each) for each in await projects.history(_name(asked))]}


async def _look(projects: Projects, reactor: Any, asked: dict[str, Any]) -> dict[str, Any]:
    name, url, branch = _name(asked), str(asked.get("url")), asked.get("branch")
    given = {key: str(asked.get(key) or "") for key in ("key", "password", "host_key")}
    login, files = Login(**given), projects.files
    try:
        return asdict(await look(reactor, files, url, branch, login))
    except Unreachable as error:
        if login.host_key and is_ssh(url):
            remedy = "leave out --host-key, and confirm the new one"
            other = await changed(reactor, files, url, login.host_key, remedy)
            if other is not None:
                raise other from error
        raise Unreachable(error.what, advice(files, name, url, login, error.what)) from error


async def _free(projects: Projects, reactor: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """Refuse a name that a project has, before anything is made for a new one."""
    projects.require_free(_name(asked))
    return {}


async def _key(projects: Projects, reactor: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """Return the public half of a project's key, which may be made, or made "anew"."""
    name, anew = _name(asked), bool(asked.get("anew"))
    known = projects.find(name)
    project = None if known is None else known.project
    if project is not None and project.key and not anew:
        secret, made = project.key, False
    else:
        secret, made = await deploy_keys.make(reactor, projects.files, name, anew=anew)
    if project is not None and is_ssh(project.url) and project.key != secret:
        await projects.save(replace(project, key=secret), _author(asked))
    public = secret_files.read_key(projects.files, secret)
    shown_as = deploy_keys.described(public, name)
    return {"name": name, "key": secret, "public": shown_as, "made": made}


async def _host_key(projects: Projects, reactor: Any, asked: dict[str, Any]) -> dict[str, Any]:
    return asdict(await host_key(reactor, projects.files, check_address(str(asked.get("url")))))


async def _save(projects: Projects, reactor: Any, asked: dict[str, Any]) -> dict[str, Any]:
    project = from_values(_name(asked), dict(asked.get("values") or {}))
    return shown(await projects.save(project, _author(asked), asked.get("base")))


async def _save_all(projects: Projects, reactor: Any, asked: dict[str, Any]) -> dict[str, Any]:
    wanted = dict(asked.get("projects") or {})
    made = {name: from_values(name, dict(values)) for name, values in wanted.items()}
    saved = await projects.save_all(made, _author(asked))
    return {"projects": [shown(version) for version in saved]}


async def _remove(projects: Projects, reactor: Any, asked: dict[str, Any]) -> dict[str, Any]:
    return shown(await projects.remove(_name(asked), _author(asked)))


async def _undo(projects: Projects, reactor: Any, asked: dict[str, Any]) -> dict[str, Any]:
    return shown(await projects.undo(_name(asked), _author(asked), asked.get("to")))


async def _tell(projects: Projects, reactor: Any, asked: dict[str, Any]) -> dict[str, Any]:
    name = _name(asked)
    return {"name": name, "results": await projects.try_telling(name, str(asked.get("only") or ""))}


async def _hook(projects: Projects, reactor: Any, asked: dict[str, Any]) -> dict[str, Any]:
    name = projects.get(_name(asked)).name
    secret = hook_secret(projects.files, name)
    return {"name": name, "path": hook_path(name), "secret": secret}


async def _pulls(projects: Projects, reactor: Any, asked: dict[str, Any]) -> dict[str, Any]:
    return {"pulls": await projects.waiting_pulls(_name(asked))}


async def _build_pull(projects: Projects, reactor: Any, asked: dict[str, Any]) -> dict[str, Any]:
    ref, by = str(asked.get("ref")), _author(asked).name
    return {"buildrequestid": await projects.build_pull(_name(asked), ref, by)}


VERBS = {
    "pulls": _pulls,
    "build pull": _build_pull,
    "hook": _hook,
    "list": _list,
    "show": _show,
    "history": _history,
    "free": _free,
    "look": _look,
    "key": _key,
    "host key": _host_key,
    "tell": _tell,
    "save": _save,
    "save all": _save_all,
    "remove": _remove,
    "undo": _undo,
}


def _name(asked: dict[str, Any]) -> str:
    return str(asked.get("name"))


def _author(asked: dict[str, Any]) -> Author:
    return Author(str(asked.get("by") or "somebody"), COMMAND, str(asked.get("comment") or ""))


def shown(version: Version) -> dict[str, Any]:
    """Return a version as the commands print it; `definition` is None where it was removed."""
    project = version.project
    return {
        "name": version.name,
        "version": version.number,
        "saved_at": version.saved_at,
        "saved_by": version.author.name,
        "saved_on": version.author.place,
        "comment": version.author.comment,
        "definition": None if project is None else project.values(),
    }
