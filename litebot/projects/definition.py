"""A project as its admins define it: one dataclass, each key with its default and documentation.

The forms of the page, the options of the command line, the TOML of an export and all errors come
from the fields of `Project`.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from dataclasses import fields
from typing import Any
from typing import TypeVar

from litebot.errors import LitebotError
from litebot.errors import ProjectError
from litebot.projects.addresses import check_address
from litebot.projects.addresses import check_name
from litebot.projects.build_file import MOST_BYTES
from litebot.projects.build_file import parse
from litebot.projects.durations import parse_duration
from litebot.projects.patterns import pattern_fault
from litebot.projects.ssh_keys import check_host_key
from litebot.projects.telling import FORMS
from litebot.projects.telling import check_for
from litebot.projects.telling import check_lines

Value = TypeVar("Value", str, int, bool, tuple[str, ...])

SHORTEST_POLL_S = 10
LONGEST_POLL_S = 7 * 24 * 3600
LONGEST_BUILD_S = 7 * 24 * 3600
MOST_AT_ONCE = 100
LONGEST_LIST = 100
LONGEST_WORD = 250
# Names of secrets are names of files.
SECRET = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class DefinitionError(ProjectError):
    """A project can't be as it is defined; `faults` has each fault by the name of its key."""

    def __init__(self, project: str, faults: Mapping[str, LitebotError]) -> None:
        lines = [f"project {project}: {fault.what}" for fault in faults.values()]
        hints = [fault.hint for fault in faults.values() if fault.hint]
        super().__init__("\n".join(lines), "\n".join(hints) or None)
        self.project = project
        self.faults = dict(faults)

    def __reduce__(self) -> Any:
        return (type(self), (self.project, self.faults))


def _key(default: Value, label: str, doc: str, check: Callable[[Any], Any] | None = None) -> Value:
    """Return a field; `label` and `doc` are shown beside it in forms, and `check` may change it."""
    made: Value = field(default=default, metadata={"label": label, "doc": doc, "check": check})
    return made


def _within(least: int, most: int) -> Callable[[int], int]:
    def check(number: int) -> int:
        if not least <= number <= most:
            raise LitebotError(f"it must be from {least} to {most}")
        return number

    return check


def _time(least_s: int, most_s: int) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not least_s <= parse_duration(text) <= most_s:
            raise LitebotError(f"it must be from {least_s} to {most_s} seconds")
        return text

    return check


