"""What the reporters of projects have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from typing import ClassVar

from buildbot.reporters.base import ReporterBase
from buildbot.util.httpclientservice import HTTPSession
from buildbot.util.twisted import async_to_deferred
from twisted.internet import defer

ANSWERS_WITHIN_S = 30


@dataclass(frozen=True)
class About:
    """The project that a reporter tells of: its name, address and main branch."""

    name: str
    url: str
    branch: str


class ProjectReporter(ReporterBase):
    """Comes before a reporter of Buildbot's, which then tells of one project alone.

    The arguments named in `own` become attributes, and the reporter gets the others.
    """

    own: ClassVar[tuple[str, ...]] = ("about",)
    about: About
    only_builderid: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Buildbot compares these, and would otherwise see a change in each reconfig.
        self.generators = self._config_kwargs["generators"]

    def checkConfig(self, **kwargs: Any) -> Any:
        """Check what Buildbot's reporter is given."""
        return super().checkConfig(**self.others(kwargs))

    @async_to_deferred
    async def reconfigService(self, **kwargs: Any) -> None:
        """Take a new configuration."""
        for name in self.own:
            setattr(self, name, kwargs[name])
        self.only_builderid = await self.master.data.updates.findBuilderId(self.about.name)
        await defer.maybeDeferred(super().reconfigService, **self.others(kwargs))

    def others(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments for Buildbot's reporter."""
        return {name: value for name, value in kwargs.items() if name not in self.own}

    def sample(self, text: str) -> Any:
        """Return the body of a test message."""
        return text


class CarefulSession(HTTPSession):
    """A session that waits not for ever, and takes its headers, with a token, to no other host.

    A connection is used once: a server may close one that is kept just when it is used again.
    """

    def post(self, ep: str, **kwargs: Any) -> Any:
        """Post, as Buildbot does."""
        headers = {**kwargs.pop("headers", {}), "Connection": "close"}
        limits = {"timeout": ANSWERS_WITHIN_S, "allow_redirects": False}
        return super().post(ep, headers=headers, **limits, **kwargs)
