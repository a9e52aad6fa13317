"""Writes a .litebot.toml."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping

from litebot.projects.build_file import DEFAULT_SHELL
from litebot.projects.build_file import BuildFile
from litebot.projects.build_file import Step
from litebot.projects.build_file import derived_name
from litebot.projects.durations import format_duration

_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def to_toml(build_file: BuildFile) -> str:
    """Return a .litebot.toml from which `parse` makes an equal BuildFile."""
    lines = ["steps = [", *(f"    {step}," for step in _steps(build_file.steps)), "]"]
    if build_file.shell != DEFAULT_SHELL:
        lines.append(f"shell = {_array(build_file.shell)}")
    if build_file.workers:
        lines.append(f"worker = {_array(build_file.workers)}")
    if build_file.nightly:
        lines.append(f'nightly = "{build_file.nightly}"')
    if build_file.secrets:
        lines.append(f"secrets = {_array(build_file.secrets)}")
    when = {"branch": build_file.branches, "paths": build_file.paths}
    lines += [f"when.{name} = {_array(values)}" for name, values in when.items() if values]
    if build_file.env:
        lines += ["", "[env]", *(f"{n} = {_string(v)}" for n, v in build_file.env.items())]
    if build_file.matrix:
        lines += ["", "[matrix]", *(f"{n} = {_array(v)}" for n, v in build_file.matrix.items())]
    return "\n".join([*lines, ""])


def _steps(steps: tuple[Step, ...]) -> Iterable[str]:
    """Yield each step; names that `parse` would give are left out."""
    own = {step.name for step in steps if step.name != derived_name(step.run, ())}
    taken = set(own)
    for step in steps:
        keys = {"run": _string(step.run)}
        if step.name in own or step.name != derived_name(step.run, taken):
            keys = {"name": _string(step.name), **keys}
        taken.add(step.name)
        if step.timeout_s is not None:
            keys["timeout"] = f'"{format_duration(step.timeout_s)}"'
        if step.env:
            keys["env"] = _inline({name: _string(value) for name, value in step.env.items()})
        if step.directory:
            keys["directory"] = _string(step.directory)
        yield keys["run"] if list(keys) == ["run"] else _inline(keys)


def _inline(keys: Mapping[str, str]) -> str:
    return "{ " + ", ".join(f"{name} = {value}" for name, value in keys.items()) + " }"


def _array(values: Iterable[str]) -> str:
    return f"[{', '.join(map(_string, values))}]"


def _string(text: str) -> str:
    """Return a string as TOML; one of several lines is written as such where that is possible."""
    shown = text.replace("\n", "").replace("\t", "")
    if "\n" in text and shown.isprintable() and "'''" not in text and not text.endswith("'"):
        return f"'''\n{text}'''"
    return '"' + "".join(map(_char, text)) + '"'


def _char(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    return char if char.isprintable() else f"\\U{ord(char):08X}"
