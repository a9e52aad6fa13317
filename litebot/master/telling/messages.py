"""A POST of JSON for each build: chats show its "text", programs read the rest."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from buildbot.process.results import Results
from buildbot.reporters.message import MessageFormatterBase
from buildbot.util import httpclientservice
from buildbot.util.twisted import async_to_deferred

from litebot.errors import LitebotError
from litebot.master.delivery.outbox import NotTaken
from litebot.master.secrets import file_secret
from litebot.master.secrets.masker import masker
from litebot.master.telling.base import About
from litebot.master.telling.base import CarefulSession
from litebot.master.telling.base import ProjectReporter
from litebot.master.telling.facts import facts_of


class MessageBody(MessageFormatterBase):
    """The facts of a build as a dict."""

    template_type = "json"
    compare_attrs = ("about",)

    def __init__(self, about: About) -> None:
        super().__init__()
        self.about = about

    def format_message_for_build(self, master: Any, build: Any, **kwargs: Any) -> Any:
        """Return the message, as Buildbot's formatters do."""
        facts, result = facts_of(build, self.about), Results[build["results"]]
        what = " ".join(filter(None, (self.about.name, facts.short_branch, facts.cell)))
        text = f"{plain(what)}: {plain(build['state_string'])} {build['url']}"
        started, ended = build["started_at"], build["complete_at"]
        body = {
            "text": text,
            "project": self.about.name,
            "branch": facts.short_branch,
            "revision": facts.revision,
            "cell": facts.cell,
            "result": result,
            "url": build["url"],
            "number": build["number"],
            "duration_s": round((ended - started).total_seconds()),
            "authors": sorted(kwargs.get("users") or []),
        }
        return {"body": body, "subject": None, "type": "json", "extra_info": None}


def plain(text: str) -> str:
    """Return a text in which no chat finds a link, a mention or a mark of its own."""
    return re.sub(r"[<>&@]", " ", text)


class ProjectMessage(ProjectReporter):
    """Posts to the address that is in a secret."""

    own = ("about", "secret")
    secret: str

    def sample(self, text: str) -> Any:
        return {"text": text, "project": self.about.name, "result": "test"}

    @async_to_deferred
    async def sendMessage(self, reports: Any) -> None:
        """Post what the formatter has made."""
        address = (file_secret.read(self.master.files, self.secret)).strip()
        parts = urlsplit(address)
        if parts.scheme not in ("https", "http") or not parts.hostname:
            raise LitebotError(f"the secret {self.secret} is not an address of https:// or http://")
        # Errors of the HTTP client name this part alone.
        masker.learn(self.secret, address.partition(parts.netloc)[2])
        session = httpclientservice.HTTPSession(self.master.httpservice, "")
        session.__class__ = CarefulSession
        try:
            await session.post(address, json=reports[0]["body"])
        except Exception as error:
            raise NotTaken(f"{parts.hostname} can't be reached: {type(error).__name__}") from None
