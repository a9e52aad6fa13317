"""Buildbot's HTTP client, but notes error answers of a server in the outbox's report attempt.

Most reporters only log a message if their server refuses a report.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from buildbot.util import httpclientservice
from twisted.internet import defer

from litebot.master.delivery.outbox import Answer
from litebot.master.delivery.outbox import current_attempt
from litebot.master.secrets.masker import masker

# Codes below 500 after which the same request may succeed: it was too slow, too early or one of too
# many.
PASSING = (408, 425, 429)
LONGEST_ANSWER = 200


class HTTPClientService(httpclientservice.HTTPClientService):
    """`master.httpservice` of a litebot master."""

    @defer.inlineCallbacks
    def _do_request(self, session: Any, method: str, ep: str, **kwargs: Any) -> Any:
        attempt = current_attempt.get()
        response = yield super()._do_request(session, method, ep, **kwargs)
        if attempt is not None:
            # The path and the user of the URL are left out, as they may contain a token.
            url = urlsplit(session.base_url + ep if ep.startswith("/") or not ep else ep)
            where = f"{url.hostname}:{url.port}" if url.port else str(url.hostname)
            words = _words((yield response.content()))
            attempt.answers.append(Answer(where, response.code, words))
            if response.code >= 300:
                is_final = response.code < 500 and response.code not in PASSING
                said = f"{where} answered {response.code}{': ' if words else ''}{words}"
                attempt.note_answer(said, is_final=is_final)
        return response


def _words(body: bytes) -> str:
    """Return the beginning of an answer as one line, without secrets; "" of a page of HTML."""
    text = " ".join(body[: 20 * LONGEST_ANSWER].decode("utf-8", "replace").split())
    return "" if text.startswith("<") else masker.mask(text)[:LONGEST_ANSWER]
