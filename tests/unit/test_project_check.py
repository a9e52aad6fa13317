"""`litebot project check`: what it says of a checkout."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from litebot.cli.json_fields import FIELDS
from litebot.cli.main import main
from litebot.projects.build_file import parse

GOOD = """\
steps = [
    "make",
    { name = "tests", run = '''
make test
make check''', timeout = "90m", directory = "src", env = { A = "1", B = "2" } },
    "printf '\\u001b[2J'",
]
shell = ["/bin/bash", "-e", "-c"]
worker = "linux-*"
when.branch = ["main", "v*"]
when.paths = "!docs/**"
nightly = "03:00"
secrets = ["TOKEN"]
env.LANG = "C"
matrix = { PYTHON = ["3.11", "3.12"], CC = ["gcc"] }
"""
SAID = """\
steps, each run by /bin/bash -e -c:
  make           make
  tests          make test  (and 1 line; at most 1h30m; in src; with A, B)
  printf ' [2J'  printf '?[2J'
environment: LANG
matrix: 2 builds of each revision
  PYTHON=3.11 CC=gcc
  PYTHON=3.12 CC=gcc
workers: linux-*
only branches: main, v*
only changes of: !docs/**
each night at 03:00
asks for secrets: TOKEN
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "hello"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Checker:
    return Checker(capsys)


class Checker:
    """Runs the command; returns its exit code, stdout and stderr."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["project", "check", *arguments])
        written = self._capsys.readouterr()
        return ended.value.code, written.out, written.err


def test_a_good_file(checkout: Path, check: Checker, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / ".litebot.toml").write_text(GOOD)
    assert check("hello") == (0, f"{SAID}hello/.litebot.toml is good\n", "")
    assert check("-q", "hello") == (0, SAID, "")
    monkeypatch.chdir(checkout)
    assert check() == (0, f"{SAID}.litebot.toml is good\n", "")


def test_the_json_of_a_good_file(checkout: Path, check: Checker) -> None:
    (checkout / ".litebot.toml").write_text(GOOD)
    code, out, err = check("--json", "hello")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["file"], found["good"], found["errors"]) == ("hello/.litebot.toml", True, [])
    assert found["steps"][1] == {
        "name": "tests",
        "run": "make test\nmake check",
        "timeout_s": 5400,
        "env": {"A": "1", "B": "2"},
        "directory": "src",
    }
    assert found["matrix"] == {"PYTHON": ["3.11", "3.12"], "CC": ["gcc"]}
    assert (found["nightly"], found["workers"]) == ("03:00", ["linux-*"])
    documented = {path.partition("[")[0].partition("{")[0] for path in FIELDS["project check"]}
    assert found.keys() == documented - {"proposed", "reasons"}


ERRORS = """\
litebot: hello/.litebot.toml:1: unknown key 'x'
hello/.litebot.toml:3: a step is 3; it must be a command or a table
  Try: line 1: known keys: steps, env, shell, matrix, worker, when, nightly, secrets
       line 3: steps = ["make", { name = "tests", run = "make test", timeout = "20m" }]
"""


def test_a_file_with_errors(checkout: Path, check: Checker) -> None:
    (checkout / ".litebot.toml").write_text("x = 1\nsteps = [\n3]\n")
    assert check("hello") == (3, "", ERRORS)
    code, out, err = check("--json", "hello")
    assert (code, err) == (3, "")
    assert json.loads(out) == {
        "file": "hello/.litebot.toml",
        "good": False,
        "errors": [
            {"line": 1, "message": "unknown key 'x'"},
            {"line": 3, "message": "a step is 3; it must be a command or a table"},
        ],
    }


def test_without_a_file_one_is_proposed(checkout: Path, check: Checker) -> None:
    (checkout / "Makefile").write_text("all:\ntest:\n")
    code, out, err = check("hello")
    assert (code, err) == (0, "note: hello has no .litebot.toml; litebot proposes this one\n")
    assert [step.run for step in parse(out).steps] == ["make", "make test"]
    assert check("-q", "hello") == (0, out, "")
    code, written, err = check("--json", "hello")
    assert (code, err) == (0, "")
    assert json.loads(written) == {
        "file": None,
        "good": True,
        "errors": [],
        "proposed": out,
        "reasons": ["there is a Makefile", "it has a target 'test'"],
    }


def test_a_checkout_with_nothing_that_is_known(checkout: Path, check: Checker) -> None:
    code, out, err = check("hello")
    assert (code, out) == (3, "")
    assert err.startswith("litebot: hello has no .litebot.toml, and no file at its top by which")
    code, out, err = check("--json", "hello")
    assert (code, err) == (3, "")
    assert json.loads(out)["proposed"] is None


def test_what_is_no_file_is_not_read(checkout: Path, check: Checker) -> None:
    os.mkfifo(checkout / "Makefile")
    os.mkfifo(checkout / ".litebot.toml")
    (checkout / "tox.ini").mkdir()
    code, _, err = check("hello")
    assert (code, err) == (0, "note: hello has no .litebot.toml; litebot proposes this one\n")


def test_a_folder_that_is_not_there(checkout: Path, check: Checker) -> None:
    code, out, err = check("goodbye")
    assert (code, out) == (2, "")
    assert "Directory 'goodbye' does not exist." in err
