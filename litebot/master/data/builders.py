"""Builders in the data API: their descriptions hold no scripts.

Source: buildbot/data/builders.py, whose endpoints these keep.
"""

from __future__ import annotations

from typing import Any
from typing import ClassVar

from buildbot.data import builders as data_builders

from litebot.master.data.descriptions import HarmlessDescriptions


class BuilderEndpoint(HarmlessDescriptions, data_builders.BuilderEndpoint):
    """Buildbot's, with a description that holds no scripts."""

    pathPatterns: ClassVar[list[str]] = data_builders.BuilderEndpoint.pathPatterns


class BuildersEndpoint(HarmlessDescriptions, data_builders.BuildersEndpoint):
    """Buildbot's, with descriptions that hold no scripts."""

    pathPatterns: ClassVar[list[str]] = data_builders.BuildersEndpoint.pathPatterns
    rootLinkName = data_builders.BuildersEndpoint.rootLinkName


class Builder(data_builders.Builder):
    """Buildbot's, with these endpoints."""

    endpoints: ClassVar[list[Any]] = [BuilderEndpoint, BuildersEndpoint]
