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
        rendered = yield real.render(real.asDict())
        changed = yield self.master.db.builds.set_properties(buildid, rendered)
        if changed:
            yield self.generateUpdateEvent(buildid, changed)

    @base.updateMethod
    @defer.inlineCallbacks
    def setBuildProperty(self, buildid: int, name: str, value: Any, source: str) -> Any:
        """Store one of a build's properties."""
        yield self.master.db.builds.setBuildProperty(buildid, name, value, source)
        yield self.generateUpdateEvent(buildid, {name: (value, source)})
