"""litebot project key, and what others ask their user about logins: the key of a server."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import click

from litebot.basedir import Basedir
from litebot.cli.common import basedir_argument
from litebot.cli.common import example
from litebot.cli.common import json_option
from litebot.cli.common import print_json
from litebot.cli.common import quiet_option
from litebot.cli.common import say
from litebot.cli.project_client import ask
from litebot.cli.project_client import by
from litebot.cli.project_client import project_of
from litebot.cli.project_client import save
from litebot.errors import LitebotError
from litebot.projects.addresses import is_ssh
from litebot.projects.ssh_keys import type_of

PASTE = "paste this line as a deploy key of the repository, for reading"
# Where servers publish the fingerprints of their keys.
PUBLISHED = {
    "github.com": "docs.github.com, under GitHub's SSH key fingerprints",
    "gitlab.com": "docs.gitlab.com, under SSH host keys fingerprints",
}

yes_option = click.option(
    "--yes", "-y", is_flag=True, help="Take what is proposed, without a question."
)
trust_option = click.option(
    "--yes", "-y", is_flag=True, help="Trust the key of the server, without a question."
)
fingerprint_option = click.option(
    "--fingerprint",
    metavar="SHA256:...",
    help="The fingerprint that the server's key must have; then nothing is asked about it.",
)


def ssh_login(
    basedir: Basedir,
    name: str,
    url: str,
    given: Mapping[str, Any],
    *,
    yes: bool,
    fingerprint: str | None,
) -> dict[str, Any]:
    """Return the keys of a project that an SSH address needs and that are not given.

    Its own key is made if there is none.  Returns nothing for other addresses.
    """
    found: dict[str, Any] = {}
    if not is_ssh(url):
        return found
    if "host_key" not in given:
        found["host_key"] = confirmed_host_key(basedir, url, yes=yes, fingerprint=fingerprint)
    if "key" not in given:
        made = ask(basedir, "key", name=name)
        found["key"] = made["key"]
        if made["made"] and not yes and sys.stdin.isatty():
            say(f"{PASTE}:\n\n{made['public']}\n")
            click.prompt(
                "then press Enter", default="", show_default=False, prompt_suffix=" ", err=True
            )
    return found


def confirmed_host_key(basedir: Basedir, url: str, *, yes: bool, fingerprint: str | None) -> str:
    """Return the key of the server of an SSH address, if the user trusts it."""
    found = ask(basedir, "host key", url=url)
    key: str = found["key"]
    what = f"the {type_of(key)} key of {found['host']} is {found['fingerprint']}"
    if fingerprint is not None:
        if fingerprint != found["fingerprint"]:
            raise LitebotError(
                f"{what}, not {fingerprint}", "ask the server's admins before you go on"
            )
    elif found["known_in"] is not None:
        say(f"{what}, as in {found['known_in']}")
    elif yes:
        say(f"note: {what}; nobody has compared it")
    elif not sys.stdin.isatty():
        raise LitebotError(
            f"there is nobody to confirm the server: {what}",
            f"compare it with {_published(found['host'])}, and add --fingerprint"
            f" {found['fingerprint']}",
        )
    else:
        say(f"{what}\ncompare it with {_published(found['host'])}")
        click.confirm("is it the same", abort=True, err=True)
    return key


def _published(host: str) -> str:
    return PUBLISHED.get(
        host, "what this prints on the server: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"
    )


@example("litebot project key tool ci")
@click.command(name="key")
@click.option("--new", "anew", is_flag=True, help="Make another key, in place of the old one.")
@click.option("--trust", is_flag=True, help="Accept the key that the server shows now.")
@yes_option
@fingerprint_option
@json_option
@quiet_option
@click.argument("name")
@basedir_argument
def print_key(
    name: str,
    basedir: Basedir,
    anew: bool,
    trust: bool,
    yes: bool,
    fingerprint: str | None,
    as_json: bool,
) -> None:
    """Print the public SSH key of project NAME, for its repository.

    It is made if there is none, also before the project is added.  The private half is a file in
    the folder secrets of the basedir.  With --trust, the key of the server is asked for anew, and
    accepted from then on.
    """
    if trust and anew:
        raise click.UsageError("--new and --trust are two things; do one after the other")
    if trust:
        found = ask(basedir, "show", name=name)
        before = project_of(found)
        if not is_ssh(before.url):
            raise LitebotError(f"{name} has no SSH address: {before.url}")
        now = confirmed_host_key(basedir, before.url, yes=yes, fingerprint=fingerprint)
        save(basedir, replace(before, host_key=now), found, as_json)
        return
    made = ask(basedir, "key", name=name, anew=anew, by=by())
    if as_json:
        print_json(made)
        return
    say(f"{PASTE}; builds fail until it is there:" if anew else f"{PASTE}:")
    print(made["public"])
