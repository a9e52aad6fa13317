"""litebot project"""

from __future__ import annotations

from typing import Any

import click

from litebot.basedir import Basedir
from litebot.cli.common import basedir_argument
from litebot.cli.common import dry_run_option
from litebot.cli.common import example
from litebot.cli.common import json_option
from litebot.cli.common import print_json
from litebot.cli.common import print_plan
from litebot.cli.common import quiet_option
from litebot.cli.common import say
from litebot.cli.common import tell
from litebot.cli.progress import working
from litebot.cli.project_change import add
from litebot.cli.project_change import edit
from litebot.cli.project_check import check
from litebot.cli.project_client import ask
from litebot.cli.project_client import by
from litebot.cli.project_client import differences
from litebot.cli.project_client import print_saved
from litebot.cli.project_client import project_of
from litebot.cli.project_client import save
from litebot.cli.project_client import when
from litebot.cli.project_files import export
from litebot.cli.project_files import import_projects
from litebot.cli.project_logins import print_key
from litebot.cli.project_tell import tell as tell_command
from litebot.projects.definition import from_values
from litebot.projects.definition import to_toml
from litebot.settings import load


@example("litebot project list ci")
@click.group()
def project() -> None:
    """Add, change and remove projects: repositories that are built without any Python.

    The master may run, and then goes on without a restart; or be stopped.
    """


@example("litebot project list ci")
@project.command(name="list")
@click.option("--all", "with_removed", is_flag=True, help="Also those that were removed.")
@json_option
@quiet_option
@basedir_argument
def list_projects(basedir: Basedir, with_removed: bool, as_json: bool) -> None:
    """Print the projects."""
    found = ask(basedir, "list", all=with_removed)["projects"]
    if as_json:
        print_json(found)
        return
    rows = [_row(each) for each in found]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    if not found:
        say(f"there are none yet; add one: litebot project add URL {basedir.quoted}")


def _row(version: dict[str, Any]) -> tuple[str, ...]:
    values = version["definition"]
    if values is None:
        removed = f"(removed {when(version)} by {version['saved_by']})"
        return version["name"], "", removed, ""
    off = "" if values["enabled"] else "(disabled)"
    return version["name"], values["branch"], values["url"], off


@example("litebot project show tool ci")
@project.command()
@json_option
@quiet_option
@click.argument("name")
@basedir_argument
def show(name: str, basedir: Basedir, as_json: bool) -> None:
    """Print how project NAME is defined, as TOML."""
    found = ask(basedir, "show", name=name)
    if as_json:
        print_json(found)
    else:
        print(to_toml(project_of(found)), end="")


def _switch(name: str, basedir: Basedir, enabled: bool, as_json: bool) -> None:
    found = ask(basedir, "show", name=name)
    after = from_values(name, {**project_of(found).values(), "enabled": enabled})
    done = f"{name} is {'enabled' if enabled else 'disabled'}"
    save(basedir, after, found, as_json, done=done)


@example("litebot project enable tool ci")
@project.command()
@json_option
@quiet_option
@click.argument("name")
@basedir_argument
def enable(name: str, basedir: Basedir, as_json: bool) -> None:
    """Build new commits of project NAME again."""
    _switch(name, basedir, True, as_json)


@example("litebot project disable tool ci")
@project.command()
@json_option
@quiet_option
@click.argument("name")
@basedir_argument
def disable(name: str, basedir: Basedir, as_json: bool) -> None:
    """Build no new commits of project NAME."""
    _switch(name, basedir, False, as_json)


@example("litebot project remove tool ci")
@project.command()
@click.option("--comment", default="", help="What for; kept in the history.")
@dry_run_option
@json_option
@quiet_option
@click.argument("name")
@basedir_argument
def remove(name: str, basedir: Basedir, comment: str, dry_run: bool, as_json: bool) -> None:
    """Remove project NAME; its builds stay, and `undo` brings it back."""
    found = ask(basedir, "show", name=name)
    if dry_run:
        print_plan([f"would remove {name}, which builds {found['definition']['url']}"])
        return
    with working(f"removing {name}"):
        saved = ask(basedir, "remove", name=name, by=by(), comment=comment)
    back = f"litebot project undo {name} {basedir.quoted}"
    print_saved(saved, as_json, f"removed {name}; it comes back with: {back}")


