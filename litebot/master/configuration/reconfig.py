"""Refuses what a running master can't change, before any of a new configuration is applied."""

from __future__ import annotations

from buildbot.config.errors import ConfigErrors
from buildbot.config.master import MasterConfig

from litebot.basedir import Basedir
from litebot.errors import LitebotError
from litebot.master.configuration.ports import address_of
from litebot.master.configuration.ports import configured_ports
from litebot.master.configuration.ports import require_free
from litebot.settings import Settings


class Unchangeable(ConfigErrors):
    """The configuration may be valid, but this master can't change to it while it runs.

    `hint` says what to do instead.
    """

    def __init__(self, what: str, hint: str | None) -> None:
        super().__init__([what])
        self.hint = hint


def check_changes(
    files: Basedir, old: tuple[Settings, MasterConfig], new: tuple[Settings, MasterConfig]
) -> None:
    """Raise Unchangeable if a change from `old` to `new` needs a restart, or a port is taken."""
    (old_settings, old_config), (new_settings, new_config) = old, new
    changed = []
    if old_settings.database != new_settings.database:
        changed.append(f"[database] in {files.settings_file}")
    elif old_config.db != new_config.db:
        changed.append("c['db']")
    if old_config.mq["type"] != new_config.mq["type"]:
        changed.append("c['mq']['type']")
    if changed:
        raise Unchangeable(
            f"{' and '.join(changed)} can't be changed while the master runs",
            f"litebot restart {files.quoted}",
        )
    mine = {(_number(port), section) for port, section in configured_ports(old_config)}
    for port, section in configured_ports(new_config):
        if (_number(port), section) not in mine:
            _require_free(port, section, new_settings, files)


def _number(port: object) -> int | None:
    found = address_of(port)
    return found[1] if found else None


def _require_free(port: object, section: str, settings: Settings, files: Basedir) -> None:
    try:
        require_free(port, section, settings, files)
    except LitebotError as error:
        raise Unchangeable(error.what, error.hint) from error
