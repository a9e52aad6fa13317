"""What a browser may do with an answer of the page's port: the headers that tell it so.

Scripts run from the page's own files alone, never from what a build, a hook or a worker has sent.
Source: https://www.w3.org/TR/CSP3/
"""

from __future__ import annotations

import re
import secrets
from typing import Any

from buildbot.www import config
from twisted.internet import defer
from twisted.web import server

from litebot.master.web.hosts import first_part
from litebot.master.web.notices import with_notices

EVERYWHERE = {
    b"X-Content-Type-Options": b"nosniff",
    b"X-Frame-Options": b"SAMEORIGIN",
    b"Referrer-Policy": b"same-origin",
}
COMMON = "object-src 'none'; base-uri 'none'; frame-ancestors 'self'"
# Answers that are no pages: errors, hooks, logins, avatars.
DATA = f"default-src 'none'; form-action 'none'; {COMMON}"
# The API, which has the logs of builds.  A log that is HTML is shown, and its links work.
BUILDS = (
    "sandbox allow-downloads allow-popups allow-popups-to-escape-sandbox;"
    f" script-src 'none'; form-action 'none'; {COMMON}"
)
# The page's files, and those of plugins.
PAGE = f"script-src 'self'; form-action 'self'; {COMMON}"
# litebot's own pages, which have neither scripts nor styles in them.
PAGES = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    f" connect-src 'self'; form-action 'self'; {COMMON}"
)

# By the first part of the path.
BY_PATH = {
    b"api": BUILDS,
    b"litebot": PAGES,
    **dict.fromkeys((b"", b"index.html", b"assets", b"plugins"), PAGE),
}

NOSCRIPT_END = b"</noscript>"
WITHOUT_SCRIPTS = b' <a href="litebot/">The pages of projects</a> do without.'
CONFIG_BEGIN = b'<script id="bb-config">'
CONFIG_END = b"</script>"


def protect(request: server.Request) -> None:
    """Set the headers for an answer; the resource that makes it may set others in their place."""
    for name, value in EVERYWHERE.items():
        request.setHeader(name, value)
    part = first_part(request.uri)
    request.setHeader(b"Content-Security-Policy", BY_PATH.get(part, DATA).encode())
    if part == b"api":
        request.setHeader(b"Vary", b"Origin")  # for caches: the page that asks is named in it


class IndexResource(config.IndexResource):
    """The page, whose own scripts alone may run in it."""

    # It is made too late to register itself for reconfigs, so WWWService.setupSite does that.
    needsReconfig = False

    @defer.inlineCallbacks
    def renderIndex(self, request: Any) -> Any:
        """Return the page with a nonce for its scripts, and what these load.

        A nonce covers the script with the configuration, which differs from user to user, and the
        scripts of plugins.
        """
        page = yield super().renderIndex(request)
        page = page.replace(NOSCRIPT_END, WITHOUT_SCRIPTS + NOSCRIPT_END, 1)
        page = yield with_notices(page, request, self.master)
        nonce = secrets.token_urlsafe(18)
        scripts = f"script-src 'nonce-{nonce}' 'strict-dynamic' 'self'"
        policy = PAGE.replace("script-src 'self'", scripts)
        request.setHeader(b"Content-Security-Policy", policy.encode())
        return with_nonce(page, nonce)


def with_nonce(page: bytes, nonce: str) -> bytes:
    """Give all scripts of the page a nonce.

    What the configuration in it says, such as the name of a user, can't end its script.
    """
    before, begin, rest = page.partition(CONFIG_BEGIN)
    values, end, after = rest.rpartition(CONFIG_END)
    page = before + begin + values.replace(b"<", b"\\u003c") + end + after
    return re.sub(rb"<script\b", b'<script nonce="%b"' % nonce.encode(), page)
