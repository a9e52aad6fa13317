"""Keeps what stays until the master ends away from the garbage collector.

What is imported, and the objects of a started master, stay until the end.  Each full collection
would traverse all of them again, which takes a tenth of a second.
"""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress


def put_off() -> None:
    """Turn the collector off while modules are imported; it would take an eighth of that time."""
    gc.disable()


def settle_imports() -> None:
    """Exclude what has been imported from collection, and turn the collector on."""
    gc.freeze()
    gc.enable()


def settle_started() -> None:
    """Exclude the objects of a started master from collection, until its next reconfig."""
    gc.collect()
    gc.freeze()


def settle_reconfigured(*, builds_run: bool) -> None:
    """Free what only the configuration before needed, and exclude the rest from collection.

    If `builds_run` nothing is excluded, as they may be the last that need the one before.
    """
    gc.unfreeze()
    gc.collect()
    _give_back()
    if not builds_run:
        gc.freeze()


def _give_back() -> None:
    """Give memory that is free back to the system, where the C library can: glibc keeps it."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
