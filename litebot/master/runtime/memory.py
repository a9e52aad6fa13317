"""Keeps what stays until the master ends away from the garbage collector.

What is imported, and the objects of a started master, stay until the end.  Each full collection
would traverse all of them again, which takes a tenth of a second.
"""

from __future__ import annotations

import gc


def put_off() -> None:
    """Turn the collector off while modules are imported; it would take an eighth of that time."""
    gc.disable()


def settle_imports() -> None:
    """Exclude what has been imported from collection, and turn the collector on."""
    gc.freeze()
    gc.enable()


def settle_started() -> None:
    """Exclude the objects of a started master from collection."""
    gc.collect()
    gc.freeze()
