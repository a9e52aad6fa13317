"""What the README and the help texts show is run."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from litebot.cli.buildbot import HandedOn
from litebot.cli.main import COMMANDS
from litebot.cli.main import litebot
from support.commands import wait_for
from support.documents import ROOT
from support.documents import Page
from support.repositories import Repository
from support.typed import BIN
from support.typed import run
from support.typed import succeeds

README = Page(ROOT / "README.md")


def checkout(folder: Path) -> Path:
    """The files that version control knows, as a clone would bring them."""
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    for name in names:
        if (ROOT / name).exists():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    return folder


@pytest.mark.timeout(600)
def test_the_readmes_commands_do_what_it_says(tmp_path: Path) -> None:
    first = checkout(tmp_path / "first")
    try:
        said = [run(line, first) for line in README.commands("Two commands")]
    finally:
        subprocess.run(["make", "stop"], cwd=first, capture_output=True, check=False)
    assert "Ran 3 tests" in said[0]
    assert "\nSUCCESS: build successful" in said[0]
    assert re.fullmatch(
        r"all projects: http://127\.0\.0\.1:\d+/litebot/", said[0].rstrip().splitlines()[-1]
    )
    assert re.search(r"http://127\.0\.0\.1:\d+/", said[0])
    assert "stopped the master" in said[1]

    second = checkout(tmp_path / "second")
    commands = first / ".venv/bin"
    try:
        said = [run(line, second, commands) for line in README.commands("Installed")]
    finally:
        subprocess.run(
            [commands / "litebot", "stop", "ci"], cwd=second, capture_output=True, check=False
        )
    assert "SUCCESS" in "".join(said)


def examples() -> dict[str, str]:
    """Command -> the example that its help ends with."""
    found = {}

    def collect(command: click.Command, title: str) -> None:
        if isinstance(command, click.Group):
            for name in command.list_commands(click.Context(command)):
                sub = command.get_command(click.Context(command), name)
                assert sub is not None
                collect(sub, f"{title} {name}")
        assert command.epilog, f"litebot {title} ends without an example"
        found[title] = command.epilog.split("Example:")[1].strip()

    for name in COMMANDS:
        command = litebot.get_command(click.Context(litebot), name)
        assert command is not None
        if not isinstance(command, HandedOn):
            collect(command, name)
    return found


# What a newcomer would type, in an order in which each line finds what it needs.
ORDER = [
    "version",
    "create-master",
    "check-config",
    "project check",
    "user add",
    "user list",
    "user passwd",
    "user remove",
    "start",
    "status",
    "project add",
    "project list",
    "project show",
    "project edit",
    "project disable",
    "project enable",
    "project history",
    "project hook",
    "project pulls",
    "project key",
    "project tell",
    "project export",
    "project import",
    "project remove",
    "project undo",
    "build",
    "check",
    "report list",
    "report drop",
    "reconfig",
    "why",
    "restart",
    "stop",
    "upgrade-master",
    "cleanupdb",
    "copy-db",
    "move-database",
]


def make_a_change(basedir: Path) -> None:
    """Commit to the sample project, and wait until its poller has seen it."""
    run("git -C project commit --quiet --allow-empty -m 'A change'", basedir)
    wait_for(lambda: succeeds("litebot why 1 .", basedir), "the poller to see a change", 60)


# One whose server never answers.
REPORTER = """
from buildbot.plugins import reporters

c["services"] = [reporters.HttpStatusPush("http://127.0.0.1:9")]
"""


def make_a_report(basedir: Path) -> None:
    """Have a reporter that has something to tell, and can't."""
    with open(basedir / "master.cfg", "a", encoding="utf-8") as config:
        config.write(REPORTER)
    run("litebot reconfig ci && litebot build hello ci", basedir.parent)


@pytest.mark.timeout(300)
def test_every_help_texts_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = examples()
    # Where the examples have an address of a repository, there is none; git takes this one for it.
    repository = Repository(tmp_path / "tool")
    config = tmp_path / "gitconfig"
    config.write_text(f'[url "{repository.url}"]\ninsteadOf = https://example.org/team/tool.git\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    groups = {"project", "report", "user"}
    assert set(shown) - groups == set(ORDER)
    try:
        for title in ORDER:
            assert shlex.split(shown[title])[: len(title.split()) + 1] == [
                "litebot",
                *title.split(),
            ]
            if title == "report list":
                make_a_report(tmp_path / "ci")
            if title == "why":
                make_a_change(tmp_path / "ci")
            run(shown[title], tmp_path)
    finally:
        subprocess.run(
            [BIN / "litebot", "stop", "ci"], cwd=tmp_path, capture_output=True, check=False
        )
