"""The names of what Buildbot runs for a project; its builder has the project's own name."""

from __future__ import annotations

from litebot.projects.definition import Project

# No project has this in its name.
DOT = "\N{MIDDLE DOT}"


def push_scheduler(name: str) -> str:
    """Return the name of the scheduler that builds a project's new commits."""
    return f"push-{name}"


def force_scheduler(name: str) -> str:
    """Return the name of the scheduler of "build now", in which Buildbot allows no dot."""
    return f"force-{name.replace('.', DOT)}"


def nightly_scheduler(name: str) -> str:
    """Return the name of the scheduler that builds a project at night."""
    return f"nightly-{name}"


def poller_name(project: Project) -> str:
    """Return the name of a project's poller.

    How far it is, is kept under this name: another repository is looked at anew.
    """
    return f"{project.name}: {project.url}"
