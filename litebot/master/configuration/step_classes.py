"""Lets go of the classes of steps that an old configuration has defined.

Buildbot makes a subclass of the class of each step, and keeps it in a dict for ever.  A class that
master.cfg defines leads to the globals of the file, and so to all of the old configuration.
Source: buildbot/process/buildstep.py, _create_buildstep_wrapper_class
"""

from __future__ import annotations

from weakref import WeakValueDictionary

from buildbot.process import buildstep


def hold_weakly() -> None:
    """Have Buildbot keep its subclasses of steps' classes only as long as others refer to them.

    The keys are ids of classes.  They stay valid, as each subclass refers to its base.
    """
    known = buildstep._buildstep_wrapper_cache
    if not isinstance(known, WeakValueDictionary):
        buildstep._buildstep_wrapper_cache = WeakValueDictionary(known)
