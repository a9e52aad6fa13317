"""litebot project check"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from litebot.cli.common import Exit
from litebot.cli.common import counted
from litebot.cli.common import example
from litebot.cli.common import json_option
from litebot.cli.common import print_json
from litebot.cli.common import quiet_option
from litebot.cli.common import say
from litebot.cli.common import tell
from litebot.errors import BuildFileError
from litebot.errors import LitebotError
from litebot.projects.build_file import FILE_NAME
from litebot.projects.build_file import MOST_BYTES
from litebot.projects.build_file import BuildFile
from litebot.projects.build_file import Step
from litebot.projects.build_file import parse
from litebot.projects.durations import format_duration
from litebot.projects.proposals import Proposal
from litebot.projects.proposals import propose
from litebot.projects.tree import MOST_CHARS


class BuildFileFaulty(LitebotError):
    """A .litebot.toml has errors, or there is none."""

    exit_code = Exit.FOUND


@example("litebot project check ci/project")
@click.command()
@json_option
@quiet_option
@click.argument(
    "folder",
    metavar="[DIR]",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=".",
)
def check(folder: Path, as_json: bool) -> None:
    """Say how a repository is built, or what is wrong.

    DIR is a checkout of the repository.  Reads its .litebot.toml and says what a build would do;
    exits with 3 where something is wrong in it.  Without that file, prints the one that litebot
    proposes.  Runs nothing.
    """
    path = folder / FILE_NAME
    data = _read(path, MOST_BYTES + 1)
    if data is None:
        _print_proposal(folder, propose_for(folder), as_json)
        return
    found: dict[str, Any] = {"file": str(path), "good": True, "errors": []}
    try:
        build_file = parse(data, str(path))
    except BuildFileError as error:
        if not as_json:
            raise BuildFileFaulty(error.what, error.hint) from None
        errors = [_placed(line, str(path)) for line in error.what.splitlines()]
        print_json({**found, "good": False, "errors": errors})
        sys.exit(Exit.FOUND)
    if as_json:
        nightly = str(build_file.nightly) if build_file.nightly else None
        print_json({**found, **asdict(build_file), "nightly": nightly})
        return
    print("\n".join(_words(build_file)))
    tell(f"{path} is good")


def propose_for(folder: Path) -> Proposal:
    """Return what is proposed for a checkout."""

    def read(name: str) -> str | None:
        data = _read(folder / name, MOST_CHARS)
        return None if data is None else data.decode("utf-8", "replace")

    return propose([path.name for path in folder.iterdir()], read)


def _read(path: Path, size: int) -> bytes | None:
    """Return the beginning of a file, or None if it is no file."""
    if not path.is_file():  # nor a link to one; reading from a pipe would not end
        return None
    with open(path, "rb") as file:
        return file.read(size)


def _print_proposal(folder: Path, proposal: Proposal, as_json: bool) -> None:
    text = proposal.to_toml()
    if as_json:
        print_json(
            {
                "file": None,
                "good": bool(text),
                "errors": [],
                "proposed": text or None,
                "reasons": list(proposal.reasons),
            }
        )
    elif text:
        say(f"note: {folder} has no {FILE_NAME}; litebot proposes this one")
        print(text, end="")
    if text:
        return
    if as_json:
        sys.exit(Exit.FOUND)
    raise BuildFileFaulty(
        f"{folder} has no {FILE_NAME}, and no file at its top by which litebot could propose one",
        f'write one, such as: steps = ["make", "make test"], into {folder / FILE_NAME}',
    )


def _placed(line: str, name: str) -> dict[str, Any]:
    number, _, message = line.removeprefix(f"{name}:").partition(": ")
    return {"line": int(number), "message": message}


def _words(build_file: BuildFile) -> Iterator[str]:
    """Yield what a build would do, line by line."""
    yield f"steps, each run by {' '.join(build_file.shell)}:"
    width = max(len(step.name) for step in build_file.steps)
    for step in build_file.steps:
        yield f"  {step.name:<{width}}  {_step(step)}"
    if build_file.env:
        yield f"environment: {', '.join(build_file.env)}"
    if build_file.matrix:
        yield f"matrix: {counted(len(build_file.cells()), 'build')} of each revision"
        for cell in build_file.cells():
            yield "  " + " ".join(f"{name}={value}" for name, value in cell.items())
    if build_file.workers:
        yield f"workers: {', '.join(build_file.workers)}"
    if build_file.branches:
        yield f"only branches: {', '.join(build_file.branches)}"
    if build_file.paths:
        yield f"only changes of: {', '.join(build_file.paths)}"
    if build_file.nightly:
        yield f"each night at {build_file.nightly}"
    if build_file.secrets:
        yield f"asks for secrets: {', '.join(build_file.secrets)}"


def _step(step: Step) -> str:
    first, *more = step.run.strip().splitlines()
    shown = "".join(char if char.isprintable() else "?" for char in first)
    notes = [f"and {counted(len(more), 'line')}"] if more else []
    if step.timeout_s is not None:
        notes.append(f"at most {format_duration(step.timeout_s)}")
    if step.directory:
        notes.append(f"in {step.directory}")
    if step.env:
        notes.append(f"with {', '.join(step.env)}")
    return shown + (f"  ({'; '.join(notes)})" if notes else "")
