"""The editor of `litebot project edit`: what was typed is not lost by a fault in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from litebot.cli.project_editor import edit_until_right
from litebot.errors import LitebotError
from litebot.projects.definition import Project
from litebot.projects.definition import from_toml

BEFORE = 'url = "/srv/tool"\nbranch = "main"\n'


def edited(
    monkeypatch: pytest.MonkeyPatch, folder: Path, *scripts: str
) -> tuple[Project | None, list[str]]:
    """Edit BEFORE with a shell script for each time that the editor opens; "$1" is the file.

    Returns the result, and what each of them was shown.
    """
    (folder / "opened").mkdir()
    editor = folder / "editor"
    cases = "\n".join(f"{number}) {script};;" for number, script in enumerate(scripts))
    editor.write_text(
        f'#!/bin/sh\nn=$(ls {folder}/opened | wc -l)\ncp "$1" {folder}/opened/$n\n'
        f"case $n in\n{cases}\n*) exit 9;;\nesac\n"
    )
    editor.chmod(0o755)
    monkeypatch.setenv("VISUAL", str(editor))
    found = edit_until_right(BEFORE, lambda text: from_toml("tool", text), "try this")
    return found, [path.read_text() for path in sorted((folder / "opened").iterdir())]


def test_a_fault_opens_it_again_and_says_what_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found, opened = edited(
        monkeypatch,
        tmp_path,
        """echo 'tmeout = "2h"' >> "$1" """,
        """sed -i s/^tmeout/timeout/ "$1" """,
    )
    assert found is not None
    assert found.timeout == "2h"
    first, *rest = opened[1].splitlines()
    assert first == "#! project tool: unknown key 'tmeout'; did you mean 'timeout'?"
    assert rest == ["#! leave it as it is to give up", *BEFORE.splitlines(), 'tmeout = "2h"']


def test_what_is_not_changed_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert edited(monkeypatch, tmp_path, "true") == (None, [BEFORE])


@pytest.mark.parametrize(
    ("scripts", "said", "hint"),
    [
        (["echo = >> $1", "touch $1"], "nothing was saved: project tool: it is not TOML", None),
        ([": > $1"], "nothing was saved: the text is empty", None),
        (["false || exit 3"], "the editor can't be used: .*/editor: Editing failed", "try this"),
    ],
)
def test_giving_up(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    scripts: list[str],
    said: str,
    hint: str | None,
) -> None:
    with pytest.raises(LitebotError, match=said) as error:
        edited(monkeypatch, tmp_path, *scripts)
    assert error.value.hint == hint
