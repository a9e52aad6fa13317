"""litebot project add and edit"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from litebot.basedir import Basedir
from litebot.cli.common import basedir_argument
from litebot.cli.common import example
from litebot.cli.common import json_option
from litebot.cli.common import quiet_option
from litebot.cli.common import say
from litebot.cli.common import tell
from litebot.cli.progress import working
from litebot.cli.project_client import ask
from litebot.cli.project_client import by
from litebot.cli.project_client import note_missing_secrets
from litebot.cli.project_client import print_saved
from litebot.cli.project_client import project_of
from litebot.cli.project_client import save
from litebot.cli.project_editor import edit_until_right
from litebot.cli.project_keys import given_keys
from litebot.cli.project_keys import key_options
from litebot.cli.project_logins import fingerprint_option
from litebot.cli.project_logins import ssh_login
from litebot.cli.project_logins import trust_option
from litebot.cli.project_logins import yes_option
from litebot.errors import LitebotError
from litebot.projects.addresses import shown
from litebot.projects.addresses import suggested_name
from litebot.projects.definition import KEYS
from litebot.projects.definition import Project
from litebot.projects.definition import checked
from litebot.projects.definition import from_toml
from litebot.projects.definition import from_values
from litebot.projects.definition import to_toml
from litebot.projects.logins import server_of
from litebot.settings import load


@example("litebot project add https://example.org/team/tool.git ci")
@click.command()
@click.option("--name", metavar="NAME", help="Its name.  [default: from the address]")
@yes_option
@fingerprint_option
@click.option("--comment", default="", help="What for; kept in the history.")
@key_options(adds=True)
@json_option
@quiet_option
@click.argument("url")
@basedir_argument
def add(
    url: str,
    basedir: Basedir,
    name: str | None,
    yes: bool,
    fingerprint: str | None,
    comment: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Add the repository at URL; its first build starts at once.

    litebot looks at the repository first.  One without a .litebot.toml gets steps by what lies in
    it, after a question.

    An SSH address gets a key of its own.  If the repository does not have it yet, this command says
    so, and prints what to paste there; then type it again.
    """
    name = name or suggested_name(url)
    ask(basedir, "free", name=name)
    given = given_keys(options)
    url = _absolute(url)
    given |= ssh_login(basedir, name, url, given, yes=yes, fingerprint=fingerprint)
    login = {key: given.get(key) for key in ("key", "password", "host_key")}
    with working(f"looking at {url}"):
        found = ask(basedir, "look", name=name, url=url, branch=given.get("branch"), **login)
    values = {"url": url, "branch": found["branch"], **given}
    if found["file"] is None and not values.get("steps", "").strip():
        if "steps" in values and not found["unseen"]:
            raise LitebotError(
                f"{shown(found['url'])} has no .litebot.toml, and --steps gives no steps",
                "leave out --steps, or name a file that has some",
            )
        if found["unseen"]:
            say(f"note: {found['unseen']}")
        else:
            values["steps"] = _confirmed(found, yes)
    from_values(name, values)  # the errors of options, before anything is asked
    with working(f"adding {name}"):
        saved = ask(basedir, "save", name=name, values=values, base=0, by=by(), comment=comment)
    where = "its .litebot.toml" if found["file"] is not None else "steps of the project"
    done = f"added {name}: branch {values['branch']} of {url}, built by {where}"
    print_saved(saved, as_json, done)
    note_missing_secrets(basedir, values.get("secrets", ()))
    if as_json:
        return
    if page := load(basedir.settings_file).web.public_url:
        tell(f"  page  {page}litebot/projects/{name}")
    runs = basedir.owner() is not None
    tell(f"\nNext: litebot {f'build {name}' if runs else 'start'} {basedir.quoted}")


def _absolute(url: str) -> str:
    """Return the address of a repository; a folder here by its full path."""
    return str(Path(url).absolute()) if url.startswith(".") and Path(url).is_dir() else url


def _confirmed(found: dict[str, Any], yes: bool) -> str:
    """Return the steps that a user wants for a repository without a .litebot.toml."""
    text: str = found["proposed"]
    if not text:
        raise LitebotError(
            f"{found['url']} has no .litebot.toml, and nothing in it says how it is built",
            "commit a .litebot.toml there, or write its steps into a file, and add --steps FILE",
        )
    say("there is no .litebot.toml; these steps are proposed:\n")
    say("".join(f"    {line}\n" for line in text.splitlines()))
    if yes:
        return text
    if not sys.stdin.isatty():
        raise LitebotError(
            "there is nobody to confirm the steps", "add --yes, or --steps FILE with others"
        )
    choice = click.prompt(
        "take them, or edit them first", type=click.Choice(["y", "e", "n"]), default="y", err=True
    )
    if choice == "n":
        raise click.Abort
    if choice == "y":
        return text
    return (
        edit_until_right(text, _checked_steps, "set EDITOR to one that works, or add --steps FILE")
        or text
    )


def _checked_steps(text: str) -> str:
    return str(checked("steps", text))


@example("litebot project edit --timeout 2h tool ci")
@click.command()
@click.option("--comment", default="", help="What for; kept in the history.")
@click.option("--url", help=KEYS["url"].metadata["doc"])
@click.option("--force", is_flag=True, help="Save it even if the repository can't be read so.")
@trust_option
@fingerprint_option
@key_options(adds=False)
@json_option
@quiet_option
@click.argument("name")
@basedir_argument
def edit(
    name: str,
    basedir: Basedir,
    comment: str,
    force: bool,
    yes: bool,
    fingerprint: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Change keys of project NAME, or all of it in your editor."""
    found = ask(basedir, "show", name=name)
    before = project_of(found)
    if given := given_keys(options):
        after = from_values(name, {**before.values(), **given})
    else:
        again = f"EDITOR=nano litebot project edit {name} {basedir.quoted}  # or use options"
        typed = edit_until_right(to_toml(before), lambda text: from_toml(name, text), again)
        after = before if typed is None else typed
    if server_of(after.url) != server_of(before.url):
        # The key of the old server says nothing about another one.
        given = {"key": after.key} if after.key else {}
        if after.host_key != before.host_key:
            given["host_key"] = after.host_key
        login = ssh_login(basedir, name, after.url, given, yes=yes, fingerprint=fingerprint)
        after = replace(after, **{"host_key": "", **given, **login})
    if (after.url, after.branch) != (before.url, before.branch) and not force:
        _refuse_unreadable(basedir, after)
    save(basedir, after, found, as_json, comment)
    note_missing_secrets(basedir, set(after.secrets) - set(before.secrets))


def _refuse_unreadable(basedir: Basedir, after: Project) -> None:
    """Raise LitebotError if the repository of a project can't be read, or lacks its branch."""
    login = {key: getattr(after, key) for key in ("key", "password", "host_key")}
    with working(f"looking at {after.url}"):
        ask(basedir, "look", name=after.name, url=after.url, branch=after.branch, **login)
