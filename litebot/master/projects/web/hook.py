"""/change_hook/project/NAME: has the poller of a project look at its repository now.

Nothing that a request says is believed: what there is to build, the poller finds.  So one address
serves every forge and curl.  The sender has to know the secret of the project's hook.
"""

from __future__ import annotations

import hmac
import secrets
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

from buildbot.util.twisted import async_to_deferred
from twisted.python import log
from twisted.web import resource
from twisted.web import server

from litebot.basedir import Basedir
from litebot.files import PRIVATE
from litebot.files import replace_file
from litebot.master.limits.refusals import printable
from litebot.master.secrets.folder import secret_in
from litebot.master.secrets.masker import masker
from litebot.master.web import large

# Headers with a signature: the HMAC of the body with SHA-256, in hexadecimal, after this prefix.
# Sources:
# https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries
# https://support.atlassian.com/bitbucket-cloud/docs/manage-webhooks/
# https://docs.gitea.com/usage/repository/webhooks
# https://forgejo.org/docs/latest/user/webhooks/
SIGNATURES = {
    "X-Hub-Signature-256": "sha256=",
    "X-Gitea-Signature": "",
    "X-Forgejo-Signature": "",
    "X-Gogs-Signature": "",
}
# Bitbucket's, which older GitHubs use for a signature with SHA-1, beside the newer one.
HUB_SIGNATURE, HUB_PREFIX = "X-Hub-Signature", "sha256="
# Source: https://docs.gitlab.com/user/project/integrations/webhooks/
TOKEN = "X-Gitlab-Token"  # noqa: S105
# In the address, for senders that sign nothing.
QUERY = b"secret"


def hook_path(name: str) -> str:
    """Return the path of a project's hook."""
    return f"change_hook/project/{quote(name)}"


def secret_file(files: Basedir, name: str) -> Path:
    """Return the path of the file with the secret of a project's hook."""
    return files.secrets / f"project-{name}-hook"


def hook_secret(files: Basedir, name: str) -> str:
    """Return the secret of a project's hook; it is made if there is none yet."""
    path = secret_file(files, name)
    if not path.exists():
        files.secrets.mkdir(mode=0o700, exist_ok=True)
        replace_file(path, f"{secrets.token_urlsafe(32)}\n", new_mode=PRIVATE)
    secret = secret_in(path)
    masker.learn(path.name, secret)
    return secret


class ProjectHook(resource.Resource):
    """Answers 200 to who knows the secret, and 403 to others, also where there is no project."""

    isLeaf = True

    def __init__(self, master: Any) -> None:
        super().__init__()
        self._master = master

    def render_POST(self, request: Any) -> int:
        d = self._answer(request)
        d.addErrback(log.err, f"while answering {request.path!r}")
        return server.NOT_DONE_YET

    @async_to_deferred
    async def _answer(self, request: Any) -> None:
        request.setHeader(b"content-type", b"text/plain; charset=utf-8")
        name = request.postpath[0].decode("utf-8", "replace") if request.postpath else ""
        projects, files = self._master.projects, self._master.files
        is_known = projects.find(name) is not None and secret_file(files, name).exists()
        if is_known and await _knows(request, hook_secret(files, name)):
            projects.look_now(name)
            request.write(b"looking at the repository now\n")
        else:
            self._master.refusals.note("wrong secret of a hook", printable(name, 60))
            request.setResponseCode(403)
            request.write(
                b"no project has this name and this secret; `litebot project hook NAME` prints"
                b" the address of its hook\n"
            )
        request.finish()


async def _knows(request: Any, secret: str) -> bool:
    """Return whether the sender of a request knows a secret.

    A signature or a token that is there has to be right; without any, the address has the secret.
    """
    signatures = {request.getHeader(name): prefix for name, prefix in SIGNATURES.items()}
    hub = request.getHeader(HUB_SIGNATURE) or ""
    if hub.startswith(HUB_PREFIX):
        signatures[hub] = HUB_PREFIX
    signatures.pop(None, None)
    token = request.getHeader(TOKEN)
    if signatures:
        right = await large.run(request.body_size(), _signature, secret.encode(), request.content)
        return all(_is(given, prefix + right) for given, prefix in signatures.items())
    if token is not None:
        return _is(token, secret)
    given = (request.args or {}).get(QUERY, [b""])[-1]
    return _is(given.decode("utf-8", "replace"), secret)


def _is(given: str, right: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), right.encode())


def _signature(secret: bytes, content: Any) -> str:
    made = hmac.new(secret, digestmod=sha256)
    while piece := content.read(large.INLINE_BYTES):
        made.update(piece)
    return made.hexdigest()
