"""Imports point one way: cli -> master -> store -> errors.  What they say is read, not run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import litebot

ROOT = Path(litebot.__file__).parent
SOURCES = sorted(path for path in ROOT.rglob("*.py") if "template" not in path.parts)

# Whose modules those of each part of litebot may import, besides their own part's.
BASE = {"errors", "files", "process", "version"}
FILES = {"basedir", "permissions", "projects", "settings", "users"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "version": set(),
    "process": {"errors"},
    "files": {"errors", "process"},
    "basedir": BASE,
    "permissions": BASE | {"basedir"},
    "toml_lines": set(),
    "settings": BASE | {"toml_lines"},
    "projects": {"errors", "files", "toml_lines"},
    "users": BASE,
    "store": {"errors"},
    "master": BASE | FILES | {"store"},
    "cli": BASE | FILES | {"store", "master"},
    "contrib": BASE | FILES | {"store", "master"},
}

# The packages of the master, and its modules that are in none: each may import those above it.
FLOORS: tuple[set[str], ...] = (
    {"secrets"},
    {"limits", "runtime"},
    {"db"},
    {"db.components", "db.postgres", "db.sqlite"},
    {"db.inspection", "delivery"},
    {"recovery"},
    {"builds", "cluster", "data", "web"},
    {"telling"},
    {"pages"},
    {"projects"},
    {"configuration", "control", "database", "preflight"},
    {"reconfiguration", "shutdown", "startup"},
    {"service"},
    {"admin.move"},
    {"admin"},
    {"admin.plan"},
)
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}

# Who may import what is not litebot's: a package, and the parts or modules that alone may.
RESERVED = {
    # store opens files; the others need apsw's errors and the type of its handles.
    "apsw": {
        "store",
        "master.admin.move.sqlite_side",
        "master.db.sqlite.checkpointer",
        "master.preflight",
        "master.db.sqlite.turn_queue",
    },
    "psycopg": {"master.cluster", "master.db.postgres"},
    "sqlalchemy": {"store", "master", "cli", "contrib"},
    "twisted": {"master", "cli", "contrib"},
    "buildbot": {"master", "cli", "contrib"},
    "click": {"cli"},
    # Another copy of SQLite: opening the state file with both drops the locks of either.
    "sqlite3": set(),
    "aiosqlite": set(),
    "pysqlite2": set(),
}


def module_of(path: Path) -> str:
    """The dotted name within litebot, such as "store.dbapi"; "version" for litebot itself."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts) or "version"


def part_of(module: str) -> str:
    return module.partition(".")[0]


def room_of(module: str) -> str:
    """The package of the master that a module is in, such as "db.sqlite" of "master.db.sqlite.x".

    "" for what is not the master's, or is imported by the master's own package.
    """
    part, _, rest = module.partition(".")
    return (
        max((room for room in within(rest) if room in FLOOR_OF), default="", key=len)
        if (part == "master")
        else ""
    )


def within(module: str) -> Iterator[str]:
    """A module and all that it is in."""
    while module:
        yield module
        module = module.rpartition(".")[0]


def imports(source: str, package: str, *, at_once: bool = False) -> Iterator[str]:
    """The full names of the modules that a module of `package` imports.

    Wherever it does; with `at_once` only those that are imported together with it.
    """
    tree = ast.parse(source)
    for node in tree.body if at_once else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            if base == "litebot":  # `from litebot import store` names a module by its last word
                yield from (f"{base}.{alias.name}" for alias in node.names)
            else:
                yield base


def faults(module: str, source: str) -> list[str]:
    """What a module of litebot, such as "store.dbapi", must not import and does."""
    found = []
    package = ".".join(["litebot", *module.split(".")[:-1]])
    for name in sorted(set(imports(source, package))):
        top, _, rest = name.partition(".")
        if top == "litebot":
            target = part_of(rest)
            target = "version" if target == "__version__" else target
            if target != part_of(module) and target not in MAY_IMPORT[part_of(module)]:
                found.append(name)
        elif top in RESERVED and not set(within(module)) & RESERVED[top]:
            found.append(name)
    return found


def climbs(module: str, source: str) -> list[str]:
    """What a module of the master must not import, and does: it is on no floor below its own."""
    room, package = room_of(module), ".".join(["litebot", *module.split(".")[:-1]])
    found = []
    for name in sorted(named(source, package)):
        other = room_of(name.removeprefix("litebot."))
        if room and other and other != room and FLOOR_OF[other] >= FLOOR_OF[room]:
            found.append(name)
    return found


