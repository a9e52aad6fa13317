"""What the documents show is run, and what is written by a program is up to date."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from litebot.cli.buildbot import HandedOn
from litebot.cli.main import COMMANDS
from litebot.cli.main import litebot

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent


def run(command: str, folder: Path, path: Path = BIN) -> str:
    """What a line prints when it is typed in a folder; it must exit with 0."""
    env = {**os.environ, "PATH": f"{path}{os.pathsep}{os.environ['PATH']}"}
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):  # `make test` runs this; a reader has none
        env.pop(name, None)
    env.pop("VIRTUAL_ENV", None)
    done = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        timeout=300,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


def block(title: str) -> list[str]:
    """The lines of the first code block of a section of the README."""
    section = README.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
    found = re.search(r"(?:^ {4}.*\n)+", section, re.MULTILINE)
    assert found, title
    return [line.strip() for line in found.group().splitlines()]


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
        said = [run(line, first) for line in block("Two commands")]
    finally:
        subprocess.run(["make", "stop"], cwd=first, capture_output=True, check=False)
    assert "Ran 3 tests" in said[0]
    assert said[0].rstrip().splitlines()[-1].startswith("SUCCESS")
    assert re.search(r"http://127\.0\.0\.1:\d+/", said[0])
    assert "stopped the master" in said[1]

    second = checkout(tmp_path / "second")
    commands = first / ".venv/bin"
    try:
        said = [run(line, second, commands) for line in block("Installed")]
    finally:
        subprocess.run(
            [commands / "litebot", "stop", "ci"], cwd=second, capture_output=True, check=False
        )
    assert "SUCCESS" in "".join(said)


def test_the_readme_names_only_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        word for line in re.findall(r"^ {4}make ([a-z ]+)", README, re.M) for word in line.split()
    }
    assert named
    assert named <= targets


def test_links_between_documents_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_each_promise_names_tests_that_exist() -> None:
    page = (ROOT / "docs/recovery.md").read_text(encoding="utf-8")
    tables = [block.splitlines() for block in page.split("\n\n") if block.startswith("|")]
    rows = [row for table in tables if "test in `tests/crash`" in table[0] for row in table[2:]]
    proofs = [row.split("|")[3].strip() for row in rows]
    assert len(proofs) > 15
    file = ""
    for proof in proofs:
        for words in proof.split(";"):
            named = re.fullmatch(r"(?:`(test_\w+\.py)`:?)?(.*)", words.strip())
            assert named, words
            file = named[1] or file
            text = (ROOT / "tests/crash" / file).read_text(encoding="utf-8").lower()
            name = named[2].strip().replace(" ", "_")
            assert re.search(rf"def test_\w*{name}", text), f"{file} has no test of {words!r}"


def test_the_page_of_commands_is_up_to_date() -> None:
    written = runpy.run_path(str(ROOT / "docs/write_cli.py"))["text"]()
    assert (ROOT / "docs/cli.md").read_text(encoding="utf-8") == written, "run: make docs"


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
    "user add",
    "user list",
    "user passwd",
    "user remove",
    "start",
    "status",
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
    give_up_at = time.monotonic() + 60
    while subprocess.run([BIN / "litebot", "why", "1", basedir], capture_output=True).returncode:
        assert time.monotonic() < give_up_at, "the poller saw no change"
        time.sleep(0.2)


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


def test_every_help_texts_example_runs(tmp_path: Path) -> None:
    shown = examples()
    groups = {"report", "user"}
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
