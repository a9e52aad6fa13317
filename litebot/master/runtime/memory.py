"""What the garbage collector looks at: not what stays until the master ends.

What is imported, and what a started master is made of, is there until the end.  Each full
collection would look at all of it again, which takes a tenth of a second.
"""

from __future__ import annotations

import gc


def put_off() -> None:
    """Collect nothing while modules are imported, which would take an eighth of that time."""
    gc.disable()


def settle_imports() -> None:
    """Keep all that has been imported from the collector, and let it work from now on."""
    gc.freeze()
    gc.enable()


def settle_started() -> None:
    """Keep what a started master is made of from the collector."""
    gc.collect()
    gc.freeze()
