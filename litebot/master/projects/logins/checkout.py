"""The first step of a project's build."""

from __future__ import annotations

from typing import Any

from buildbot.steps.source.git import Git
from buildbot.util.twisted import async_to_deferred
from twisted.internet import defer

from litebot.errors import LitebotError
from litebot.master.projects.building.problem import fail
from litebot.master.projects.building.pulls import number_of
from litebot.master.projects.logins.ssh import StrictSsh

# Pull requests have a folder of their own: what one leaves in it, also in .git, no build of a
# branch sees.
FOLDER, PULLS_FOLDER = "build", "pull"


def workdir_of(build: Any) -> str:
    """Return the folder in which a build works."""
    branch = str(build.getProperty("branch") or "")
    return FOLDER if number_of(branch) is None else PULLS_FOLDER


class Checkout(StrictSsh, Git):
    """Buildbot's, but asks the very address that the master polls, and says what it lacks."""

    def setup_repourl(self) -> None:
        """Leave host:path as it is: Buildbot makes ssh://host:22/path of it, another folder."""

    @async_to_deferred
    async def run(self) -> int:
        """Check out; fails, with the reason in a log, if a secret can't be used."""
        self.workdir = workdir_of(self.build)
        if self.workdir == PULLS_FOLDER:
            self.method = "clobber"
        # What of these files is there is removed at the end, also if not all of them could be made.
        self._git_auth.did_download_auth_files = self._git_auth.is_auth_needed
        try:
            result: int = await defer.maybeDeferred(super().run)
        except LitebotError as error:
            return await fail(self, error)
        return result
