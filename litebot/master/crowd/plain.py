"""Which requests need nothing but the state file, and when anybody may make them."""

from __future__ import annotations

import re
import socket
from typing import Any

from buildbot.www.authz import Authz
from buildbot.www.authz import endpointmatchers
from twisted.web import server
from twisted.web.http import HTTPChannel

# More than a plain request has.
HEAD = 16 * 1024

# No path with an escape in it: what it says would have to be known first.  Forced schedulers are
# those of the running master.
_TARGET = rb"/api/(?:v2|latest)/(?![^? ]*forceschedulers)[A-Za-z0-9_./~-]*(?:\?[!-~]*)?"
_REQUEST = re.compile(rb"GET %b HTTP/1\.[01]\r\n((?:[A-Za-z0-9-]+:[^\r\n\0]*\r\n)*)\r\n" % _TARGET)
# Sessions, pages of other sites, and bodies are the master's.
_HEADERS = (
    b"authorization",
    b"content-length",
    b"cookie",
    b"expect",
    b"origin",
    b"transfer-encoding",
    b"upgrade",
)
_NOT_PLAIN = re.compile(rb"^(?:%b):" % b"|".join(_HEADERS), re.IGNORECASE | re.MULTILINE)

# Rules that no GET matches.  Source: buildbot/www/authz/endpointmatchers.py, where a method
# match_(endpoint)_(action) is for that action alone.
_OF_ACTIONS = {
    endpointmatchers.AnyControlEndpointMatcher,
    endpointmatchers.BranchEndpointMatcher,
    endpointmatchers.EnableSchedulerEndpointMatcher,
    endpointmatchers.ForceBuildEndpointMatcher,
    endpointmatchers.RebuildBuildEndpointMatcher,
    endpointmatchers.StopBuildEndpointMatcher,
    endpointmatchers.ViewBuildsEndpointMatcher,
}


def is_plain(data: bytes) -> bool:
    """Whether it is one whole GET of the REST API, whose answer is the same for everybody."""
    found = _REQUEST.fullmatch(data)
    return found is not None and _NOT_PLAIN.search(found[1]) is None


def asks_plainly(connection: socket.socket) -> bool:
    """Whether that is what has come over a connection so far; reads nothing."""
    try:
        return is_plain(connection.recv(HEAD, socket.MSG_PEEK))
    except OSError:
        return False  # nothing has come, or whoever asked has gone


def could_be_plain(request: server.Request) -> bool:
    """Whether a request that the master has read has nothing that makes it the master's."""
    is_read = request.method == b"GET" and re.fullmatch(_TARGET, request.uri) is not None
    return is_read and not any(map(request.requestHeaders.hasHeader, _HEADERS))


def anybody_may_read(authz: Any) -> bool:
    """Whether no rule of c["www"]["authz"] concerns reading; false where that can't be known."""
    if authz is None:
        return False
    return type(authz) is Authz and all(type(rule) in _OF_ACTIONS for rule in authz.allowRules)


def close_after(request: server.Request) -> None:
    """End the connection with the answer, so that the next request comes through the gate."""
    channel = request.channel
    if isinstance(channel, HTTPChannel) and channel.persistent:
        channel.persistent = False
        request.setHeader(b"connection", b"close")
