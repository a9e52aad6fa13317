"""Paths on the master that steps make of properties: they must stay where master.cfg puts them.

A property may be a word from outside, such as the revision that a worker reports or a branch from a
hook.  A path may lead anywhere below the folder that the configuration's own part of it names, that
is, the part before the first value that is not from the configuration.  Where this part names no
folder, it is the master's basedir.  Symlinks are followed to where they lead.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

from buildbot.process.properties import Interpolate
from buildbot.process.properties import Property
from buildbot.process.properties import WithProperties

from litebot.master.limits.words import said

LONGEST_PATH, LONGEST_NAME = 4095, 255  # bytes.  Source: PATH_MAX and NAME_MAX in limits.h(0p)
MARK = "\0"
# The ends of names of files that a configuration may import or that tell a program what to run.
RUN = (".py", ".pyc", ".so", ".pth", ".cfg", ".tac", ".toml")


async def path_fault(build: Any, name: str, configured: Any, path: Any) -> str | None:
    """Say why a rendered path of a step may lead out of its folder, or return None.

    `configured` is what the configuration has for it, and `name` the name of the parameter.  A
    plain text is trusted.
    """
    if isinstance(configured, str):
        return None
    if not isinstance(path, str):
        return said(name, path, "it must be a text")
    if MARK in path or len(os.fsencode(path)) > LONGEST_PATH:
        return said(name, path, "it is no path")
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in path.split("/")):
        return said(name, path, "it is no path")
    literal = await _literal_part(build, configured)
    if literal is None:
        wrong = _function_fault(build, path)
    elif literal in (path, "/"):
        wrong = None if literal == path else "it must begin with a folder that master.cfg names"
    else:
        wrong = _outside(build, os.path.dirname(literal), path)
    return said(name, path, wrong) if wrong else None


def _outside(build: Any, folder: str, path: str) -> str | None:
    folder, target = _resolved(build, folder), _resolved(build, path)
    if target != folder and os.path.commonpath([folder, target]) == folder:
        if folder == _resolved(build, "") and _is_masters(build, os.path.relpath(target, folder)):
            return f"{target} is the master's own; begin the path with a folder in master.cfg"
        return None
    return f"it leads to {target}, and must stay in {folder}, the folder that master.cfg names"


def _resolved(build: Any, path: str) -> str:
    return os.path.realpath(os.path.join(build.master.basedir, os.path.expanduser(path)))


def _is_masters(build: Any, path: str) -> bool:
    """Return whether a path, relative to the basedir, is of the master's own files."""
    files, settings = build.master.files, build.master.settings
    first = path.partition("/")[0]
    whole = {files.users_file, files.secrets, files.reserve, files.lock_file, files.control_socket}
    # Beside these there are older logs, the log of SQLite's writes, and files that are edited.
    begins = [files.log_file, files.pid_file, files.settings_file, files.tac_file]
    begins += [files.config_file, files.path / "http.log", files.path / "reserve"]
    state_file = settings.database.sqlite_path(files.path)
    begins += [state_file] if state_file is not None else []
    return (
        first in {each.name for each in whole}
        or any(first.startswith(each.name) for each in begins)
        or path.endswith(RUN)
    )


def _function_fault(build: Any, path: str) -> str | None:
    """Judge a path that a function of the configuration made, which may name any folder itself."""
    if ".." in path.split("/"):
        return "it must not have '..' as a part, which leads out of a folder"
    if not os.path.isabs(os.path.expanduser(path)):
        return _outside(build, "", path)
    for value in _texts(_foreign(build)):
        if value.startswith(("/", "~")) and path.startswith(value):
            return _outside(build, "", path)
    return None


async def _literal_part(build: Any, configured: Any) -> str | None:
    """Return the part of a path before the first value that is not the configuration's.

    Returns None if only the path as a whole can be known, as of a function.
    """
    if isinstance(configured, Property):
        if _is_configured(build, configured.key):
            return str(await build.render(configured))
        return ""
    try:
        if isinstance(configured, Interpolate):
            filled = await _filled(build, configured)
        elif isinstance(configured, WithProperties):
            filled = _filled_in_old_style(build, configured)
        else:
            return None
    except (TypeError, ValueError):  # a format such as %d, for which there is no mark
        return ""
    return filled.partition(MARK)[0]


async def _filled(build: Any, configured: Interpolate) -> str:
    """Fill in what is the configuration's, and the mark for what is not."""
    if configured.args:
        args = [arg if isinstance(arg, (str, int)) else MARK for arg in configured.args]
        return str(configured.fmtstring % tuple(args))
    values = {}
    for key, lookup in configured.interpolations.items():
        values[key] = MARK
        if _is_configured_key(build, configured, key):
            values[key] = await build.render(lookup)
    return str(configured.fmtstring % values)


def _is_configured_key(build: Any, configured: Interpolate, key: str) -> bool:
    kind, _, rest = key.partition(":")
    name = rest.partition(":")[0]
    if "%(" in rest:
        return False
    if kind == "kw":
        return isinstance(configured.kwargs.get(name), (str, int))
    return kind == "secret" or (kind == "prop" and _is_configured(build, name))


def _filled_in_old_style(build: Any, configured: WithProperties) -> str:
    if configured.args:
        args = [_old_style_value(build, arg) for arg in configured.args]
        return str(configured.fmtstring % tuple(args))
    return str(configured.fmtstring % _OldStyle(build))


class _OldStyle(dict[str, str]):
    """The values of WithProperties: NAME, and NAME:-DEFAULT and the like."""

    def __init__(self, build: Any) -> None:
        super().__init__()
        self._build = build

    def __getitem__(self, key: str) -> str:
        return _old_style_value(self._build, key)


def _old_style_value(build: Any, key: str) -> str:
    is_configured = build.hasProperty(key) and _is_configured(build, key)
    return str(build.getProperty(key)) if is_configured else MARK


# what is the configuration's


def _is_configured(build: Any, name: str) -> bool:
    """Return whether the configuration gives a property its value, or it has none."""
    if not build.hasProperty(name):
        return True
    value = build.getProperty(name)
    return any(_is_same(known.get(name), value) for known in _configured(build))


def _is_same(known: Any, value: Any) -> bool:
    # What is still to be rendered makes something of ==, and is not plain.
    return isinstance(known, (str, int)) and type(known) is type(value) and known == value


def _configured(build: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the properties that the configuration gives to a build, with their values."""
    config, builder, worker = build.master.config, build.builder, build.workerforbuilder.worker
    yield {
        "buildername": builder.name,
        "buildnumber": build.number,
        "workername": getattr(worker, "workername", None),
    }
    yield builder.config.properties or {}
    yield builder.config.defaultProperties or {}
    scheduler = config.schedulers.get(build.getProperty("scheduler"))
    if scheduler is not None:
        yield {"scheduler": scheduler.name}
    for owner in (config, worker, scheduler):
        for attribute in ("properties", "defaultProperties"):
            properties = getattr(owner, attribute, None)
            if properties is not None and hasattr(properties, "asDict"):
                yield {name: value for name, (value, _) in properties.asDict().items()}


def _foreign(build: Any) -> list[Any]:
    """Return the values that are not the configuration's: properties and sourcestamps."""
    properties = build.getProperties().asDict()
    values = [value for name, (value, _) in properties.items() if not _is_configured(build, name)]
    return [*values, *(stamp.asDict() for stamp in build.getAllSourceStamps())]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str) and value:
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _texts(each)
