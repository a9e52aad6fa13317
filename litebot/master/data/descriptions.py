"""Descriptions of builders and projects, which the page shows as HTML."""

from __future__ import annotations

from typing import Any

from twisted.internet import defer

from litebot.master.db.components.links import without_scripts


def shown(found: dict[str, Any]) -> dict[str, Any]:
    """Return a builder or a project as the data API shows it."""
    html = found.get("description_html")
    return {**found, "description_html": without_scripts(html)} if html else found


class HarmlessDescriptions:
    """A mixin for endpoints whose results have a description."""

    @defer.inlineCallbacks
    def get(self, resultSpec: Any, kwargs: dict[str, Any]) -> Any:
        """Do as Buildbot does, without the scripts in descriptions."""
        found = yield super().get(resultSpec, kwargs)  # type: ignore[misc]
        if isinstance(found, list):
            return [shown(each) for each in found]
        return found and shown(found)
