"""Projects in the data API: their descriptions hold no scripts.

Source: buildbot/data/projects.py, whose endpoints these keep.
"""

from __future__ import annotations

from typing import Any
from typing import ClassVar

from buildbot.data import projects as data_projects

from litebot.master.data.descriptions import HarmlessDescriptions


class ProjectEndpoint(HarmlessDescriptions, data_projects.ProjectEndpoint):
    """Buildbot's, with a description that holds no scripts."""

    pathPatterns: ClassVar[list[str]] = data_projects.ProjectEndpoint.pathPatterns


class ProjectsEndpoint(HarmlessDescriptions, data_projects.ProjectsEndpoint):
    """Buildbot's, with descriptions that hold no scripts."""

    pathPatterns: ClassVar[list[str]] = data_projects.ProjectsEndpoint.pathPatterns
    rootLinkName = data_projects.ProjectsEndpoint.rootLinkName


class Project(data_projects.Project):
    """Buildbot's, with these endpoints."""

    endpoints: ClassVar[list[Any]] = [ProjectEndpoint, ProjectsEndpoint]