def _patterns(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not value.isprintable() or " " in value or value.startswith("-"):
            raise LitebotError(f"{value!r} can't be the name of a branch, a tag or a worker")
        if (fault := pattern_fault(value)) is not None:
            raise LitebotError(f"{value!r}: {fault}")
    return values


def _branch(value: str) -> str:
    _patterns((value,))
    if set(value) & set("*?[~^:\\") or ".." in value:
        raise LitebotError(f"{value!r} can't be the name of a branch")
    return value


def _secret(value: str) -> str:
    if value and not SECRET.fullmatch(value):
        raise LitebotError(
            f"{value!r:.60} can't be the name of a secret",
            "name a file in the folder secrets of the basedir, not what is in it",
        )
    return value


def _secrets(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(_secret, values))


def _steps(text: str) -> str:
    text = text.replace("\r\n", "\n").strip("\n")
    if text:
        parse(text, "steps")
    return f"{text}\n" if text else ""


@dataclass(frozen=True)
class Project:
    """A repository and how it is built.

    Making one checks all its keys.  Raises DefinitionError with all its faults.
    """

    name: str
    url: str = _key("", "Address", "Where git finds the repository.", check_address)
    branch: str = _key("main", "Branch", "The branch to build where none is named.", _branch)
    branches: tuple[str, ...] = _key(
        (), "More branches", "Names or patterns such as release/*; ** stands for all.", _patterns
    )
    tags: tuple[str, ...] = _key(
        (), "Tags", "Names or patterns of tags that are built, such as v*.", _patterns
    )
    pull_requests: bool = _key(
        False,
        "Pull requests",
        "Whether pull and merge requests are built: those from branches of the repository itself"
        " at once, those from forks when an admin has looked at them.  They get no secrets.",
    )
    steps: str = _key(
        "",
        "Steps",
        "What a build does, written as in a .litebot.toml.  Empty: the repository's .litebot.toml"
        " says it.",
        _steps,
    )
    workers: tuple[str, ...] = _key(
        (), "Workers", "Names or patterns of the workers that may build it.  Empty: all.", _patterns
    )
    secrets: tuple[str, ...] = _key(
        (),
        "Secrets",
        "Names of files in the folder secrets that its builds may ask for.  Whoever may push can"
        " read these.",
        _secrets,
    )
    timeout: str = _key(
        "1h", "Longest build", "After this time a build is stopped.", _time(1, LONGEST_BUILD_S)
    )
    at_once: int = _key(
        1, "At once", "How many of its builds may run at the same time.", _within(1, MOST_AT_ONCE)
    )
    poll: str = _key(
        "1m",
        "Look every",
        "How often the repository is asked for new commits.",
        _time(SHORTEST_POLL_S, LONGEST_POLL_S),
    )
    replace: bool = _key(
        True,
        "Replace waiting builds",
        "A newer push to a branch takes the place of those that still wait.",
    )
    key: str = _key(
        "",
        "SSH key",
        "The name of the file in the folder secrets with the private key for an SSH address.",
        _secret,
    )
    host_key: str = _key(
        "",
        "Host key",
        "The key of the server of an SSH address, such as ssh-ed25519 AAAA...; no other is"
        " accepted.",
        check_host_key,
    )
    password: str = _key(
        "",
        "Password",
        "The name of the file in the folder secrets with the password or token for an HTTPS"
        " address; the address may name its user.",
        _secret,
    )
    tell: tuple[str, ...] = _key(
        (),
        "Tell",
        f"Whom to tell of results, one a line: {'; '.join(FORMS.values())}.  TOKEN and SECRET are"
        " names of files in the folder secrets.",
        check_lines,
    )
    enabled: bool = _key(True, "Enabled", "Whether new commits are built.")

    def __post_init__(self) -> None:
        faults: dict[str, LitebotError] = {}
        try:
            check_name(self.name)
        except LitebotError as fault:
            faults["name"] = fault
        for known in KEYS.values():
            try:
                object.__setattr__(self, known.name, checked(known.name, getattr(self, known.name)))
            except LitebotError as fault:
                faults[known.name] = fault
        if not faults:
            try:
                check_for(self.url, self.tell)
            except LitebotError as fault:
                faults["tell"] = fault
        if faults:
            raise DefinitionError(self.name, faults)

    def values(self) -> dict[str, Any]:
        """Return all keys but the name, with their values."""
        return {name: getattr(self, name) for name in KEYS}

    @property
    def poll_s(self) -> int:
        """How many seconds are between two looks at the repository."""
        return parse_duration(self.poll)

    @property
    def timeout_s(self) -> int:
        """How many seconds a build may take."""
        return parse_duration(self.timeout)


KEYS = {each.name: each for each in fields(Project) if each.name != "name"}


def checked(key: str, value: object) -> object:
    """Return a value as `Project` stores it.  Raises LitebotError that names the key."""
    default, check = KEYS[key].default, KEYS[key].metadata["check"]
    if isinstance(default, tuple):
        value = _list_of(key, value)
    elif type(value) is not type(default):  # isinstance would take true for 1
        kinds = {bool: "true or false", int: "a whole number", str: "a string in quotes"}
        raise LitebotError(f"{key} is {value!r:.60}; it must be {kinds[type(default)]}")
    if isinstance(value, str) and key != "steps" and not value.isprintable():
        raise LitebotError(f"{key} must be one line of printable characters")
    longest = MOST_BYTES if key == "steps" else 4 * LONGEST_WORD
    if isinstance(value, str) and len(value) > longest:
        raise LitebotError(f"{key} has {len(value)} characters; it may have {longest}")
    try:
        return value if check is None else check(value)
    except LitebotError as error:
        shown = "" if key in ("steps", "url", "tell") else f" is {_shown(value)}"
        raise LitebotError(f"{key}{shown}: {error.what}", error.hint) from error


def _shown(value: object) -> str:
    return ", ".join(value) if isinstance(value, tuple) else repr(value)


def _list_of(key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, str) for each in value):
        raise LitebotError(f'{key} is {value!r:.60}; it must be a list of strings: ["a", "b"]')
    if len(value) > LONGEST_LIST or any(not 0 < len(each) <= LONGEST_WORD for each in value):
        raise LitebotError(
            f"{key} may have {LONGEST_LIST} entries of 1 to {LONGEST_WORD} characters each"
        )
    return tuple(dict.fromkeys(value))


def from_values(name: str, values: Mapping[str, Any]) -> Project:
    """Return a project of a name and the values of some keys.

    Raises DefinitionError, also for keys that there are not.
    """
    unknown = {key: _unknown(key) for key in values if key not in KEYS}
    try:
        made = Project(name, **{key: value for key, value in values.items() if key in KEYS})
    except DefinitionError as error:
        raise DefinitionError(name, {**unknown, **error.faults}) from error
    if unknown:
        raise DefinitionError(name, unknown)
    return made


def _unknown(key: str) -> LitebotError:
    if near := difflib.get_close_matches(key, KEYS, n=1):
        return LitebotError(f"unknown key {key!r}; did you mean {near[0]!r}?")
    return LitebotError(f"unknown key {key!r}", f"known keys: {', '.join(sorted(KEYS))}")


def from_toml(name: str, text: str) -> Project:
    """Return the project that `to_toml` has written.  Raises DefinitionError."""
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise DefinitionError(name, {"": LitebotError(f"it is not TOML: {error}")}) from error
    return from_values(name, values)


def to_toml(project: Project) -> str:
    """Return a project as TOML: its address, and what differs from the defaults."""
    return "".join(
        f"{key} = {to_toml_value(value)}\n"
        for key, value in project.values().items()
        if key in ("url", "branch") or value != KEYS[key].default
    )


def to_toml_value(value: object) -> str:
    """Return the value of a key as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return f"[{', '.join(map(to_toml_value, value))}]"
    if isinstance(value, int):
        return str(value)
    text = str(value)
    if "\n" in text and "'''" not in text and _is_literal(text):
        return f"'''\n{text}'''"
    return f'"{"".join(_escaped(text))}"'


def _is_literal(text: str) -> bool:
    return all(c in "\t\n" or c.isprintable() for c in text)


def _escaped(text: str) -> Iterator[str]:
    short = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    for c in text:
        yield short.get(c) or (c if c.isprintable() else f"\\U{ord(c):08x}")
