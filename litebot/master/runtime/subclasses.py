"""Puts a class of litebot's before the class of an object, whoever wrote it.

The class of the object is replaced by a subclass of both.  It has the name and the module of the
object's own class, since Buildbot identifies states, and services that a reconfig keeps, by these.
"""

from __future__ import annotations

import types
from typing import Any


def specialized(kind: type, ours: type, *, behind: bool = False) -> type:
    """Return the subclass of `ours` and `kind`, in this order, that has the name of `kind`.

    If `behind`, it is in the other order: `ours` then comes before the bases of `kind`.

    Returns the same class each time, as long as it is in use: a reconfig compares classes.
    """
    if issubclass(kind, ours):
        return kind
    bases = (kind, ours) if behind else (ours, kind)
    for known in kind.__subclasses__():
        if known.__bases__ == bases:
            return known
    # A class that master.cfg makes with type() has no module.
    named = [name for name in ("__module__", "__qualname__", "__doc__") if hasattr(kind, name)]
    names = {name: getattr(kind, name) for name in named}
    return types.new_class(kind.__name__, bases, exec_body=lambda body: body.update(names))


def put_before(thing: Any, ours: type) -> None:
    """Change the class of an object to one that has the methods of `ours` first."""
    thing.__class__ = specialized(type(thing), ours)


def put_behind(thing: Any, ours: type) -> None:
    """Change the class of an object to one that has the methods of `ours` after its own."""
    thing.__class__ = specialized(type(thing), ours, behind=True)
