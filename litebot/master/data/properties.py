"""Properties of builds in the data API: all that have changed are stored in one transaction.

Source: buildbot/data/properties.py, whose names these keep.
"""

from __future__ import annotations

import json
from typing import Any

from buildbot.data import base
from buildbot.data import properties
from twisted.internet import defer

from litebot.master.db.components.values import fault_of_property
from litebot.master.secrets.masker import masker

# The data API uses each resource type that it finds in a module; this one is Buildbot's.
Property = properties.Property


# A value that is still not rendered by then counts as one that can't be stored.
RENDERED_WITHIN_S = 10.0


class UnstorableProperties(Exception):
    """Properties of a build can't be stored; the message has a line for each, and says why."""


class Properties(properties.Properties):
    """Buildbot's, with one transaction for all properties of a build."""

    @base.updateMethod
    @defer.inlineCallbacks
    def setBuildProperties(self, buildid: int, properties: Any) -> Any:
        """Store the properties of a build that are new or have changed, without secrets.

        The build itself goes on with the values that it has.  Raises UnstorableProperties after the
        others have been stored; the build no longer has these, so that its end can be stored.
        Where the Properties have an attribute `stored`, what was stored last is not stored again.
        """
        real = properties.getProperties()
        values = real.asDict()
        to_render = {name: value for name, value in values.items() if not _is_plain(value[0])}
        faults: dict[Any, str] = {}
        for name, (value, source) in to_render.items():
            try:
                rendered = yield real.render(value).addTimeout(
                    RENDERED_WITHIN_S, self.master.reactor
                )
                values[name] = (rendered, source)
            except Exception as error:
                faults[name] = f"its value can't be rendered: {type(error).__name__}: {error}"
        checked = getattr(real, "checked", {})
        rest = {k: entry for k, entry in values.items() if not _is_same(checked.get(k), entry)}
        for name, (value, source) in rest.items():
            fault = faults.get(name) or fault_of_property(self.master.db, name, value, source)
            if fault is not None:
                faults[name] = fault
        for name in faults:
            del values[name]
            real.properties.pop(name, None)
        masked, stored = masker.mask_properties(values), getattr(real, "stored", None)
        was_masked = getattr(real, "checked_masked", {})
        texts = {
            name: stored[name]
            if stored and name in stored and _is_same(was_masked.get(name), entry)
            else (json.dumps(entry[0]), entry[1])
            for name, entry in masked.items()
        }
        if stored != texts:
            changed = yield self.master.db.builds.set_properties(buildid, masked)
            if hasattr(real, "stored"):
                real.stored = texts
                real.checked = _unchangeable(values)
                real.checked_masked = _unchangeable(masked)
            if changed:
                yield self.generateUpdateEvent(buildid, changed)
        if faults:
            raise UnstorableProperties(
                "\n".join(
                    masker.mask(f"the property {name!a:.300} can't be stored: {fault}")
                    for name, fault in faults.items()
                )
            )

    @base.updateMethod
    @defer.inlineCallbacks
    def setBuildProperty(self, buildid: int, name: str, value: Any, source: str) -> Any:
        """Store one property of a build, without secrets."""
        value, source = masker.mask_properties({name: (value, source)})[name]
        yield self.master.db.builds.setBuildProperty(buildid, name, value, source)
        yield self.generateUpdateEvent(buildid, {name: (value, source)})


SCALARS = (str, int, float, bool, type(None))


def _unchangeable(values: dict[str, Any]) -> dict[str, Any]:
    """Return the entries whose values can't change in place."""
    return {name: entry for name, entry in values.items() if type(entry[0]) in SCALARS}


def _is_same(known: Any, entry: Any) -> bool:
    """Return whether two entries of a value and its source are the same; True is not 1."""
    return known is not None and type(known[0]) is type(entry[0]) and bool(known == entry)


def _is_plain(value: Any) -> bool:
    """Return whether a value has nothing to render; rendering takes a Deferred for each part."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value)) and all(map(_is_plain, value.values()))
    return value is None or type(value) in (str, int, float, bool)
