"""What holds for all commands: their options, their examples, and what they print where."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from litebot.cli import common
from litebot.cli.buildbot import HandedOn
from litebot.cli.check_config import _placed
from litebot.cli.common import example
from litebot.cli.common import quiet_option
from litebot.cli.common import say
from litebot.cli.common import tell
from litebot.cli.json_fields import FIELDS
from litebot.cli.main import ALIASES
from litebot.cli.main import COMMANDS
from litebot.cli.main import GROUPS
from litebot.cli.main import litebot
from litebot.cli.main import main
from litebot.cli.progress import bars
from litebot.cli.progress import working
from litebot.errors import LitebotError


def all_commands() -> Iterator[tuple[str, click.Command]]:
    """Each command of litebot's own that does something, with the words that name it."""
    top = click.Context(litebot, info_name="litebot")
    for name in COMMANDS:
        command = litebot.get_command(top, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from ((f"{name} {sub}", each) for sub, each in command.commands.items())
        elif not isinstance(command, HandedOn):
            yield name, command


OURS = dict(all_commands())
# What reads; and what deletes, moves or rewrites.
READING = set(FIELDS)
REWRITING = {
    "cleanupdb",
    "copy-db",
    "move-database",
    "project import",
    "project remove",
    "report drop",
    "upgrade-master",
    "user remove",
}
# They are about what is installed, and about a checkout.
WITHOUT_BASEDIR = {"project check", "version"}


def options(command: click.Command) -> set[str]:
    return {word for param in command.params for word in param.opts}


@pytest.mark.parametrize("name", OURS)
def test_options_mean_the_same_everywhere(name: str) -> None:
    found = options(OURS[name])
    assert {"--quiet", "-q"} <= found
    assert ("--json" in found) == (name in READING)
    assert ("--dry-run" in found) == (name in REWRITING)
    for param in OURS[name].params:
        for word in ("-q", "--json", "--dry-run"):
            if word in param.opts:
                assert isinstance(param, click.Option)
                assert not param.hidden


@pytest.mark.parametrize("name", sorted(OURS.keys() - WITHOUT_BASEDIR))
def test_the_basedir_comes_last(name: str) -> None:
    arguments = [param for param in OURS[name].params if isinstance(param, click.Argument)]
    assert arguments[-1].name == "basedir"
    assert arguments[-1].default == "."
    assert not arguments[-1].required


@pytest.mark.parametrize("name", OURS)
def test_every_help_ends_with_an_example(name: str) -> None:
    epilog = OURS[name].epilog
    assert epilog is not None
    assert re.fullmatch(rf"Example:  litebot {name}( .*)?", epilog)


@pytest.mark.parametrize("name", [name for name in OURS if " " in name])
def test_the_first_sentence_fits_into_the_list_of_a_family(name: str) -> None:
    assert not OURS[name].get_short_help_str(limit=64).endswith("...")


def test_each_command_is_in_one_group() -> None:
    listed = [name for group in GROUPS.values() for name in group]
    assert len(listed) == len(set(listed))
    shown = CliRunner().invoke(litebot, ["--help"]).stdout
    assert re.findall(r"^  ([a-z][a-z-]+) {2,}[A-Z]", shown, re.MULTILINE) == listed
    assert [title for title in GROUPS if f"\n{title}:\n" not in shown] == []
    assert set(ALIASES.values()) <= set(listed)


# what is printed where


@example("litebot act")
@click.command()
@quiet_option
def act() -> None:
    with working("working"), bars() as progress:
        progress("rows", 1, 2)
        say("on the way")
    print("asked for")
    tell("done")


@pytest.mark.parametrize("option", ["-q", "--quiet"])
def test_quiet(option: str) -> None:
    loud, quiet = CliRunner().invoke(act, []), CliRunner().invoke(act, [option])
    assert (loud.stdout, loud.stderr) == ("asked for\ndone\n", "on the way\n")
    assert (quiet.stdout, quiet.stderr) == ("asked for\n", "")


def test_outside_of_a_command_nobody_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    tell("done")
    assert capsys.readouterr().out == "done\n"


class Terminal:
    """A stream that says that somebody looks at it."""

    def __init__(self) -> None:
        self.written = ""

    def write(self, text: str) -> int:
        self.written += text
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("quiet", [False, True])
def test_progress_goes_to_stderr(
    quiet: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with click.Context(act) as ctx:
        ctx.meta.update({common.QUIET: True} if quiet else {})
        with bars(stay=True) as progress:
            progress("copying rows", 3, 4)
            progress("of a table", 3, None)
    assert ("copying rows" in terminal.written) is not quiet
    assert capsys.readouterr().out == ""


# how it ends


def ended(monkeypatch: pytest.MonkeyPatch, raised: BaseException) -> int:
    """The exit code where a command raises this."""

    def fail(**_: object) -> None:
        raise raised

    monkeypatch.setattr(OURS["status"], "callback", fail)
    with pytest.raises(SystemExit) as end:
        main(["status"])
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (LitebotError("it is so", "do that"), 1, "litebot: it is so\n  Try: do that\n"),
        (FileNotFoundError(2, "No such file", "x"), 1, "litebot: x: No such file\n"),
        (ValueError("odd"), 1, "litebot: ValueError: odd\n  Try: litebot --debug status\n"),
        (KeyboardInterrupt(), 1, "\nlitebot: interrupted\n"),
        (EOFError(), 1, "\nlitebot: stdin ended before it answered\n"),
        (click.UsageError("so not"), 2, "litebot: so not\n  Try: litebot status --help\n"),
        (SystemExit(3), 3, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_exit_codes(
    raised: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ended(monkeypatch, raised) == code
    assert capsys.readouterr() == ("", said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["stauts"], "No such command 'stauts'. Did you mean 'status'?"),
        (["status", "--jsno"], "--jsno"),
        (["why"], "Missing argument 'CHANGE'"),
        (["report", "drop", "no"], "'no' is not a valid integer"),
        (["user"], "Usage: litebot user"),
        ([], "Usage: litebot [OPTIONS]"),
    ],
)
def test_wrong_usage(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["status", "--help"]])
def test_what_is_asked_for_goes_to_stdout(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert not end.value.code
    out, err = capsys.readouterr()
    assert out
    assert err == ""


@pytest.mark.parametrize(
    ("error", "file", "line", "message"),
    [
        ("/srv/ci/master.cfg:7: it is: wrong", "/srv/ci/master.cfg", 7, "it is: wrong"),
        ("/srv/my ci/a.cfg: c['db']: two", "/srv/my ci/a.cfg", None, "c['db']: two"),
        ("no builders", None, None, "no builders"),
        ("/srv/c:1: one\n  more", "/srv/c", 1, "one\n  more"),
    ],
)
def test_where_an_error_of_the_configuration_is(
    error: str, file: str | None, line: int | None, message: str
) -> None:
    assert _placed(error) == {"file": file, "line": line, "message": message}


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Path]:
    """Stand in a new folder that has this one in it."""

    def make(name: str) -> Path:
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path)
        return tmp_path / name

    return make


@pytest.mark.parametrize(
    ("arguments", "note"),
    [
        (["report"], "note: litebot report is spelled litebot report list now\n"),
        (["report", "ci"], "note: litebot report is spelled litebot report list now\n"),
        (["report", "--json", "ci"], "note: litebot report is spelled litebot report list now\n"),
        (
            ["report", "--drop", "3", "ci"],
            "note: litebot report --drop ID is spelled litebot report drop ID now\n",
        ),
        (["report", "--drop=3"], "report --drop ID is spelled litebot report drop ID now\n"),
        (["report", "-q", "ci"], ""),
        (["report", "list", "ci"], ""),
        (["report", "drop", "3", "ci"], ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_spelling_of_before_is_noted(
    arguments: list[str],
    note: str,
    stand: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    stand("ci")
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 1  # there is no master
    out, err = capsys.readouterr()
    assert out == ""
    assert "is no basedir" in err
    assert ("spelled" in err) == bool(note)
    assert note in err
