"""litebot project export and import"""

from __future__ import annotations

from pathlib import Path

import click

from litebot.basedir import Basedir
from litebot.cli.common import basedir_argument
from litebot.cli.common import counted
from litebot.cli.common import dry_run_option
from litebot.cli.common import example
from litebot.cli.common import json_option
from litebot.cli.common import print_json
from litebot.cli.common import print_plan
from litebot.cli.common import quiet_option
from litebot.cli.common import say
from litebot.cli.common import tell
from litebot.cli.progress import working
from litebot.cli.project_client import ask
from litebot.cli.project_client import by
from litebot.cli.project_client import differences
from litebot.cli.project_client import project_of
from litebot.errors import LitebotError
from litebot.files import replace_file
from litebot.projects.definition import KEYS
from litebot.projects.definition import from_toml
from litebot.projects.definition import to_toml


@example("litebot project export -o projects ci")
@click.command()
@click.option(
    "--output",
    "-o",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write a file NAME.toml for each project into this folder.  [default: print them]",
)
@json_option
@quiet_option
@basedir_argument
def export(basedir: Basedir, output: Path | None, as_json: bool) -> None:
    """Write the projects as TOML, one file a project."""
    found = ask(basedir, "list")["projects"]
    projects = [project_of(each) for each in found]
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        for each in projects:
            replace_file(output / f"{each.name}.toml", to_toml(each), new_mode=0o644)
        tell(f"wrote {counted(len(found), 'project')} to {output}")
    elif as_json:
        print_json(found)
    else:
        print("\n".join(f"# {each.name}.toml\n{to_toml(each)}" for each in projects), end="")


@example("litebot project import --dry-run projects ci")
@click.command(name="import")
@click.option("--comment", default="", help="What for; kept in the history.")
@dry_run_option
@json_option
@quiet_option
@click.argument("folder", type=click.Path(path_type=Path))
@basedir_argument
def import_projects(
    folder: Path, basedir: Basedir, comment: str, dry_run: bool, as_json: bool
) -> None:
    """Add and change projects by the files NAME.toml in FOLDER.

    All of them or none.  Projects that have no file stay as they are.
    """
    if not folder.is_dir():
        raise LitebotError(f"{folder} is no folder", f"litebot project export -o {folder}")
    files = sorted(folder.glob("*.toml"))
    if not files:
        raise LitebotError(f"there is no file NAME.toml in {folder}")
    wanted = {file.stem: from_toml(file.stem, file.read_text(encoding="utf-8")) for file in files}
    there = {each["name"]: project_of(each) for each in ask(basedir, "list")["projects"]}
    add, change = ("would add", "would change") if dry_run else ("added", "changed")
    changed = {name: made for name, made in wanted.items() if made != there.get(name)}
    lines = []
    for name, made in changed.items():
        if name not in there:
            lines.append(f"{add} {name}, of {made.url}")
            continue
        lines.append(f"{change} {name}")
        lines += [f"    {line}" for line in differences(there[name].values(), made.values())]
    if dry_run:
        print_plan(lines, "the projects are like that already")
        return
    values = {
        name: {key: value for key, value in made.values().items() if value != KEYS[key].default}
        for name, made in changed.items()
    }
    with working(f"importing {counted(len(changed), 'project')}"):
        saved = ask(basedir, "save all", projects=values, by=by(), comment=comment)["projects"]
    if as_json:
        print_json(saved)
    elif saved:
        for line in lines:
            say(line)
        tell(f"imported {counted(len(saved), 'project')} from {folder}")
    else:
        say("the projects are like that already")
