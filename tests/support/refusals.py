"""Checks that a command is refused."""

from __future__ import annotations

from pathlib import Path

from support.commands import Done
from support.commands import is_running
from support.master import Master


def refused(done: Done, *said: str, code: int = 1) -> None:
    """Check that a command ended with this code and printed these texts, without a traceback.

    The texts are looked for in stderr.
    """
    assert done.returncode == code, done.stdout + done.stderr
    for text in said:
        assert text in done.stderr
    assert "Traceback" not in done.stderr


def refuses_to_start(master: Master, *said: str, code: int = 1) -> None:
    """Check that `litebot start` is refused so, leaves no process and changes no file."""
    before = master.contents()
    refused(master.run("start"), *said, code=code)
    assert processes_in(master.basedir) == []
    assert master.contents() == before


def processes_in(folder: Path) -> list[int]:
    """Return the pids of the processes whose working directory is this folder."""
    found = []
    for cwd in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if cwd.readlink() == folder:
                found.append(int(cwd.parent.name))
        except OSError:
            continue  # it has just ended, or belongs to another user
    return [pid for pid in found if is_running(pid)]


def set_line(path: Path, old: str, new: str) -> int:
    """Replace one line of a text file; return its number."""
    lines = path.read_text(encoding="utf-8").splitlines()
    place = lines.index(old)
    lines[place] = new
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return place + 1
