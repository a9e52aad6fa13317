"""Change sources for masters that tests kill."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import HTTPServer

from support.commands import run
from support.commands import succeeded
from support.killed import Victim
from support.master import Master

GIT = shutil.which("git") or "git"


POLLER = """
from buildbot.plugins import changes

c["change_source"] = changes.GitPoller(
    os.path.join(basedir, "repo"), branches=True, pollInterval=1, pollAtLaunch=True,
    gitbin=os.path.join(basedir, "git"), project="p",
)
builder("b", shell("true"))
c["schedulers"].append(schedulers.AnyBranchScheduler("all", builderNames=["b"]))
"""


# A git that waits before a command that contains the text in one file, and fails to show the author
# of commits that another file lists.
FAILING_GIT = """\
#!/bin/sh
held=$(cat {held} 2>/dev/null)
case "$*" in *"${{held:-nothing}}"*)
    echo "$*" > {holds}
    while [ -e {held} ]; do sleep 0.05; done
esac
for revision in $(cat {refused} 2>/dev/null); do
    case "$*" in *%aN*$revision*) exit 1 ;; esac
done
exec {git} "$@"
"""


class Repository:
    """A git repository that a master polls."""

    def __init__(self, victim: Master) -> None:
        self.path = victim.basedir / "repo"
        self.refused = victim.basedir / "refused"
        self.held = victim.basedir / "held"
        self.holds = victim.basedir / "holds"  # the command that waits
        git = victim.basedir / "git"
        git.write_text(
            FAILING_GIT.format(refused=self.refused, held=self.held, holds=self.holds, git=GIT),
            encoding="utf-8",
        )
        git.chmod(0o755)
        succeeded(run(GIT, "init", "--quiet", "-b", "main", self.path))
        self.git("config", "user.name", "Ada")
        self.git("config", "user.email", "ada@example.org")
        self.commit("main", "first")

    def git(self, *words: str) -> str:
        return succeeded(run(GIT, "-C", self.path, *words)).stdout.strip()

    def commit(self, branch: str, *names: str) -> list[str]:
        """Commit once for each name on a branch; return the revisions."""
        if self.git("branch", "--list", branch):
            self.git("checkout", "--quiet", branch)
        revisions = []
        for name in names:
            self.git("commit", "--quiet", "--allow-empty", "-m", name)
            revisions.append(self.git("rev-parse", "HEAD"))
        return revisions


@contextmanager
def serving(server: HTTPServer) -> Iterator[None]:
    """Have a server answer in a thread; it is closed at the end."""
    with server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def die(victim: Victim, point: str) -> None:
    """Start a master that dies at this point, perhaps before its start is complete."""
    victim.start_to_die(point)
    victim.await_death()


def reached(victim: Victim) -> list[tuple[str]]:
    return victim.rows("SELECT value_json FROM object_state WHERE name = 'lastRev'")


def changes(victim: Victim) -> Counter[str]:
    return Counter(row[0] for row in victim.rows("SELECT comments FROM changes"))


PEOPLE = {"name": "Ada", "email": "ada@example.org"}
