"""litebot project tell"""

from __future__ import annotations

import click

from litebot.basedir import Basedir
from litebot.cli.common import basedir_argument
from litebot.cli.common import example
from litebot.cli.common import json_option
from litebot.cli.common import print_json
from litebot.cli.common import quiet_option
from litebot.cli.common import say
from litebot.cli.progress import working
from litebot.cli.project_client import ask


@example("litebot project tell tool ci")
@click.command()
@click.option("--test", is_flag=True, help="Send a test message now, and say what is answered.")
@click.option(
    "--only",
    default="",
    metavar="LINE",
    help="Test this one, or those that begin so.  [default: all]",
)
@json_option
@quiet_option
@click.argument("name")
@basedir_argument
def tell(name: str, basedir: Basedir, test: bool, only: str, as_json: bool) -> None:
    """Print whom project NAME tells of results; with --test, try it.

    `litebot project edit --tell LINE` changes it.
    """
    if only and not test:
        raise click.UsageError("--only goes with --test")
    if not test:
        lines = ask(basedir, "show", name=name)["definition"]["tell"]
        found = [{"tell": line, "sent": False, "error": None, "answers": []} for line in lines]
    else:
        with working(f"sending test messages of {name}"):
            found = ask(basedir, "tell", name=name, only=only)["results"]
    if as_json:
        print_json(found)
    else:
        for each in found:
            print(each["tell"])
            for answer in each["answers"]:
                print(f"    {answer['where']} answered {answer['code']}  {answer['text']}".rstrip())
            if each["error"]:
                print(f"    not sent: {each['error']}")
        if not found:
            say(f"{name} tells nobody; litebot project edit --tell LINE {name} {basedir.quoted}")
    if any(each["error"] for each in found):
        raise SystemExit(1)
