"""What Buildbot is to run for a project: a builder, its schedulers, a poller."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from buildbot.changes.filter import ChangeFilter
from buildbot.config.builder import BuilderConfig
from buildbot.locks import MasterLock
from buildbot.process.factory import BuildFactory
from buildbot.process.project import Project as BuildbotProject
from buildbot.schedulers.basic import AnyBranchScheduler
from buildbot.schedulers.forcesched import CodebaseParameter
from buildbot.schedulers.forcesched import ForceScheduler
from buildbot.schedulers.forcesched import StringParameter

from litebot.master.projects.building.cells import collapse_same_cell
from litebot.master.projects.building.names import force_scheduler
from litebot.master.projects.building.names import nightly_scheduler
from litebot.master.projects.building.names import poller_name
from litebot.master.projects.building.names import push_scheduler
from litebot.master.projects.building.nightly import ProjectNightly
from litebot.master.projects.building.poller import ProjectPoller
from litebot.master.projects.building.refs import Refs
from litebot.master.projects.building.steps import ReadSteps
from litebot.master.projects.building.unchanged import Unchanged
from litebot.master.projects.logins.checkout import Checkout
from litebot.master.secrets.file_secret import FileSecret
from litebot.projects.addresses import is_ssh
from litebot.projects.definition import Project
from litebot.projects.logins import is_http
from litebot.projects.logins import user_in
from litebot.projects.patterns import Patterns
from litebot.settings import Mail

MIRRORS = "repositories"


class PushScheduler(Unchanged, AnyBranchScheduler):
    """Builds the new commits of a project."""


class BuildNow(Unchanged, ForceScheduler):
    """Builds a project when somebody asks for it."""


class UnlessSkipped(ChangeFilter):
    """Buildbot's, but passes no change whose message asks for no build."""

    MARKS = ("[skip ci]", "[ci skip]", "[no ci]")

    def filter_change(self, change: Any) -> bool:
        """Return whether a change is built."""
        message = (change.comments or "").lower()
        return super().filter_change(change) and not any(mark in message for mark in self.MARKS)


def add_to(
    config: dict[str, Any], projects: Sequence[Project], file: str, mail: Mail
) -> Iterator[str]:
    """Add projects to what the configuration `file` defines; yields what is wrong with them.

    `mail` says where mails go out.
    """
    for kind in ("projects", "builders", "schedulers", "change_source", "services", "workers"):
        config[kind] = _as_list(config.get(kind))
    if not _is_understood(config):
        return  # Buildbot's own check says what is wrong
    taken = {
        "project": {each.name for each in config["projects"]},
        "builder": {_name_of(each) for each in config["builders"]},
        "scheduler": {each.name for each in config["schedulers"]},
    }
    workers = [each.workername for each in config["workers"]]
    for project in projects:
        found = {
            "project": project.name,
            "builder": project.name,
            "scheduler": push_scheduler(project.name),
        }
        names = [kind for kind, name in found.items() if name in taken[kind]]
        if {force_scheduler(project.name), nightly_scheduler(project.name)} & taken["scheduler"]:
            names.append("scheduler")
        if names:
            yield (
                f"{project.name} is a project and also a {names[0]} of {file}; give one of them"
                " another name, a new project with --name OTHER"
            )
            continue
        allowed = Patterns(project.workers or ["*"])
        suits = [name for name in workers if name in allowed]
        if not suits:
            yield _no_worker(project, workers, file)
            continue
        config["projects"].append(BuildbotProject(name=project.name, slug=project.name))
        config["builders"].append(_builder(project, suits))
        config["schedulers"] += _schedulers(project)
        if project.enabled:
            config["change_source"].append(_poller(project))
        if project.tell:
            # It takes memory, and not all masters need it.
            from litebot.master.telling.reporters import reporters_of

            config["services"] += reporters_of(project, mail)


def _is_understood(config: dict[str, Any]) -> bool:
    named = [*config["projects"], *config["schedulers"]]
    named += [each for each in config["builders"] if not isinstance(each, dict)]
    has_names = all(hasattr(each, "name") for each in named)
    return has_names and all(hasattr(each, "workername") for each in config["workers"])


