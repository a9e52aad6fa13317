"""Builders that complete the requests for which they can't make a build."""

from __future__ import annotations

from typing import Any

from buildbot.process import builder
from buildbot.process.results import EXCEPTION
from twisted.internet import defer
from twisted.python import log

from litebot.errors import StoreFailed


class Builder(builder.Builder):
    """Buildbot's, but completes claimed requests as EXCEPTION if their build can't be made."""

    @defer.inlineCallbacks
    def maybeStartBuild(self, workerforbuilder: Any, breqs: list[Any]) -> Any:
        """Make a build of these requests and start it.

        Returns False if the requests can go to another worker.  Raises StoreFailed.
        """
        try:
            return (yield super().maybeStartBuild(workerforbuilder, breqs))
        except StoreFailed:
            raise  # the master stops
        except Exception:
            if workerforbuilder.worker is None:
                log.msg(f"the worker for a build of {self.name} was lost before it began")
                return False  # another worker may build them
            log.err(None, f"while a build of {self.name} was made")
            master, brids = self.master, [request.id for request in breqs]
            yield master.data.updates.completeBuildRequests(brids, EXCEPTION)
            for brid in brids:
                master.botmaster.remove_in_progress_buildrequest(brid)
            return True
