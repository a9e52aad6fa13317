"""Makes reporters of the lines in a project's `tell`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from litebot.master.telling import mails
from litebot.master.telling import statuses
from litebot.master.telling.base import About
from litebot.master.telling.generator import ProjectBuilds
from litebot.master.telling.mails import ProjectMail
from litebot.master.telling.messages import MessageBody
from litebot.master.telling.messages import ProjectMessage
from litebot.projects.definition import Project
from litebot.projects.telling import Forge
from litebot.projects.telling import Json
from litebot.projects.telling import Mail
from litebot.projects.telling import parse
from litebot.projects.telling import place_of
from litebot.settings import Mail as MailServer

STATUSES: dict[str, tuple[type[statuses.CommitStatus], str]] = {
    "github": (statuses.GitHubStatus, "baseURL"),
    "gitlab": (statuses.GitLabStatus, "baseURL"),
    "gitea": (statuses.GiteaStatus, "baseURL"),
    "bitbucket": (statuses.BitbucketStatus, "base_url"),
}


def reporter_name(name: str, line: str) -> str:
    """Return the name of the reporter for a line of a project; reports are shown by it."""
    return f"{name}: {line}"


def reporters_of(project: Project, server: MailServer) -> Iterator[Any]:
    """Yield the reporters of a project, one for each line, so that each is retried alone.

    Equal definitions make equal reporters.
    """
    about = About(project.name, project.url, project.branch)
    for line in project.tell:
        common: dict[str, Any] = {"name": reporter_name(project.name, line), "about": about}
        match parse(line):
            case Forge() as forge:
                yield _status(forge, project.url, common)
            case Mail(addresses):
                yield ProjectMail(
                    **common,
                    mail=server,
                    extraRecipients=list(addresses),
                    generators=[ProjectBuilds(about, mails.TEXT, only_changes=True)],
                )
            case Json(secret, only_changes):
                body = MessageBody(about)
                yield ProjectMessage(
                    **common,
                    secret=secret,
                    generators=[ProjectBuilds(about, body, only_changes=only_changes)],
                )


def _status(forge: Forge, url: str, common: dict[str, Any]) -> Any:
    made, address = STATUSES[forge.kind]
    place, about = place_of(forge, url), common["about"]
    context = statuses.Context(about.name)
    options: dict[str, Any] = {address: place.api}
    if forge.kind == "bitbucket":
        options |= {"status_key": context, "status_name": context}
    else:
        options["context"] = context
    if forge.kind in ("github", "gitlab"):
        options["token"] = None  # it is read anew for each message
    return made(
        **common,
        **options,
        place=place,
        secret=forge.secret,
        generators=[ProjectBuilds(about, statuses.TEXT, begins=True)],
    )
