"""What may help where a repository can't be read, by how git has logged in."""

from __future__ import annotations

import shlex

from litebot.basedir import Basedir
from litebot.errors import LitebotError
from litebot.master.projects.logins import secret_files
from litebot.master.projects.logins.deploy_keys import described
from litebot.master.projects.logins.git import Login
from litebot.projects.addresses import is_ssh
from litebot.projects.logins import is_http
from litebot.projects.logins import user_in

KEY_PLACE = "as a deploy key of the repository, for reading, without a line break"


def advice(files: Basedir, project: str, url: str, login: Login, why: str) -> str | None:
    """Return a remedy for an admin, or None if there is none to be known.

    `why` is what git has said.
    """
    if is_ssh(url):
        if not login.key:
            return None
        try:
            public = described(secret_files.read_key(files, login.key), project)
        except LitebotError as error:
            return error.hint
        return f"paste this line {KEY_PLACE}, and then the same command again:\n{public}"
    if not is_http(url) or _is_away(why):
        return None
    if login.password:
        path = shlex.quote(str(files.secrets / login.password))
        return f"check the user, {user_in(url)}, and the password or token in {path}"
    folder = shlex.quote(str(files.secrets))
    name = f"project-{project}-token"
    return (
        f"if it needs a login: mkdir -p -m 700 {folder}; (umask 077; cat > {folder}/{name}), and"
        f" add --password {name}"
    )


def _is_away(why: str) -> bool:
    """Return whether git got no answer by HTTP, as of a server that does not run."""
    # git alone knows, and says it in words; LC_ALL=C keeps them the same.
    no_reply = "unable to access" in why and "The requested URL returned error" not in why
    return no_reply or "did not answer within" in why


def in_short(url: str, login: Login, project: str) -> str | None:
    """Return what to look at when a project's repository can't be read any more, or None."""
    if is_ssh(url):
        return f"its key: litebot project key {project}" if login.key else None
    return f"the secret {login.password}" if is_http(url) and login.password else None
