"""The errors that litebot raises on purpose.  This module imports no other module of litebot."""

from __future__ import annotations


class LitebotError(Exception):
    """An error that a user can do something about.

    `what` names the object and the value and says what is needed; `hint` is a remedy that can be
    typed, or None.  The command line prints both and exits with `exit_code`.
    """

    exit_code = 1

    def __init__(self, what: str, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __reduce__(self) -> tuple[type[LitebotError], tuple[str, str | None]]:
        return (type(self), (self.what, self.hint))


class SettingsError(LitebotError):
    """litebot.toml holds an unknown key or a bad value; `what` names the file and the line."""


class BasedirError(LitebotError):
    """The directory is not a litebot basedir, or a file in it is missing or unusable."""


class MasterRunning(LitebotError):
    """Another master owns this basedir; `what` names its pid."""


class MasterNotRunning(LitebotError):
    """The command needs a running master."""


class StoreError(LitebotError):
    """The state file can't be opened or used as it is."""


class ServerAway(StoreError):
    """The database server did not answer in time; the work that was asked for was not done."""


class StoreFailed(StoreError):
    """The disk refused or corrupted data while the master ran; the master must stop."""


class TakenOver(StoreFailed):
    """Another master took over this one's work, as it seemed dead; this one must not write."""


class ConfigError(LitebotError):
    """master.cfg has errors; `what` lists them with their line numbers."""


class BuildFileError(LitebotError):
    """A .litebot.toml has errors; `what` lists them with their line numbers."""


class ProjectError(LitebotError):
    """The name or the repository of a project can't be used."""
