"""Pictures of users, which are looked up elsewhere by what a visitor asks for.

Buildbot makes a name part of a URL or a query as it comes, and keeps all answers for ever.
"""

from __future__ import annotations

import re
from typing import Any

from buildbot.www import avatar
from buildbot.www import resource
from twisted.internet import defer

# Source: https://www.rfc-editor.org/rfc/rfc5321#section-4.5.3.1
LONGEST = 254
MOST_KEPT = 1000


def is_name(text: bytes) -> bool:
    """Return whether a text can be a user's name or address: printable, and not too long."""
    try:
        shown = text.decode()
    except UnicodeDecodeError:
        return False
    return shown.isprintable() and len(shown) <= LONGEST


class AvatarResource(avatar.AvatarResource):
    """Buildbot's, which asks nobody for what can't be a user."""

    # It is made too late to register itself for reconfigs, so WWWService.setupSite does that.
    needsReconfig = False

    @defer.inlineCallbacks
    def renderAvatar(self, request: Any) -> Any:
        """Do as Buildbot does; what can't be a name or an address has the picture of nobody."""
        email = request.args.get(b"email", [b""])[0]
        name = request.args.get(b"username", [b""])[0]
        # In a path, these lead elsewhere; a name that is a dot does so, too.
        if not is_name(email) or not is_name(name) or re.search(rb"[/?#%]|^\.+$", name):
            raise resource.Redirect(self.defaultAvatarUrl)
        if len(self.cache) >= MOST_KEPT:
            self.cache.clear()
        yield super().renderAvatar(request)
