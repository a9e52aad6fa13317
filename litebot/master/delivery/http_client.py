"""Buildbot's HTTP client, but notes error answers of a server in the outbox's report attempt.

Most reporters only log a message if their server refuses a report.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from buildbot.util import httpclientservice
from twisted.internet import defer

from litebot.master.delivery.outbox import current_attempt

# Codes below 500 after which the same request may succeed: it was too slow, too early or one of too
# many.
PASSING = (408, 425, 429)


class HTTPClientService(httpclientservice.HTTPClientService):
    """`master.httpservice` of a litebot master."""

    @defer.inlineCallbacks
    def _do_request(self, session: Any, method: str, ep: str, **kwargs: Any) -> Any:
        attempt = current_attempt.get()
        response = yield super()._do_request(session, method, ep, **kwargs)
        if attempt is not None and response.code >= 400:
            # The path and the user of the URL are left out, as they may contain a token.
            url = urlsplit(session.base_url + ep if ep.startswith("/") or not ep else ep)
            where = f"{url.hostname}:{url.port}" if url.port else url.hostname
            is_final = response.code < 500 and response.code not in PASSING
            attempt.note_answer(f"{where} answered {response.code}", is_final=is_final)
        return response
