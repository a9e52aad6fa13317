"""Change hooks that take changes only from senders with a secret.

Buildbot's Authz does not cover hooks: one that checks no secret takes a change from anybody who
can reach the page.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from hashlib import sha1
from typing import Any

from buildbot.process.properties import Properties
from buildbot.util import bytes2unicode
from buildbot.util import unicode2bytes

from litebot.master.web import large

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


async def verify(dialect: str, options: Any, request: Any, master: Any) -> bool:
    """Return whether the sender of a request knows the secret of a hook, if it has one.

    Does so before anything of the body is read as JSON.  Raises ValueError, with the reason, where
    Buildbot's own check would refuse the request after that.
    Source: buildbot/www/hooks/github.py, _get_payload, and buildbot/www/hooks/gitlab.py, getChanges
    """
    options = options if isinstance(options, dict) else {}
    secret = options.get("secret")
    if dialect == "github":
        return await _is_signed(options, secret, request, master)
    if dialect == "gitlab" and secret:
        expected = await _rendered(secret, master)
        given = bytes2unicode(request.getHeader(b"X-Gitlab-Token")) or ""
        if not hmac.compare_digest(unicode2bytes(given), unicode2bytes(expected)):
            raise ValueError("Invalid secret")
        return True
    return False


async def _is_signed(options: dict[str, Any], secret: Any, request: Any, master: Any) -> bool:
    signature = bytes2unicode(request.getHeader(b"X-Hub-Signature")) or ""
    if not signature and options.get("strict", False):
        raise ValueError("Request has no required signature")
    if not (secret and signature):
        return False
    kind, is_pair, given = signature.partition("=")
    if not is_pair or "=" in given:
        raise ValueError(f"Wrong signature format: {signature}")
    if kind != "sha1":
        raise ValueError(f"Unknown hash type: {kind}")
    key = unicode2bytes(await _rendered(secret, master))
    expected = await large.run(request.body_size(), _signature, key, request.content)
    if not hmac.compare_digest(expected.encode(), unicode2bytes(given)):
        raise ValueError("Hash mismatch")
    return True


def _signature(key: bytes, content: Any) -> str:
    mac = hmac.new(key, digestmod=sha1)
    while piece := content.read(large.INLINE_BYTES):
        mac.update(piece)
    content.seek(0)
    return mac.hexdigest()


async def _rendered(secret: Any, master: Any) -> str:
    properties = Properties()
    properties.master = master
    return str(await properties.render(secret))
