"""Properties of builds in the data API: all that have changed are stored in one transaction.

Source: buildbot/data/properties.py, whose names these keep.
"""

from __future__ import annotations

from typing import Any

from buildbot.data import base
from buildbot.data import properties
from twisted.internet import defer

from litebot.master.secrets.masker import masker

# The data API uses each resource type that it finds in a module; this one is Buildbot's.
Property = properties.Property


class Properties(properties.Properties):
    """Buildbot's, with one transaction for all properties of a build."""

    @base.updateMethod
    @defer.inlineCallbacks
    def setBuildProperties(self, buildid: int, properties: Any) -> Any:
        """Store the properties of a build that are new or have changed, without secrets.

        The build itself goes on with the values that it has.
        """
        real = properties.getProperties()
        values = real.asDict()
        to_render = {name: value for name, value in values.items() if not _is_plain(value[0])}
        if to_render:
            values |= yield real.render(to_render)
        masked = masker.mask_properties(values)
        changed = yield self.master.db.builds.set_properties(buildid, masked)
        if changed:
            yield self.generateUpdateEvent(buildid, changed)

    @base.updateMethod
    @defer.inlineCallbacks
    def setBuildProperty(self, buildid: int, name: str, value: Any, source: str) -> Any:
        """Store one property of a build, without secrets."""
        value, source = masker.mask_properties({name: (value, source)})[name]
        yield self.master.db.builds.setBuildProperty(buildid, name, value, source)
        yield self.generateUpdateEvent(buildid, {name: (value, source)})


def _is_plain(value: Any) -> bool:
    """Return whether a value has nothing to render; rendering takes a Deferred for each part."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value)) and all(map(_is_plain, value.values()))
    return value is None or type(value) in (str, int, float, bool)