def _as_list(found: Any) -> list[Any]:
    if found is None:
        return []
    return list(found) if isinstance(found, list | tuple) else [found]


def _name_of(builder: Any) -> Any:
    return builder.get("name") if isinstance(builder, dict) else builder.name


def _no_worker(project: Project, workers: Sequence[str], file: str) -> str:
    if not workers:
        return (
            f"project {project.name} has no worker that could build it; add one to {file}, such as"
            ' c["workers"] = [worker.LocalWorker("local")]'
        )
    return (
        f"project {project.name} may be built on {', '.join(project.workers)} only, and there is"
        f" no such worker; there are: {', '.join(workers)}"
    )


def _credentials(project: Project) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if is_ssh(project.url):
        if project.key:
            found["sshPrivateKey"] = FileSecret(project.key)
            found["sshHostKey"] = project.host_key or None
    elif is_http(project.url) and project.password:
        found["auth_credentials"] = (user_in(project.url), FileSecret(project.password))
    return found


def _builder(project: Project, workers: list[str]) -> BuilderConfig:
    checkout = Checkout(
        name="checkout",
        repourl=project.url,
        branch=project.branch,
        mode="full",
        method="fresh",
        logEnviron=False,
        haltOnFailure=True,
        **_credentials(project),
    )
    limit = MasterLock(f"builds of {project.name}", maxCount=project.at_once)
    return BuilderConfig(
        name=project.name,
        project=project.name,
        workernames=workers,
        factory=BuildFactory([checkout, ReadSteps(project=project)]),
        collapseRequests=collapse_same_cell if project.replace else False,
        nextWorker=next_worker,
        nextBuild=next_build,
        builddir=project.name,
        locks=[limit.access("counting")],
    )


def next_worker(builder: Any, available: Sequence[Any], request: Any) -> Any:
    """Return a worker for a build, one that its file lets build it as far as that is known."""
    found = _suitable(builder, available, request)
    return random.choice(found) if found else None  # noqa: S311


def next_build(builder: Any, requests: Sequence[Any]) -> Any:
    """Return the first request for which there is a worker: others must not wait behind it."""
    available = builder.getAvailableWorkers()
    return next((each for each in requests if _suitable(builder, available, each)), None)


def _suitable(builder: Any, available: Sequence[Any], request: Any) -> list[Any]:
    patterns = builder.master.projects.workers_of.get(request.id)
    if patterns is None:
        return list(available)
    suits = Patterns(patterns)
    return [each for each in available if each.worker.workername in suits]


def _schedulers(project: Project) -> Iterable[Any]:
    wanted = Refs.of(project)
    if project.enabled:
        yield PushScheduler(
            name=push_scheduler(project.name),
            builderNames=[project.name],
            change_filter=UnlessSkipped(project=project.name, branch_fn=wanted),
            reason="push",
        )
        yield ProjectNightly(
            name=nightly_scheduler(project.name),
            builderNames=[project.name],
            codebases={"": {"repository": project.url, "branch": project.branch}},
            reason="nightly",
        )
    yield BuildNow(
        name=force_scheduler(project.name),
        buttonName="Build now",
        builderNames=[project.name],
        codebases=_codebases(project.branch),
    )


@functools.lru_cache(1000)
def _codebases(branch: str) -> list[CodebaseParameter]:
    """Return the fields of a form; those of one branch are always the same."""
    field = StringParameter(name="branch", label="Branch:", default=branch)
    return [CodebaseParameter("", branch=field, project=None, repository=None)]


def _poller(project: Project) -> ProjectPoller:
    return ProjectPoller(
        project.url,
        name=poller_name(project),
        project=project.name,
        branches=Refs.of(project),
        workdir=str(Path(MIRRORS, project.name)),
        pollInterval=project.poll_s,
        pollAtLaunch=True,
        buildPushesWithNoCommits=True,
        **_credentials(project),
    )
