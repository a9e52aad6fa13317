"""The steps of a project's build: they are read at the revision that is built, and run on a worker.

What a repository says is data.  It becomes commands of a worker, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from buildbot.process.buildstep import BuildStep
from buildbot.process.factory import BuildFactory
from buildbot.process.remotecommand import RemoteShellCommand
from buildbot.process.results import FAILURE
from buildbot.process.results import RETRY
from buildbot.process.results import SKIPPED
from buildbot.process.results import SUCCESS
from buildbot.steps.shell import ShellCommand
from buildbot.util.twisted import async_to_deferred
from twisted.internet import defer
from twisted.internet import threads
from twisted.python import log

from litebot.errors import LitebotError
from litebot.master.projects.building.cells import SOURCE
from litebot.master.projects.building.cells import ask_for_others
from litebot.master.projects.building.problem import fail
from litebot.master.projects.building.pulls import number_of
from litebot.master.projects.logins.checkout import workdir_of
from litebot.master.secrets.file_secret import FileSecret
from litebot.master.secrets.file_secret import read
from litebot.master.telling.begin import CELL
from litebot.master.telling.begin import announce
from litebot.projects.build_file import FILE_NAME
from litebot.projects.build_file import MOST_BYTES
from litebot.projects.build_file import BuildFile
from litebot.projects.build_file import Step
from litebot.projects.build_file import parse
from litebot.projects.definition import Project

READ_WITHIN_S = 60
# What git may print besides the file.
LONGEST_COMPLAINT = 2000
LONGEST_SUMMARY = 60


class NoSteps(LitebotError):
    """A build has no steps that it could run; the message says why."""


class BoundedCommand(RemoteShellCommand):
    """A command that is interrupted when it prints more than `largest` characters."""

    def __init__(self, largest: int, **kwargs: Any) -> None:
        super().__init__(logEnviron=False, collectStdout=True, collectStderr=True, **kwargs)
        self.largest = largest
        self.is_too_large = False

    def add_stdout_lines(self, data: str, is_flushed: bool) -> Any:
        """Keep what the command prints, as far as it may."""
        return super().add_stdout_lines(data, is_flushed) if self._takes(data) else None

    def add_stderr_lines(self, data: str, is_flushed: bool) -> Any:
        """The same for what it prints to stderr."""
        return super().add_stderr_lines(data, is_flushed) if self._takes(data) else None

    def _takes(self, data: str) -> bool:
        if len(self.stdout) + len(self.stderr) + len(data) <= self.largest + LONGEST_COMPLAINT:
            return True
        if not self.is_too_large:
            self.is_too_large = True
            d = defer.maybeDeferred(self.interrupt, f"it printed more than {self.largest} bytes")
            d.addErrback(lambda failure: log.err(failure, "while interrupting a command"))
        return False


class ReadSteps(BuildStep):
    """Reads what a build does, from the project or the repository's file, and adds its steps.

    The file is read as git has it in the revision, so a link in its place leads nowhere.
    """

    name = "steps"
    haltOnFailure = True
    flunkOnFailure = True

    def __init__(self, project: Project, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.project = project
        self._ends_at = 0.0

    @async_to_deferred
    async def run(self) -> int:
        """Add the steps; fails, with the reason in a log, if there are none."""
        try:
            text = self.project.steps or await self._read()
            name = "steps" if self.project.steps else FILE_NAME
            found = await threads.deferToThread(parse, text, name)
            self._require_secrets(found)
        except LitebotError as error:
            return await fail(self, error)
        if self._is_newest():
            await self.master.projects.set_nightly(self.project.name, found.nightly)
        reason = await threads.deferToThread(
            found.reason_not_to_build, self._branch(), self._paths()
        )
        if reason is not None:
            self.descriptionDone = [f"nothing to do: {reason}"]
            return SKIPPED
        if not found.may_use(self.build.workername):
            return self._pass_on(found)
        for request in self.build.requests:
            self.master.projects.workers_of.pop(request.id, None)
        cell = await self._cell(found)
        await announce(self.build)
        self._ends_at = self.master.steady_clock.seconds() + self.project.timeout_s
        factory = BuildFactory([self._made(found, step, cell) for step in found.steps])
        self.build.addStepsAfterCurrentStep(factory.steps)
        count = len(found.steps)
        shown = "".join(f"{name}={value} " for name, value in cell.items())
        self.descriptionDone = [f"{shown}{count} step{'' if count == 1 else 's'}"]
        return SUCCESS

    def _pass_on(self, found: BuildFile) -> int:
        """Have the build tried again on a worker that the file lets build it."""
        wanted = tuple(found.workers)
        suits = [name for name in self.build.builder.config.workernames if found.may_use(name)]
        if not suits:
            self.descriptionDone = [
                f"none of the workers of {self.project.name} is one of {', '.join(wanted)}"
            ]
            return FAILURE
        for request in self.build.requests:
            self.master.projects.workers_of[request.id] = wanted
        self.descriptionDone = [f"it is for the worker {' or '.join(suits)}"]
        return RETRY

    async def _cell(self, found: BuildFile) -> dict[str, str]:
        """Return the environment of this build's cell of the matrix; {} without a matrix."""
        cells = found.cells()
        if (given := self.getProperty(CELL)) in cells:
            return dict(given)
        if len(cells) > 1:
            await ask_for_others(self.build, cells, str(self.getProperty("got_revision") or ""))
            self.setProperty(CELL, cells[0], SOURCE)
        return cells[0]

    async def _read(self) -> str:
        """Return the repository's file.  Raises NoSteps."""
        command = BoundedCommand(
            MOST_BYTES,
            workdir=workdir_of(self.build),
            command=["git", "cat-file", "blob", f"HEAD:{FILE_NAME}"],
            timeout=READ_WITHIN_S,
        )
        await self.runCommand(command)
        if command.is_too_large:
            raise NoSteps(f"{FILE_NAME} has more than {MOST_BYTES} bytes", "make it shorter")
        if command.didFail():
            said = command.stderr.strip().splitlines()[-1:] or ["git said nothing"]
            raise NoSteps(
                f"there is no {FILE_NAME} in this revision ({said[0]:.200})",
                f"commit one, or write the steps of {self.project.name} into its settings",
            )
        return str(command.stdout)

    def _secrets(self, found: BuildFile) -> tuple[str, ...]:
        """Return the secrets that the build gets: a pull request, which anybody may make, none."""
        return () if number_of(self._branch()) is not None else found.secrets

    def _require_secrets(self, found: BuildFile) -> None:
        if others := sorted(set(found.secrets) - set(self.project.secrets)):
            raise NoSteps(
                f"it asks for the secret {others[0]!r}, which project {self.project.name} does not"
                " have",
                "an admin can grant it in the settings of the project",
            )
        for name in self._secrets(found):
            if "${" in read(self.master.files, name):
                raise NoSteps(
                    f"the secret {name} has '${{' in it, which a worker takes for a variable",
                    "use another value, or encode it, as with base64",
                )

    def _is_newest(self) -> bool:
        """Return whether this is a build of the project's branch as it is now."""
        is_tip = not self.getProperty("revision") or any(self.build.allChanges())
        return is_tip and self._branch() == self.project.branch

    def _branch(self) -> str:
        return str(self.getProperty("branch") or self.project.branch)

    def _paths(self) -> set[str] | None:
        """Return the files that the changes of the build touch; None if it has no changes."""
        changes = list(self.build.allChanges())
        return {path for change in changes for path in change.files} if changes else None

    def _made(self, found: BuildFile, step: Step, cell: dict[str, str]) -> Run:
        return Run(
            name=step.name,
            command=[*found.shell, step.run],
            descriptionDone=[shortened(step.run)],
            workdir="/".join(filter(None, (workdir_of(self.build), step.directory))),
            env=self._env(found, step, cell),
            limit_s=step.timeout_s,
            ends_at=self._ends_at,
        )

    def _env(self, found: BuildFile, step: Step, cell: dict[str, str]) -> dict[str, Any]:
        return {
            **{name: FileSecret(name) for name in self._secrets(found)},
            **found.env,
            **cell,
            **step.env,
            "CI": "true",
            **dict(self._facts()),
        }

    def _facts(self) -> Iterator[tuple[str, str]]:
        yield "LITEBOT_PROJECT", self.project.name
        yield "LITEBOT_BRANCH", self._branch()
        yield "LITEBOT_REVISION", str(self.getProperty("got_revision") or "")
        yield "LITEBOT_BUILD", str(self.getProperty("buildnumber"))


def shortened(script: str) -> str:
    """Return the first line of a script, for a page, cut where it is long."""
    line = script.strip().partition("\n")[0]
    return line if len(line) <= LONGEST_SUMMARY else f"{line[:LONGEST_SUMMARY]}..."


class Run(ShellCommand):
    """A step of a project: a ShellCommand that ends after `limit_s` seconds, if not None.

    It ends at `ends_at` by the steady clock, when its build has to end, at the latest.
    """

    haltOnFailure = True
    flunkOnFailure = True
    logEnviron = False
    timeout = None

    def __init__(self, ends_at: float, limit_s: int | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ends_at = ends_at
        self.limit_s = limit_s

    @defer.inlineCallbacks
    def run(self) -> Any:
        """Run the command, for as long as its own limit and that of the build allow."""
        left = max(1.0, self.ends_at - self.master.steady_clock.seconds())
        self.maxTime = min(left, self.limit_s or left)
        return (yield super().run())
