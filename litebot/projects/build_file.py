"""A .litebot.toml: the file in a repository that says how it is built.

    steps = ["make", { name = "tests", run = "make test", timeout = "20m" }]

`parse` reads it, and `writing.to_toml` writes it.  Whoever may push to a repository writes this
file, so all of it is checked and bounded, and nothing in it is run here.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from typing import NamedTuple

from litebot.errors import LitebotError
from litebot.projects.durations import EXAMPLES
from litebot.projects.durations import format_duration
from litebot.projects.durations import parse_duration
from litebot.projects.faults import Faults
from litebot.projects.faults import named
from litebot.projects.faults import shown
from litebot.projects.patterns import FORMS
from litebot.projects.patterns import Patterns
from litebot.projects.patterns import pattern_fault
from litebot.toml_lines import Place

FILE_NAME = ".litebot.toml"
DEFAULT_SHELL = ("/bin/sh", "-e", "-c")
MOST_BYTES = 65536
MOST_STEPS = 100
MOST_CELLS = 64
MOST_VARIABLES = 100
MOST_PATTERNS = 30
MOST_SECRETS = 20
MOST_WORDS = 20
MOST_AXES = 8
LONGEST_NAME = 50  # a step's in Buildbot's table
LONGEST_VALUE = 10_000
LONGEST_WORD = 200
LONGEST_PATTERN = 100
LONGEST_TIMEOUT_S = 7 * 86400
# litebot's own steps of a build.
OWN_STEPS = ("checkout", "steps")
# litebot sets these variables itself.  All others may be set, PATH too: a command can do it anyway.
OWN_VARIABLES = "LITEBOT_"

# More characters of paths than this are not compared with when.paths; the change is built.
MOST_PATH_CHARS = 65536


class TimeOfDay(NamedTuple):
    """A time by the master's clock; str() is such as "03:00"."""

    hour: int
    minute: int

    def __str__(self) -> str:
        return f"{self.hour:02}:{self.minute:02}"


@dataclass(frozen=True)
class Step:
    """A command that a worker runs.

    `run` is the last argument of the file's shell, and may have several lines.  `directory` is
    relative to the checkout, "" for the checkout itself.  `env` is added to that of the file.
    """

    name: str
    run: str
    timeout_s: int | None = None
    env: dict[str, str] = field(default_factory=dict)
    directory: str = ""


@dataclass(frozen=True)
class BuildFile:
    """All of a .litebot.toml.

    `matrix` maps names of environment variables to their values, `workers` are patterns of names of
    workers, `branches` and `paths` are those of `when`.  What is empty restricts nothing.
    `secrets` are those that the build asks for; it gets each in the variable of that name.
    """

    steps: tuple[Step, ...]
    env: dict[str, str] = field(default_factory=dict)
    shell: tuple[str, ...] = DEFAULT_SHELL
    matrix: dict[str, tuple[str, ...]] = field(default_factory=dict)
    workers: tuple[str, ...] = ()
    branches: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    nightly: TimeOfDay | None = None
    secrets: tuple[str, ...] = ()

    def cells(self) -> list[dict[str, str]]:
        """Return the environment of each cell of the matrix; one empty one without a matrix."""
        values = itertools.product(*self.matrix.values())
        return [dict(zip(self.matrix, cell, strict=True)) for cell in values]

    def may_use(self, worker: str) -> bool:
        """Return whether the file lets a worker of this name build it."""
        return not self.workers or worker in Patterns(self.workers)

    def reason_not_to_build(self, branch: str, paths: Collection[str] | None) -> str | None:
        """Return why a change of a branch is not to be built, in words, or None if it is.

        `paths` are those of the files that were changed, or None if that is not known: then, and if
        they are too many to look at, when.paths does not keep it from being built.
        """
        if self.branches and branch[:MOST_PATH_CHARS] not in Patterns(self.branches):
            return f"when.branch of {FILE_NAME} leaves out branch {branch[:100]!r}"
        if not self.paths or paths is None:
            return None
        patterns, left = Patterns(self.paths), MOST_PATH_CHARS
        for path in paths:
            left -= len(path)
            if left < 0 or path in patterns:
                return None
        return f"when.paths of {FILE_NAME} leaves out all files that were changed"


KEYS = ("steps", "env", "shell", "matrix", "worker", "when", "nightly", "secrets")
WHEN_KEYS = ("branch", "paths")
STEP_KEYS = ("name", "run", "timeout", "env", "directory")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")


def parse(data: bytes | str, name: str = FILE_NAME) -> BuildFile:
    """Read a .litebot.toml; `name` is what errors call it.

    Raises BuildFileError with all errors of the file, each
    on a line of `what` as NAME:LINE: ...; of very many it names the first and their number.
    """
    faults = Faults(name)
    table = faults.load(data, MOST_BYTES)
    reader = _Reader(faults)
    made = reader.build_file(table)
    faults.raise_if_any()
    return made


