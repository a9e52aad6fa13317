"""Who may see a page and who may change something there: what the master's authz says.

For it, pages are endpoints beside those of the REST API: ("litebot", "projects", …), read with GET
and changed with POST.
"""

from __future__ import annotations

from buildbot.www.auth import NoAuth
from buildbot.www.authz import Forbidden
from twisted.internet import defer
from twisted.web.error import Error

from litebot.master.pages.answers import PageError
from litebot.master.pages.request import PageRequest

REMEDY = (
    'Add a rule to the authz in master.cfg: util.AnyControlEndpointMatcher(role="admin"), and a'
    " role matcher that says who is an admin."
)


async def require_reader(request: PageRequest) -> None:
    """Raise PageError 403 unless the user may see the page."""
    try:
        # A proxy may have logged the user in.
        await defer.maybeDeferred(request.master.www.auth.maybeAutoLogin, request.http)
        await _assert_allowed(request, "GET")
    except Error as error:
        raise _refused(error) from error


async def require_admin(request: PageRequest) -> None:
    """Raise PageError 403 unless the user may change what the page shows.

    That is who is logged in and may do all actions.  Buildbot's Authz allows what no rule is about,
    which is too much for pages that decide what workers run: one has to be about them.  Where
    nobody can log in, everybody may act.
    """
    try:
        await _assert_allowed(request, "POST")
    except Forbidden as error:
        raise _refused(error) from error
    if isinstance(request.master.www.auth, NoAuth):
        return
    if request.user_info.get("anonymous"):
        raise PageError(403, "Only an admin may do this.")
    rules = getattr(request.master.www.authz, "allowRules", None)
    if rules is not None:
        ep = _endpoint(request)
        if not any([await defer.maybeDeferred(rule.match, ep, "POST", {}) for rule in rules]):
            raise PageError(403, "The authz of this master does not say who may do this.", REMEDY)


async def note_admin(request: PageRequest) -> None:
    """Set `is_admin` of a request."""
    try:
        await require_admin(request)
    except PageError:
        return
    request.is_admin = True


async def may_read(request: PageRequest, *ep: str) -> bool:
    """Return whether the user may read an endpoint of the REST API."""
    try:
        check = request.master.www.assertUserAllowed
        await defer.maybeDeferred(check, request.http, ep, "GET", {})
    except Forbidden:
        return False
    return True


def _endpoint(request: PageRequest) -> tuple[str, ...]:
    return ("litebot", *request.parts)


async def _assert_allowed(request: PageRequest, action: str) -> None:
    # An authz from master.cfg may answer without a Deferred.
    check, ep = request.master.www.assertUserAllowed, _endpoint(request)
    await defer.maybeDeferred(check, request.http, ep, action, {})


def _refused(error: Error) -> PageError:
    message = error.message or b"this is not allowed"
    reason = message.decode(errors="replace") if isinstance(message, bytes) else str(message)
    return PageError(403, f"{reason[:1].upper()}{reason[1:]}.")
