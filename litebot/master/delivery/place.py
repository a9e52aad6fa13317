"""The revisions up to which a poller has got, which it keeps while it is reconfigured."""

from __future__ import annotations

from typing import Any

LAST_REV = "lastRev"


class KeepsPlace:
    """Keeps the revisions that a poller knows when it is reconfigured.

    Buildbot's pollers forget them then, even in the middle of a poll, and skip commits.
    """

    @property
    def lastRev(self) -> Any:
        """Return the last revision of each branch; None or empty if none is known."""
        return vars(self).get(LAST_REV)

    @lastRev.setter
    def lastRev(self, revisions: dict[str, str] | None) -> None:
        if revisions or not vars(self).get(LAST_REV):
            vars(self)[LAST_REV] = revisions

    def activate(self) -> Any:
        """Do as Buildbot does, but forget the revisions: another master may have got further."""
        vars(self).pop(LAST_REV, None)
        return super().activate()  # type: ignore[misc]
