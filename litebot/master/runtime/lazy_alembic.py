"""What Buildbot imports and a running master does not use: imported at its first use.

Alembic brings the dialects of five databases, a template engine and a highlighter of source code:
10 MB and a tenth of a start, for what only a change of the tables needs.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.machinery import PathFinder
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import Any

# Who imports what.
IMPORTER = "buildbot.db.model"
NAMES = ("alembic", "alembic.config")


class Later(ModuleType):
    """Stands for a module that is imported when somebody wants something of it."""

    def __getattr__(self, name: str) -> Any:
        for each in NAMES:
            importlib.import_module(each)
        return getattr(sys.modules[self.__name__], name)


class Loader(SourceFileLoader):
    """Loads a module that finds a Later under each of NAMES; nobody else does."""

    def exec_module(self, module: ModuleType) -> None:
        # All or none: what is there already would not get its submodule from a Later.
        missing = () if NAMES[0] in sys.modules else NAMES
        sys.modules.update((name, Later(name)) for name in missing)
        try:
            super().exec_module(module)
        finally:
            for name in missing:
                del sys.modules[name]


class Finder(MetaPathFinder):
    """Finds IMPORTER for this Loader."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != IMPORTER:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = Loader(fullname, spec.loader.path)
        return spec


def import_later() -> None:
    """Do so from now on."""
    sys.meta_path.insert(0, Finder())
