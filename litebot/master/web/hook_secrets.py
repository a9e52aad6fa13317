"""Change hooks that take changes only from senders with a secret.

Buildbot's Authz does not cover hooks: one that checks no secret takes a change from anybody who
can reach the page.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# Dialects that check a secret.  Source: buildbot/www/hooks/
CHECK_A_SECRET = {"github", "gitlab"}


def require_secrets(www: dict[str, Any]) -> Iterator[str]:
    """Have hooks with a secret refuse what is not signed; yield a note on each hook left open.

    Does nothing where `change_hook_auth` makes every hook ask for a login.  A hook with a
    `custom_class` has to check its senders itself, and gets no note.
    """
    dialects = www.get("change_hook_dialects")
    if not isinstance(dialects, dict) or www.get("change_hook_auth") is not None:
        return
    www["change_hook_dialects"] = dialects = dict(dialects)
    for name, options in dialects.items():
        options = options if isinstance(options, dict) else {}
        if "custom_class" in options:
            continue
        if name not in CHECK_A_SECRET:
            yield (
                f"the change hook {name!r} lets anybody start builds, as it checks no secret;"
                ' require a login: "change_hook_auth": [FilePasswordDB("hooks.passwd")], with'
                " FilePasswordDB from twisted.cred.checkers"
            )
        elif not options.get("secret"):
            yield (
                f"the change hook {name!r} lets anybody start builds; give it a secret:"
                f' {{"{name}": {{"secret": util.Secret("webhook-secret")}}}}'
            )
        elif name == "github":
            if not options.get("strict", True):
                yield (
                    f"the change hook {name!r} lets anybody start builds, as it is not strict and"
                    ' takes unsigned requests; remove "strict"'
                )
            dialects[name] = {"strict": True, **options}
