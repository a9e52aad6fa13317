"""Services that a reconfig leaves alone where nothing of them has changed.

Buildbot compares attributes which a service gets only when it is configured, so that it configures
most of them anew each time.  A poller then begins its interval again, after the poll that runs.
Source: buildbot/util/service.py, reconfigServiceWithSibling
"""

from __future__ import annotations

from typing import Any

from twisted.internet import defer


class Unchanged:
    """To be put before a BuildbotService: it is configured anew only with other arguments."""

    configured: bool
    _config_args: Any
    _config_kwargs: Any

    def reconfigServiceWithSibling(self, sibling: Any) -> Any:
        """Do as Buildbot does, unless the arguments are the same."""
        mine = (self._config_args, self._config_kwargs)
        if self.configured and mine == (sibling._config_args, sibling._config_kwargs):
            return defer.succeed(None)
        return super().reconfigServiceWithSibling(sibling)  # type: ignore[misc]
