"""What the commands of `litebot project` share: asking the master, and printing its answers."""

from __future__ import annotations

import difflib
import getpass
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from litebot.basedir import Basedir
from litebot.cli.common import print_json
from litebot.cli.common import say
from litebot.cli.common import tell
from litebot.cli.progress import working
from litebot.projects.definition import KEYS
from litebot.projects.definition import Project
from litebot.projects.definition import from_values
from litebot.projects.definition import to_toml_value


def ask(basedir: Basedir, verb: str, **asked: Any) -> dict[str, Any]:
    """Ask the master, or the database of one that is stopped."""
    basedir.require()
    body = {"do": verb, **asked}
    if basedir.owner() is not None:
        from litebot.cli.client import post

        return post(basedir, "/projects", body)
    from litebot.cli.common import discard_log
    from litebot.master.admin.projects import do_apart

    discard_log()
    return do_apart(basedir, body)


def by() -> str:
    """Return the name of the user who runs the command."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "somebody"


def when(version: dict[str, Any]) -> str:
    """Return when a version was saved, as it is shown."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(version["saved_at"]))


def project_of(found: dict[str, Any]) -> Project:
    """Return the project of a version, as the master has sent it."""
    return from_values(found["name"], found["definition"])


def save(
    basedir: Basedir,
    after: Project,
    found: dict[str, Any],
    as_json: bool,
    comment: str = "",
    done: str = "",
) -> None:
    """Save a project that was made of the version `found`, and print what was done.

    `done` says it in other words than usual.
    """
    if after == project_of(found):
        as_before = f"{done or f'{after.name} is like that'} already; nothing was changed"
        print_saved(found, as_json, as_before)
        return
    values = {key: value for key, value in after.values().items() if value != KEYS[key].default}
    with working(f"changing {after.name}"):
        saved = ask(
            basedir,
            "save",
            name=after.name,
            values=values,
            base=found["version"],
            by=by(),
            comment=comment,
        )
    print_saved(
        saved, as_json, f"{done or f'changed {after.name}'}; this is version {saved['version']}"
    )


def note_missing_secrets(basedir: Basedir, names: Iterable[str]) -> None:
    """Say which of the secrets that a project may have are not there yet."""
    for name in sorted(names):
        path = basedir.secrets / name
        with suppress(OSError):
            if not path.exists():
                say(f"note: there is no {path} yet")


def print_saved(saved: dict[str, Any], as_json: bool, text: str) -> None:
    """Print a version that was saved: as JSON, or the text."""
    if as_json:
        print_json(saved)
    else:
        tell(text)


def differences(old: dict[str, Any] | None, new: dict[str, Any] | None) -> list[str]:
    """Return lines about the keys in which two definitions differ; None is no project.

    Values are as in the TOML of a project, and steps as the lines that were left out and came in.
    """
    if new is None:
        return ["removed"]
    if old is None:
        return ["added"]
    lines = []
    for key, value in new.items():
        if old[key] == value:
            continue
        if key == "steps":
            compared = difflib.ndiff(old[key].splitlines(), value.splitlines())
            lines += ["steps:", *(f"  {line}" for line in compared if line[0] in "-+")]
        else:
            lines.append(f"{key} = {_as_toml(old[key])} -> {_as_toml(value)}")
    return lines


def _as_toml(value: Any) -> str:
    # The master has sent a list as JSON; a project has a tuple.
    return to_toml_value(tuple(value) if isinstance(value, list) else value)