class _Reader:
    """Reads the keys of a file; what is wrong with them goes to `faults`."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults

    def build_file(self, table: dict[str, object]) -> BuildFile:
        faults = self.faults
        faults.check_keys((), table, KEYS)
        if "steps" not in table:
            faults.add((), "it has no steps", 'steps = ["make", "make test"]')
        when = faults.table(("when",), table.get("when"), 'when.branch = "main"')
        faults.check_keys(("when",), when, WHEN_KEYS)
        matrix = self._matrix(table.get("matrix"))
        env = self._env(("env",), table.get("env"), taken=matrix)
        secrets = self._secrets(table.get("secrets"), {*env, *matrix})
        return BuildFile(
            steps=self._steps(table.get("steps"), {*matrix, *secrets}),
            env=env,
            shell=self._shell(table.get("shell")),
            matrix=matrix,
            workers=self._patterns(("worker",), table.get("worker"), 'worker = "linux-*"'),
            branches=self._patterns(
                ("when", "branch"), when.get("branch"), f"write it like {FORMS}"
            ),
            paths=self._patterns(("when", "paths"), when.get("paths"), f"write it like {FORMS}"),
            nightly=self._nightly(table.get("nightly")),
            secrets=secrets,
        )

    def _steps(self, value: object, taken: Collection[str]) -> tuple[Step, ...]:
        hint = 'steps = ["make", { name = "tests", run = "make test", timeout = "20m" }]'
        read: list[Step] = []
        for number, item in enumerate(self.faults.items(("steps",), value, MOST_STEPS, hint)):
            place: Place = ("steps", number)
            if isinstance(item, str):
                read.append(Step("", self._run(place, item)))
            elif isinstance(item, dict):
                read.append(self._step(place, item, taken))
            else:
                self.faults.add(
                    place, f"a step is {shown(item)}; it must be a command or a table", hint
                )
        return _with_names(read, self.faults)

    def _step(self, place: Place, table: dict[str, object], taken: Collection[str]) -> Step:
        self.faults.check_keys(place, table, STEP_KEYS)
        if "run" not in table:
            self.faults.add(place, "a step has no run", '{ name = "tests", run = "make test" }')
        return Step(
            name=self._step_name((*place, "name"), table.get("name")),
            run=self._run((*place, "run"), table.get("run")),
            timeout_s=self._timeout((*place, "timeout"), table.get("timeout")),
            env=self._env((*place, "env"), table.get("env"), taken=taken),
            directory=self._directory((*place, "directory"), table.get("directory")),
        )

    def _run(self, place: Place, value: object) -> str:
        hint = 'run = "make test"'
        run = self.faults.text(place, value, MOST_BYTES, hint, lines=True)
        if run is not None and not run.strip():
            self.faults.add(place, "a step has an empty command", hint)
        return run or ""

    def _step_name(self, place: Place, value: object) -> str:
        hint = 'name = "tests"'
        name = self.faults.text(place, value, LONGEST_NAME, hint)
        if name is not None and name in OWN_STEPS:
            self.faults.add(place, f"name is {name!r}; litebot has a step of that name", hint)
        elif name is not None and (not name or name != name.strip()):
            self.faults.add(
                place, f"name is {name!r}; it must not be empty or have spaces at an end", hint
            )
        return name or ""

    def _timeout(self, place: Place, value: object) -> int | None:
        hint = f"write it like {EXAMPLES}"
        text = self.faults.text(place, value, LONGEST_WORD, hint)
        if text is None:
            return None
        try:
            timeout_s = parse_duration(text)
        except LitebotError as error:
            self.faults.add(place, f"timeout: {error.what}", error.hint)
            return None
        if timeout_s > LONGEST_TIMEOUT_S:
            longest = format_duration(LONGEST_TIMEOUT_S)
            self.faults.add(place, f"timeout is {text!r}; it must be at most {longest}", hint)
        return timeout_s

    def _directory(self, place: Place, value: object) -> str:
        hint = 'directory = "server/tests", relative to the checkout'
        text = self.faults.text(place, value, LONGEST_WORD, hint)
        if not text:
            return ""
        if text.startswith(("/", "~")) or "\\" in text or ".." in text.split("/"):
            self.faults.add(place, f"directory is {text!r}; it must be inside the checkout", hint)
        return "/".join(part for part in text.split("/") if part not in {"", "."})

    def _env(self, place: Place, value: object, taken: Collection[str]) -> dict[str, str]:
        table = self.faults.table(place, value, 'env = { LANG = "C.UTF-8" }', MOST_VARIABLES)
        env = {}
        for name, given in table.items():
            here = (*place, name)
            text = self.faults.text(
                here, given, LONGEST_VALUE, f"{named((name,))} = {_quoted(given)}", lines=True
            )
            if self._variable(here, name, taken) and text is not None:
                env[name] = text
        return env

    def _variable(self, place: Place, name: str, taken: Collection[str]) -> bool:
        """Return whether a name may be that of an environment variable."""
        if len(name) > LONGEST_NAME or not _VARIABLE.fullmatch(name):
            need = "is not the name of an environment variable"
            hint = f"letters, digits and _, at most {LONGEST_NAME}, no digit first"
        elif name.startswith(OWN_VARIABLES):
            need = "is one of the variables that litebot sets"
            hint = f"choose a name that does not begin with {OWN_VARIABLES}"
        elif name in taken:
            need = "is set by the matrix or a secret, too"
            hint = "choose another name"
        else:
            return True
        self.faults.add(place, f"{shown(name)} {need}", hint)
        return False

    def _matrix(self, value: object) -> dict[str, tuple[str, ...]]:
        hint = 'matrix = { PYTHON = ["3.11", "3.12"] }'
        matrix: dict[str, tuple[str, ...]] = {}
        for name, given in self.faults.table(("matrix",), value, hint, MOST_AXES).items():
            place: Place = ("matrix", name)
            values = self.faults.texts(place, given, MOST_CELLS, LONGEST_WORD, hint)
            if self._variable(place, name, ()):
                matrix[name] = values
        cells = math.prod(map(len, matrix.values()))
        if cells > MOST_CELLS:
            self.faults.add(
                ("matrix",),
                f"the matrix has {cells:,} cells; it must have at most {MOST_CELLS}",
                "take values out, or list the steps of some of them",
            )
        return matrix

    def _secrets(self, value: object, taken: Collection[str]) -> tuple[str, ...]:
        hint = 'secrets = ["PYPI_TOKEN"]'
        names = self.faults.texts(("secrets",), value, MOST_SECRETS, LONGEST_NAME, hint)
        for number, name in enumerate(names):
            place: Place = ("secrets", number)
            if name in taken:
                self.faults.add(
                    place, f"{name!r} is set by env or the matrix, too", "choose another name"
                )
            else:
                self._variable(place, name, ())
        return names

    def _shell(self, value: object) -> tuple[str, ...]:
        hint = 'shell = ["/bin/bash", "-e", "-c"]'
        if isinstance(value, str):
            self.faults.add(
                ("shell",), f"shell is {shown(value)}; it must be a list of words", hint
            )
            return DEFAULT_SHELL
        words = self.faults.texts(("shell",), value, MOST_WORDS, LONGEST_WORD, hint, repeated=True)
        return words or DEFAULT_SHELL

    def _patterns(self, place: Place, value: object, hint: str) -> tuple[str, ...]:
        patterns = self.faults.texts(place, value, MOST_PATTERNS, LONGEST_PATTERN, hint)
        for number, pattern in enumerate(patterns):
            need = pattern_fault(pattern)
            if need:
                here = (*place, number) if isinstance(value, list) else place
                self.faults.add(here, f"{shown(pattern)}: {need}", hint)
        return patterns

    def _nightly(self, value: object) -> TimeOfDay | None:
        hint = 'nightly = "03:00"'
        text = self.faults.text(("nightly",), value, LONGEST_WORD, hint)
        if text is None:
            return None
        found = _TIME.fullmatch(text)
        if not found:
            self.faults.add(
                ("nightly",), f"nightly is {shown(text)}; it must be a time of day", hint
            )
            return None
        return TimeOfDay(int(found[1]), int(found[2]))


def _with_names(steps: list[Step], faults: Faults) -> tuple[Step, ...]:
    """Return the steps, with names for those that have none."""
    taken: set[str] = set()
    for number, step in enumerate(steps):
        if step.name and step.name in taken:
            faults.add(
                ("steps", number, "name"),
                f"name is {step.name!r}; another step has that name",
                "choose another name",
            )
        taken |= {step.name} - {""}
    complete = []
    for step in steps:
        name = step.name or derived_name(step.run, taken)
        taken.add(name)
        complete.append(replace(step, name=name))
    return tuple(complete)


def derived_name(run: str, taken: Collection[str]) -> str:
    """Return a name for a step without one: its first words, with a number if that is taken."""
    lines = (line.strip() for line in run.split("\n"))
    first = next((line for line in lines if line and not line.startswith(("#", "set -"))), "")
    words = "".join(char if char.isprintable() else " " for char in first[:1000]).split() or [
        "step"
    ]
    for number in itertools.count(1):
        suffix = f" {number}" if number > 1 else ""
        name = _first_words(words, LONGEST_NAME - len(suffix)) + suffix
        if name not in taken and name not in OWN_STEPS:
            return name
    raise AssertionError


def _first_words(words: list[str], most: int) -> str:
    text = words[0][:most]
    for word in words[1:]:
        if len(text) + 1 + len(word) > most:
            break
        text += f" {word}"
    return text


def _quoted(value: object) -> str:
    """Return how a value that is no string is written as one."""
    if isinstance(value, (dict, list, str)):
        return '"..."'
    return f'"{str(value).lower() if isinstance(value, bool) else shown(value)}"'