@example("litebot project history tool ci")
@project.command()
@json_option
@quiet_option
@click.argument("name")
@basedir_argument
def history(name: str, basedir: Basedir, as_json: bool) -> None:
    """Print who changed project NAME, when and how, the newest first."""
    found = ask(basedir, "history", name=name)["versions"]
    if as_json:
        print_json(found)
        return
    for new, old in zip(found, [*found[1:], None], strict=True):
        comment = f": {new['comment']}" if new["comment"] else ""
        print(f"{new['version']:>4}  {when(new)}  {new['saved_by']} ({new['saved_on']}){comment}")
        for line in differences(old and old["definition"], new["definition"]):
            print(f"      {line}")


@example("litebot project undo tool ci")
@project.command()
@click.option("--to", type=click.IntRange(1), metavar="N", help="Which.  [default: the one before]")
@json_option
@quiet_option
@click.argument("name")
@basedir_argument
def undo(name: str, basedir: Basedir, to: int | None, as_json: bool) -> None:
    """Save an older version of project NAME anew.

    Each time goes back one more; a removed project comes back.
    """
    before = ask(basedir, "history", name=name)["versions"][0]
    with working(f"changing {name}"):
        saved = ask(basedir, "undo", name=name, to=to, by=by())
    state = "removed again" if saved["definition"] is None else saved["comment"]
    print_saved(saved, as_json, f"{name} is {state}; this is version {saved['version']}")
    if not as_json:
        if before["definition"] and saved["definition"]:
            for line in differences(before["definition"], saved["definition"]):
                tell(f"    {line}")
        number, place = before["version"], basedir.quoted
        tell(f"\nBack: litebot project undo --to {number} {name} {place}")


@example("litebot project pulls tool ci")
@project.command()
@click.option("--build", "ref", metavar="REF", help="Build this one: 7, or refs/pull/7/head.")
@json_option
@quiet_option
@click.argument("name")
@basedir_argument
def pulls(name: str, basedir: Basedir, ref: str | None, as_json: bool) -> None:
    """Print the pull requests from forks that wait to be built.

    Anybody may make one, so look at what it changes first: its steps run on your workers.
    """
    if ref is not None:
        brid = ask(basedir, "build pull", name=name, ref=ref, by=by())["buildrequestid"]
        (say if as_json else tell)(f"{ref} is built: build request {brid}")
    found = ask(basedir, "pulls", name=name)["pulls"]
    if as_json:
        print_json([{"ref": each, "revision": revision} for each, revision in found.items()])
        return
    for each, revision in found.items():
        print(f"{each}  {revision}")
    if not found:
        on = ask(basedir, "show", name=name)["definition"]["pull_requests"]
        turn_on = f"litebot project edit --pull-requests {name} {basedir.quoted}"
        say("none wait" if on else f"pull requests are not built: {turn_on}")


@example("litebot project hook tool ci")
@project.command()
@json_option
@quiet_option
@click.argument("name")
@basedir_argument
def hook(name: str, basedir: Basedir, as_json: bool) -> None:
    """Print the address at which a push has project NAME looked at.

    Give a forge the address and the secret, which it signs with; what signs nothing, such as curl,
    takes the address with the secret in it.
    """
    found = ask(basedir, "hook", name=name)
    address = f"{load(basedir.settings_file).web.public_url}{found['path']}"
    whole = f"{address}?secret={found['secret']}"
    if as_json:
        print_json({"name": name, "address": address, "secret": found["secret"], "whole": whole})
        return
    print(f"address  {address}\nsecret   {found['secret']}\nor       {whole}")


for command in (add, check, edit, export, import_projects, print_key, tell_command):
    project.add_command(command)
