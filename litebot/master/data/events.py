"""Events whose message was made for them."""

from __future__ import annotations

from typing import Any


class MakesItsMessages:
    """For a resource type that hands a message of its own making to each produceEvent.

    Buildbot's copies what it is given, because others may still change it.
    """

    @staticmethod
    def sanitizeMessage(msg: Any) -> Any:
        """The message itself."""
        return msg
