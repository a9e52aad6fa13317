"""The data API with litebot's resource types, and with its paths compiled once."""

from __future__ import annotations

from typing import Any
from typing import ClassVar

from buildbot.data import connector
from buildbot.util import pathmatch

# Modules of litebot's in place of Buildbot's.
HOT = {
    f"buildbot.data.{name}": f"litebot.master.hot.{name}"
    for name in ("builds", "buildrequests", "buildsets", "changes", "logs", "properties", "steps")
}
MODULES = {**HOT, "buildbot.data.workers": "litebot.master.told"}


class Matcher(pathmatch.Matcher):
    """Buildbot's, which never notes that it has compiled its patterns and does so at each look."""

    def _compile(self) -> None:
        super()._compile()
        self._dirty = False


class Data(connector.DataConnector):
    """`master.data` of a litebot master."""

    submodules: ClassVar[list[str]] = [
        MODULES.get(module, module) for module in connector.DataConnector.submodules
    ]

    def __init__(self) -> None:
        super().__init__()
        self.matcher: Any = Matcher()
