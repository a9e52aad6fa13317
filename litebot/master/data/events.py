"""Events whose messages need no copy."""

from __future__ import annotations

from typing import Any


class UncopiedMessages:
    """A mixin for a resource type that makes a new message for each call of produceEvent.

    Buildbot's copies each message, because others may still change it.
    """

    @staticmethod
    def sanitizeMessage(msg: Any) -> Any:
        """Return the message itself."""
        return msg
