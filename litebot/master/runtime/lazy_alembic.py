"""Imports Alembic at its first use instead of at the start of a master.

Buildbot imports Alembic, but only a change of the tables needs it.  It imports the dialects of five
databases, a template engine and a syntax highlighter, which take 10 MB and a tenth of the time of
a start.
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

# The module of Buildbot that imports Alembic, and the names that it imports.
IMPORTER = "buildbot.db.model"
NAMES = ("alembic", "alembic.config")


class LazyModule(ModuleType):
    """Stands in for a module, which is imported when an attribute of it is read."""

    def __getattr__(self, name: str) -> Any:
        for each in NAMES:
            importlib.import_module(each)
        return getattr(sys.modules[self.__name__], name)


class ImporterLoader(SourceFileLoader):
    """Loads IMPORTER so that it finds a LazyModule under each of NAMES; no other module does."""

    def exec_module(self, module: ModuleType) -> None:
        # All or none: a real package that is loaded already would not get its submodule from a
        # LazyModule.
        missing = () if NAMES[0] in sys.modules else NAMES
        sys.modules.update((name, LazyModule(name)) for name in missing)
        try:
            super().exec_module(module)
        finally:
            for name in missing:
                del sys.modules[name]


class ImporterFinder(MetaPathFinder):
    """Finds IMPORTER and has ImporterLoader load it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != IMPORTER:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = ImporterLoader(fullname, spec.loader.path)
        return spec


def import_alembic_lazily() -> None:
    """Import Alembic at its first use from now on; call it before anything imports IMPORTER."""
    sys.meta_path.insert(0, ImporterFinder())
