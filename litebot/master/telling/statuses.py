"""The status of a commit at GitHub, GitLab, Gitea or Forgejo, and Bitbucket."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from typing import ClassVar

from buildbot.interfaces import IRenderable
from buildbot.process.properties import Properties
from buildbot.process.results import CANCELLED
from buildbot.process.results import EXCEPTION
from buildbot.process.results import FAILURE
from buildbot.process.results import SUCCESS
from buildbot.process.results import WARNINGS
from buildbot.reporters.base import ReporterBase
from buildbot.reporters.bitbucket import BitbucketStatusPush
from buildbot.reporters.github import GitHubStatusPush
from buildbot.reporters.gitlab import GitLabStatusPush
from buildbot.reporters.message import MessageFormatterBase
from buildbot.util import httpclientservice
from buildbot.util.twisted import async_to_deferred
from twisted.internet import defer
from zope.interface import implementer

from litebot.master.runtime.subclasses import put_before
from litebot.master.secrets import file_secret
from litebot.master.telling.base import CarefulSession
from litebot.master.telling.base import ProjectReporter
from litebot.master.telling.begin import CELL
from litebot.master.telling.facts import cell_text
from litebot.master.telling.facts import facts_of
from litebot.projects.telling import Place
from litebot.projects.telling import quoted_path

# GitHub takes no more.
LONGEST_TEXT = 140
LONGEST_CONTEXT = 200


@implementer(IRenderable)
@dataclass(frozen=True)
class Context:
    """The name of a status, by which a forge tells it from others: the project and the cell."""

    project: str

    def getRenderingFor(self, properties: Any) -> str:
        """Return the name for a build with these properties."""
        cell = cell_text(properties.getProperty(CELL))
        text = f"litebot/{self.project} ({cell})" if cell else f"litebot/{self.project}"
        if len(text) <= LONGEST_CONTEXT:
            return text
        return f"{text[: LONGEST_CONTEXT - 10]}... {sha256(text.encode()).hexdigest()[:6]}"


class StatusText(MessageFormatterBase):
    """Says in a few words how a build is."""

    def format_message_for_build(self, master: Any, build: Any, **kwargs: Any) -> Any:
        """Return the message, as Buildbot's formatters do."""
        text = str(build["state_string"])[:LONGEST_TEXT] if build["complete"] else "building"
        return {"body": text, "subject": text, "type": "plain", "extra_info": None}


class CommitStatus(ProjectReporter):
    """Comes before a reporter of Buildbot's that sets the status of a commit.

    The revision is the one that was really built, and the repository is that of the project's
    definition.  `secret` is the name of the one with the token.
    """

    own = ("about", "place", "secret")
    place: Place
    secret: str
    _http: Any

    @async_to_deferred
    async def reconfigService(self, **kwargs: Any) -> None:
        """Take a new configuration."""
        await super().reconfigService(**kwargs)
        put_before(self._http, CarefulSession)

    @async_to_deferred
    async def sendMessage(self, reports: Any) -> None:
        """Set the status; a build whose revision never became known has none."""
        build = reports[0]["builds"][0]
        facts = facts_of(build, self.about)
        if not facts.revision:
            return
        self.use_token(file_secret.read(self.master.files, self.secret))
        stamp = {
            "codebase": "",
            "project": "",
            "repository": f"https://host/{self.place.path}",
            "branch": facts.short_branch,
            "revision": facts.revision,
        }
        build = {**build, "buildset": {**build["buildset"], "sourcestamps": [stamp]}}
        await defer.maybeDeferred(super().sendMessage, [{**reports[0], "builds": [build]}])

    def use_token(self, token: str) -> None:
        """Use a token from now on."""
        self._http.update_headers({"Authorization": f"token {token}"})


class GitHubStatus(CommitStatus, GitHubStatusPush):
    """GitHub's: https://docs.github.com/en/rest/commits/statuses"""

    def use_token(self, token: str) -> None:
        self.token = token


class GitLabStatus(CommitStatus, GitLabStatusPush):
    """GitLab's: https://docs.gitlab.com/api/commits/#set-commit-pipeline-status"""

    def use_token(self, token: str) -> None:
        self._http.update_headers({"PRIVATE-TOKEN": token})

    def getProjectId(self, sourcestamp: Any) -> Any:
        """Return the repository's path, which GitLab takes for its number."""
        return defer.succeed(quoted_path(self.place.path))


class BitbucketStatus(CommitStatus, BitbucketStatusPush):
    """Bitbucket's: https://developer.atlassian.com/cloud/bitbucket/rest/api-group-commit-statuses/

    The token is an access token of the repository, the project or the workspace.
    """

    def use_token(self, token: str) -> None:
        self.auth = "the header"  # Buildbot's then asks for no token of OAuth
        self._http.update_headers({"Authorization": f"Bearer {token}"})

    @async_to_deferred
    async def sendMessage(self, reports: Any) -> None:
        """Set the status; Buildbot's takes a build with warnings for a failed one."""
        build = reports[0]["builds"][0]
        if build["results"] == WARNINGS:
            build = {**build, "results": SUCCESS}
        await super().sendMessage([{**reports[0], "builds": [build]}])


class GiteaPush(ReporterBase):
    """Gitea's and Forgejo's: https://docs.gitea.com/api/ "Create a commit status"

    In the form of Buildbot's reporters for other forges.
    """

    STATES: ClassVar = {
        SUCCESS: "success",
        WARNINGS: "warning",
        FAILURE: "failure",
        EXCEPTION: "error",
        CANCELLED: "error",
    }

    def checkConfig(self, *, generators: Any, **kwargs: Any) -> Any:
        """Check the generators."""
        return super().checkConfig(generators)

    @async_to_deferred
    async def reconfigService(self, *, baseURL: str, context: Any, generators: Any) -> None:
        """Take a new configuration."""
        self.context = context
        await super().reconfigService(generators)
        self._http = httpclientservice.HTTPSession(self.master.httpservice, baseURL)

    @async_to_deferred
    async def sendMessage(self, reports: Any) -> None:
        """Set the status."""
        build = reports[0]["builds"][0]
        properties = Properties.fromDict(build["properties"])
        properties.master = self.master
        (stamp,) = build["buildset"]["sourcestamps"]
        body = {
            "context": await properties.render(self.context),
            "description": reports[0]["body"],
            "state": self.STATES.get(build["results"], "error") if build["complete"] else "pending",
            "target_url": build["url"],
        }
        path = stamp["repository"].partition("//")[2].partition("/")[2]
        await self._http.post(f"/repos/{path}/statuses/{stamp['revision']}", json=body)


class GiteaStatus(CommitStatus, GiteaPush):
    """Gitea's and Forgejo's."""


TEXT = StatusText()
