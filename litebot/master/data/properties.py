"""Properties of builds: one transaction for all that a build has at a moment.

Source: buildbot/data/properties.py, whose names these keep.
"""

from __future__ import annotations

from typing import Any

from buildbot.data import base
from buildbot.data import properties
from twisted.internet import defer

# The data API takes what it finds in a module; this one is Buildbot's.
Property = properties.Property


class Properties(properties.Properties):
    """Buildbot's, with one transaction for all properties of a build."""

    @base.updateMethod
    @defer.inlineCallbacks
    def setBuildProperties(self, buildid: int, properties: Any) -> Any:
        """Store those of a build's properties that are new or have changed."""
        real = properties.getProperties()
        values = real.asDict()
        to_render = {name: value for name, value in values.items() if not _is_plain(value[0])}
        if to_render:
            values |= yield real.render(to_render)
        changed = yield self.master.db.builds.set_properties(buildid, values)
        if changed:
            yield self.generateUpdateEvent(buildid, changed)

    @base.updateMethod
    @defer.inlineCallbacks
    def setBuildProperty(self, buildid: int, name: str, value: Any, source: str) -> Any:
        """Store one of a build's properties."""
        yield self.master.db.builds.setBuildProperty(buildid, name, value, source)
        yield self.generateUpdateEvent(buildid, {name: (value, source)})


def _is_plain(value: Any) -> bool:
    """Whether there is nothing in it to render, which would take a Deferred for each part."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value)) and all(map(_is_plain, value.values()))
    return value is None or type(value) in (str, int, float, bool)
