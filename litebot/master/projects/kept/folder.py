"""Projects in a folder of TOML files, such as a checkout: the files decide, and nothing else.

`[projects] directory` in litebot.toml names it; a file NAME.toml is what `litebot project export`
writes.  Older versions are in the version control of the folder, if it has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from litebot.basedir import Basedir
from litebot.errors import LitebotError
from litebot.errors import ProjectError
from litebot.master.projects.kept.versions import Author
from litebot.master.projects.kept.versions import Version
from litebot.projects.build_file import MOST_BYTES
from litebot.projects.definition import from_toml

FOLDER = "folder"
# A file has the steps, which have a limit of their own, and some other keys.
LARGEST_BYTES = 2 * MOST_BYTES


@dataclass(frozen=True)
class FolderStore:
    """Reads projects from the files NAME.toml in a folder; each has version 1."""

    files: Basedir
    folder: Path
    is_kept = False

    def load(self) -> list[Version]:
        if not self.folder.is_dir():
            raise ProjectError(
                f"[projects] directory is {str(self.folder)!r}, which is no folder",
                f"litebot project export -o {self.folder} {self.files.quoted}",
            )
        return [_read(path) for path in sorted(self.folder.glob("*.toml"))]

    async def newest(self) -> list[Version]:
        return self.load()

    async def history(self, name: str) -> list[Version]:
        return [version for version in self.load() if version.name == name]

    def require_writable(self) -> None:
        raise LitebotError(
            f"the projects are what the files in {self.folder} say",
            f"change a file there, then: litebot reconfig {self.files.quoted}",
        )

    async def add(self, added: Sequence[Version]) -> None:
        self.require_writable()

    async def withdraw(self, added: Sequence[Version]) -> None:
        self.require_writable()


def _read(path: Path) -> Version:
    """Return the project of a file.  Raises ProjectError."""
    try:
        with open(path, "rb") as file:
            text = file.read(LARGEST_BYTES + 1)
            saved_at = path.stat().st_mtime
        if len(text) > LARGEST_BYTES:
            raise ProjectError(f"{path} has more than {LARGEST_BYTES} bytes", "make it shorter")
        project = from_toml(path.stem, text.decode())
    except OSError as error:
        raise ProjectError(f"{path} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ProjectError(f"{path} is not UTF-8", "save it as UTF-8 in your editor") from error
    except LitebotError as error:
        raise ProjectError(f"{path}: {error.what}", error.hint) from error
    return Version(path.stem, 1, project, saved_at, Author("", FOLDER))
