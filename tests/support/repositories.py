"""Repositories of git that are built, and pushed to."""

from __future__ import annotations

import subprocess
from pathlib import Path

STEPS = 'steps = ["echo built"]\n'


class Repository:
    """A repository of git in a new folder, with one commit on the branch main."""

    def __init__(self, folder: Path, steps: str | None = STEPS, **files: str) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch", "main")
        self._set_user()
        (folder / "README").write_text("hello\n")
        for name, text in files.items():
            (folder / name).write_text(text)
        self.commit(steps)

    @classmethod
    def new_in(cls, folder: Path) -> Repository:
        """Make a repository of what is in a folder."""
        found = cls.__new__(cls)
        found.folder = folder
        found.git("init", "--quiet", "--initial-branch", "main")
        found._set_user()
        found.commit()
        return found

    @classmethod
    def at(cls, folder: Path) -> Repository:
        """Return the repository in a folder, such as a clone."""
        found = cls.__new__(cls)
        found.folder = folder
        found._set_user()
        return found

    def _set_user(self) -> None:
        self.git("config", "user.name", "Ada")
        self.git("config", "user.email", "ada@example.org")

    @property
    def url(self) -> str:
        return str(self.folder)

    @property
    def head(self) -> str:
        return self.git("rev-parse", "HEAD")

    def git(self, *words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=self.folder, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def commit(self, steps: str | None = None, message: str = "A change") -> str:
        """Commit what is in the folder, with these steps in its .litebot.toml; return the hash."""
        if steps is not None:
            (self.folder / ".litebot.toml").write_text(steps)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        return self.head
