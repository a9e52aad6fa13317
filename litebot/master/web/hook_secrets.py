"""Change hooks that start builds for those only whom master.cfg knows.

Buildbot's Authz does not cover them: a hook that checks no secret takes a change from anybody who
reaches the page.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# Dialects that check a secret.  Source: buildbot/www/hooks/
CHECK_A_SECRET = {"github", "gitlab"}


def close(www: dict[str, Any]) -> Iterator[str]:
    """Make hooks that have a secret insist on it; notes on those that stay open.

    With `change_hook_auth` all of them need a login, and a `custom_class` has to see for itself.
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
                ' demand a login: "change_hook_auth": [FilePasswordDB("hooks.passwd")], with'
                " FilePasswordDB of twisted.cred.checkers"
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
                    ' takes what is not signed; remove "strict"'
                )
            dialects[name] = {"strict": True, **options}
