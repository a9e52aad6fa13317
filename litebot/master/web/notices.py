"""What the page says above all else when it is loaded: which changes may be missing, and why."""

from __future__ import annotations

import html
from typing import Any

from buildbot.www.authz import Forbidden
from twisted.internet import defer
from twisted.web import server

BEFORE = b'<div id="root">'
STYLE = (
    "position:fixed;bottom:0;right:0;z-index:2000;max-width:100%;max-height:50%;overflow:auto;"
    "padding:.5em 1em;background:#fff3cd;color:#664d03;border:1px solid #ffe69c"
)


@defer.inlineCallbacks
def with_notices(page: bytes, request: server.Request, master: Any) -> Any:
    """Return the page with what change sources can't do, for those who may read of sources."""
    problems = master.source_problems.all()
    if not problems:
        return page
    try:
        check = master.www.assertUserAllowed
        yield defer.maybeDeferred(check, request, ("changesources",), "GET", {})
    except Forbidden:
        return page
    items = "".join(f"<li>{html.escape(str(problem))}</li>" for problem in problems)
    title = "<summary>Changes may be missing</summary>"
    notice = f'<details id="source-problems" style="{STYLE}" open>{title}<ul>{items}</ul></details>'
    text = notice.encode("ascii", "xmlcharrefreplace")
    return page.replace(BEFORE, text + BEFORE, 1)