def named(source: str, package: str) -> Iterator[str]:
    """As imports, with the modules that are imported by name from their package."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("litebot"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
    yield from imports(source, package)


@pytest.mark.parametrize("path", SOURCES, ids=[module_of(path) for path in SOURCES])
def test_packages_of_the_master_import_downwards(path: Path) -> None:
    assert climbs(module_of(path), path.read_text(encoding="utf-8")) == []


def test_all_packages_of_the_master_have_a_floor() -> None:
    modules = [module_of(path) for path in SOURCES if part_of(module_of(path)) == "master"]
    assert [module for module in modules if module != "master" and not room_of(module)] == []
    assert {room_of(module) for module in modules} - {""} == set(FLOOR_OF)


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("master.db.pool", "from litebot.master.runtime.deferreds import after", []),
        ("master.db.pool", "import litebot.master.db.sqlite.x", ["litebot.master.db.sqlite.x"]),
        ("master.db.sqlite.x", "from litebot.master.db import pool", []),
        ("master.db.sqlite.x", "from litebot.master.db.sqlite.y import z", []),
        (
            "master.db.pool",
            "from litebot.master.db import sqlite",
            ["litebot.master.db.sqlite"],
        ),
        (
            "master.delivery.x",
            "def f():\n    from litebot.master.cluster import y",
            ["litebot.master.cluster", "litebot.master.cluster.y"],
        ),
        ("master.startup", "from litebot.master import service", ["litebot.master.service"]),
        ("cli.start", "from litebot.master import service", []),
    ],
)
def test_a_climb_is_found(module: str, source: str, found: list[str]) -> None:
    assert climbs(module, source) == found


@pytest.mark.parametrize("path", SOURCES, ids=[module_of(path) for path in SOURCES])
def test_imports_point_one_way(path: Path) -> None:
    assert faults(module_of(path), path.read_text(encoding="utf-8")) == []


def loaded_with(path: Path, seen: set[Path]) -> set[str]:
    """What is not litebot's and is imported together with a module of it, also by what it needs."""
    seen.add(path)
    package = ".".join(["litebot", *path.relative_to(ROOT).parts[:-1]])
    found = set()
    for name in imports(path.read_text(encoding="utf-8"), package, at_once=True):
        if not name.startswith("litebot."):
            found.add(name.partition(".")[0])
            continue
        target = ROOT.joinpath(*name.split(".")[1:])
        for needed in (target.with_suffix(".py"), target / "__init__.py"):
            if needed.exists() and needed not in seen:
                found |= loaded_with(needed, seen)
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "cli").glob("*.py")), ids=lambda path: path.stem)
def test_commands_load_heavy_things_when_they_run(path: Path) -> None:
    """So that help, refusals and talking to a running master take no half second."""
    assert loaded_with(path, set()) & {"apsw", "buildbot", "sqlalchemy", "twisted"} == set()


def test_what_a_module_loads_is_followed_through_others() -> None:
    assert {"apsw", "sqlalchemy"} <= loaded_with(ROOT / "master" / "admin" / "status.py", set())


def test_all_parts_are_known() -> None:
    assert {part_of(module_of(path)) for path in SOURCES} == set(MAY_IMPORT)


@pytest.mark.parametrize("name", sorted(RESERVED["apsw"] - {"store"}))
def test_the_list_of_those_who_need_apsw_is_not_too_long(name: str) -> None:
    source = (ROOT / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8")
    assert "apsw" in set(imports(source, "litebot.master"))


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("store.dbapi", "from litebot.errors import StoreError", []),
        ("store.dbapi", "from litebot.store.connection import connect", []),
        ("store.dbapi", "from litebot.settings import load", ["litebot.settings"]),
        (
            "store.dbapi",
            "import litebot.master.db.sqlite.turn_queue",
            ["litebot.master.db.sqlite.turn_queue"],
        ),
        ("store.dbapi", "from litebot import master", ["litebot.master"]),
        ("store.dbapi", "from .. import master", ["litebot.master"]),
        ("store.dbapi", "from ..master import turns", ["litebot.master"]),
        ("store.dbapi", "from . import connection", []),
        ("store.dbapi", "def f():\n    from twisted.python import log", ["twisted.python"]),
        ("store.dbapi", "if TYPE_CHECKING:\n    import buildbot.db", ["buildbot.db"]),
        ("master.db.sqlite.turn_queue", "import apsw", []),
        ("master.web.rest", "import apsw.ext", ["apsw.ext"]),
        ("master.turns", "from litebot.cli import main", ["litebot.cli"]),
        ("master.turns", "import sqlite3", ["sqlite3"]),
        ("master.turns", "from litebot.contrib import x", ["litebot.contrib"]),
        ("cli.start", "import apsw", ["apsw"]),
        ("cli.start", "from litebot.master.admin.create import create", []),
        ("cli.start", "from litebot import __version__", []),
        ("errors", "import litebot.files", ["litebot.files"]),
        ("basedir", "from litebot.store.connection import connect", ["litebot.store.connection"]),
        ("settings", "from litebot.cli.common import say", ["litebot.cli.common"]),
    ],
)
def test_a_wrong_direction_is_found(module: str, source: str, found: list[str]) -> None:
    assert faults(module, source) == found
