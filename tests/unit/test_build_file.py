""".litebot.toml: what is read, what is refused in which words, and what a change has to match."""

from __future__ import annotations

import json
import re
import time

import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from litebot.errors import BuildFileError
from litebot.errors import LitebotError
from litebot.projects.build_file import DEFAULT_SHELL
from litebot.projects.build_file import LONGEST_PATTERN
from litebot.projects.build_file import LONGEST_TIMEOUT_S
from litebot.projects.build_file import MOST_PATH_CHARS
from litebot.projects.build_file import MOST_PATTERNS
from litebot.projects.build_file import OWN_STEPS
from litebot.projects.build_file import BuildFile
from litebot.projects.build_file import Step
from litebot.projects.build_file import TimeOfDay
from litebot.projects.build_file import derived_name
from litebot.projects.build_file import parse
from litebot.projects.durations import format_duration
from litebot.projects.durations import parse_duration
from litebot.projects.faults import MOST_SHOWN
from litebot.projects.patterns import Patterns
from litebot.projects.patterns import pattern_fault
from litebot.projects.writing import to_toml
from support.timing import require_less

STEPS = 'steps = ["make"]\n'


def refused(text: str | bytes) -> BuildFileError:
    """Read `text`, which must be refused; each line of the error names one of the text."""
    with pytest.raises(BuildFileError) as caught:
        parse(text)
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    last = data.count(b"\n") + 1
    lines = []
    for fault in caught.value.what.split("\n"):
        found = re.match(r"\.litebot\.toml:(\d+): ", fault)
        assert found, fault
        assert 1 <= int(found[1]) <= last
        lines.append(int(found[1]))
    assert lines == sorted(lines)
    assert len(caught.value.what) < 20_000
    assert caught.value.hint
    assert len(caught.value.hint) < 20_000
    for text_shown in (caught.value.what, caught.value.hint):
        assert text_shown.replace("\n", "").isprintable()
    return caught.value


# reading


def test_the_shortest_file() -> None:
    assert parse(STEPS) == BuildFile((Step("make", "make"),))
    assert parse(b'\xef\xbb\xbfsteps = ["make"]\r\n') == BuildFile((Step("make", "make"),))
    assert parse("steps = [{run = 'make'}]").shell == DEFAULT_SHELL


def test_all_keys() -> None:
    read = parse(
        """
        steps = ["make", { name = "tests", run = "make test", timeout = "1h30m" }]
        shell = ["/bin/bash", "-e", "-x", "-c"]
        worker = ["linux-*", "!linux-old"]
        when.branch = "main"
        when.paths = ["src/**", "!**/*.md"]
        nightly = "03:05"
        secrets = ["PYPI_TOKEN"]
        env = { LANG = "C.UTF-8", PATH = "/opt/bin:${PATH}" }

        [[steps]]  # is refused by tomllib: a list is not extended
    """.replace("[[steps]]", "[matrix]\n        PYTHON = ['3.11', '3.12']")
    )
    assert read == BuildFile(
        steps=(Step("make", "make"), Step("tests", "make test", 5400)),
        env={"LANG": "C.UTF-8", "PATH": "/opt/bin:${PATH}"},
        shell=("/bin/bash", "-e", "-x", "-c"),
        matrix={"PYTHON": ("3.11", "3.12")},
        workers=("linux-*", "!linux-old"),
        branches=("main",),
        paths=("src/**", "!**/*.md"),
        nightly=TimeOfDay(3, 5),
        secrets=("PYPI_TOKEN",),
    )
    assert str(read.nightly) == "03:05"
    assert read.may_use("linux-1")
    assert not read.may_use("linux-old")


def test_steps_as_tables() -> None:
    read = parse(
        "[[steps]]\nrun = '''\nmake\nmake test'''\n[[steps]]\nname='x'\nrun='y'\nenv.A=''\n"
    )
    assert read.steps == (Step("make", "make\nmake test"), Step("x", "y", env={"A": ""}))


@pytest.mark.parametrize(
    ("runs", "names"),
    [
        (["make", "make", "make"], ["make", "make 2", "make 3"]),
        (["checkout", "steps"], ["checkout 2", "steps 2"]),
        (["set -ex\n\n# build it\n  make   all\nmake test"], ["make all"]),
        (["a\tb\x07c"], ["a b c"]),
        (["#"], ["step"]),
        (["x" * 60, "x" * 60], ["x" * 50, "x" * 48 + " 2"]),
        (["python3 -m pytest --verbose --numprocesses 4 tests/unit"],
         ["python3 -m pytest --verbose --numprocesses 4"]),
    ],
)  # fmt: skip
def test_names_of_steps_without_one(runs: list[str], names: list[str]) -> None:
    read = parse(f"steps = {json.dumps(runs)}")
    assert [step.name for step in read.steps] == names


def test_a_name_that_is_given_is_not_made_up_for_another_step() -> None:
    read = parse(
        "steps = ['make', {name = 'make', run = 'x'}, 'make', {name = 'make 2', run = 'y'}]"
    )
    assert [step.name for step in read.steps] == ["make 3", "make", "make 4", "make 2"]


def test_directories_are_made_plain() -> None:
    read = parse("steps = [{run = 'a', directory = './x//y/'}, {run = 'b', directory = '.'}]")
    assert [step.directory for step in read.steps] == ["x/y", ""]


def test_cells_of_the_matrix() -> None:
    assert parse(STEPS).cells() == [{}]
    cells = parse(STEPS + "matrix = { A = ['1', '2'], B = ['x', 'y'] }").cells()
    assert cells == [{"A": a, "B": b} for a in "12" for b in "xy"]


# refusing


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ("", "1: it has no steps", 'steps = ["make", "make test"]'),
        ("steps = []", "1: steps is empty", None),
        ("steps = 'make'", "1: steps is 'make'; it must be a list", None),
        ("steps = ['a', 3]", "1: a step is 3; it must be a command or a table", None),
        ("steps = ['a',\n\n ' ']", "3: a step has an empty command", 'run = "make test"'),
        ("steps = [{name = 'x'}]", "1: a step has no run", None),
        ("steps = ['a',\n{run = 3}]", "2: steps.run is 3; it must be a string in quotes", None),
        ("steps = [{run = 'a\\\\'}, \"\\u0000\"]", "1: steps holds the character NUL", None),
        ("steps = [\n{run='a',run_=1}]", "2: unknown key 'run_' in steps",
         "did you mean 'run'? known keys: name, run, timeout, env, directory"),
        ("steps = [{run='a', timeout='20'}]", "1: timeout: '20' is not a length of time",
         'write it like "90s", "20m" or "1h30m"'),
        ("steps = [{run='a', timeout=20}]", "1: steps.timeout is 20; it must be a string in quotes",
         'write it like "90s", "20m" or "1h30m"'),
        ("steps = [{run='a', timeout='8d'}]", "1: timeout is '8d'; it must be at most 7d", None),
        ("steps = [{run='a', name='checkout'}]",
         "1: name is 'checkout'; litebot has a step of that name", 'name = "tests"'),
        ("steps = [{run='a', name='x'},\n{run='b', name='x'}]",
         "2: name is 'x'; another step has that name", "choose another name"),
        (f"steps = [{{run='a', name='{'x' * 51}'}}]",
         "1: steps.name has more than 50 characters", "make it shorter"),
        ("steps = [{run='a', name=''}]",
         "1: name is ''; it must not be empty or have spaces at an end", None),
        ("steps = [{run='a', name=\"a\\nb\"}]",
         "1: steps.name must be one line of printable characters", None),
        *[
            (f"steps = [{{run='a', directory='{path}'}}]",
             f"1: directory is {path!r}; it must be inside the checkout", None)
            for path in ("/etc", "..", "a/../b", "~root", "a\\b")
        ],
        ("steps = [" + "'a'," * 101 + "]", "1: steps has more than 100 items", "take some out"),
        (STEPS + "env = { A = 1 }", "2: env.A is 1; it must be a string in quotes", 'A = "1"'),
        (STEPS + "[env]\nA = true", "3: env.A is true; it must be a string", 'A = "true"'),
        (STEPS + "env.1A = ''", "2: '1A' is not the name of an environment variable", None),
        (STEPS + "env.LITEBOT_X = ''", "2: 'LITEBOT_X' is one of the variables that litebot sets",
         "choose a name that does not begin with LITEBOT_"),
        (STEPS + "env.B = ''\nmatrix.A = ['']", "3: matrix.A has an empty item", None),
        (STEPS + "env.A = ''\nmatrix.A = ['x']", "2: 'A' is set by the matrix or a secret, too",
         "choose another name"),
        (STEPS + "env.A = ''\nsecrets = ['A']", "3: 'A' is set by env or the matrix, too",
         "choose another name"),
        ("secrets = ['A']\nsteps = [\n{run='a', env.A=''}]",
         "3: 'A' is set by the matrix or a secret, too", "choose another name"),
        (STEPS + 'env."\\u001b[2J" = 1', "2: env.\\x1b[2J is 1; it must be a string", None),
        (STEPS + "secrets = ['A', 'A']", "2: secrets has 'A' twice", "take one out"),
        (STEPS + "secrets = ['a-b']", "2: 'a-b' is not the name of an environment variable", None),
        (STEPS + "matrix.P = [3.1]", "2: matrix.P is 3.1; it must be a string in quotes", None),
        (STEPS + "matrix = []", "2: matrix is an array; it must be a table", None),
        (STEPS + "[matrix]\nA = [" + ",".join(f"'{n}'" for n in range(9)) + "]\nB = ["
         + ",".join(f"'{n}'" for n in range(8)) + "]",
         "2: the matrix has 72 cells; it must have at most 64", None),
        (STEPS + "shell = '/bin/bash'", "2: shell is '/bin/bash'; it must be a list of words",
         'shell = ["/bin/bash", "-e", "-c"]'),
        (STEPS + "shell = []", "2: shell is empty", None),
        (STEPS + "worker = ['a', '']", "2: worker has an empty item", None),
        (STEPS + "when.branch = 'a/'",
         "2: 'a/': it must have no \"/\" at an end and no empty part, \".\" or \"..\"", None),
        (STEPS + "when.paths = ['a',\n'**.py']",
         "3: '**.py': \"**\" must be a whole part between \"/\", as in \"**/*.py\"", None),
        (STEPS + "when.brnch = 'a'", "2: unknown key 'brnch' in when",
         "did you mean 'branch'? known keys: branch, paths"),
        (STEPS + "when = 'main'", "2: when is 'main'; it must be a table", 'when.branch = "main"'),
        (STEPS + "nightly = '24:00'", "2: nightly is '24:00'; it must be a time of day",
         'nightly = "03:00"'),
        (STEPS + "nightly = 03:00:00", "2: nightly is 03:00:00; it must be a string in quotes",
         'nightly = "03:00"'),
        (STEPS + "branch = 'main'", "2: unknown key 'branch'", None),
        (STEPS + f"{'k' * 70} = 1", f"2: unknown key '{'k' * 60}...'", None),
        (STEPS + 'env = { "\\u202ea" = "" }',
         "2: '\\\\u202ea' is not the name of an environment variable", None),
        ("steps = [\n'make]", "2: not TOML: Expected \"'\" (at line 2, column 7)", None),
        ("steps = ['a']\nx = 0b" + "1" * 5000, "2: a value without quotes of 5,002 char", None),
        (b"\n\xff", "2: byte 0xff is not UTF-8", "save the file as UTF-8 in your editor"),
        ("\nsteps = ['\ud800']", "2: byte 0xed is not UTF-8", None),
        ("\n" * 65536 + "#", "65537: the file has more than 65,536 bytes", None),
    ],
)  # fmt: skip
def test_refusals_name_line_value_and_remedy(
    text: str | bytes, what: str, hint: str | None
) -> None:
    error = refused(text)
    assert error.what.startswith(f".litebot.toml:{what.partition(' (at line')[0]}")
    if hint is not None:
        assert error.hint == hint
    assert error.hint


def test_all_errors_of_a_file_come_together_in_its_order() -> None:
    error = refused(
        "nightly = 3\nsteps = ['a',\n3,\n{run = 'x',\nenv.1 = 'x'}]\nx = 1\n[when]\npaths = 3\n"
        .replace(",\nenv", ", env")
    )  # fmt: skip
    assert [line.split(": ")[0] for line in error.what.split("\n")] == [
        f".litebot.toml:{n}" for n in (1, 3, 4, 5, 7)
    ]
    assert error.hint is not None
    assert [line.split(": ")[0] for line in error.hint.split("\n")] == [
        f"line {n}" for n in (1, 3, 4, 5, 7)
    ]


def test_of_very_many_errors_the_first_are_shown() -> None:
    error = refused("".join(f"a{n} = 1\n" for n in range(3000)))
    assert error.what.count("\n") == MOST_SHOWN - 1
    assert error.what.endswith("unknown key 'a19' (and 2,981 more errors)")


def test_the_name_of_the_file() -> None:
    with pytest.raises(BuildFileError, match=r"^/srv/hello/\.litebot\.toml:1: it has no steps$"):
        parse("", "/srv/hello/.litebot.toml")


# what Hypothesis writes

LINE = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]) | st.just(" "))
NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,5}", fullmatch=True)
VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=9)
PATTERNS = st.text("ab*?/!.", min_size=1, max_size=9).filter(lambda p: pattern_fault(p) is None)


@st.composite
def build_files(draw: st.DrawFn) -> BuildFile:
    names = draw(st.lists(NAMES, max_size=8, unique=True))
    cut = sorted(draw(st.lists(st.integers(0, len(names)), min_size=2, max_size=2)))
    env, matrix, secrets = names[: cut[0]], names[cut[0] : cut[1]], names[cut[1] :]
    steps: list[Step] = []
    for run in draw(st.lists(VALUES.filter(str.strip), min_size=1, max_size=5)):
        taken = {step.name for step in steps}
        chosen = draw(st.none() | WORDS)
        given_name = None if chosen in {*taken, *OWN_STEPS} else chosen
        steps.append(
            Step(
                given_name or derived_name(run, taken),
                run,
                draw(st.none() | st.integers(1, LONGEST_TIMEOUT_S)),
                {name: draw(VALUES) for name in env if draw(st.booleans())},
                "/".join(draw(st.lists(st.sampled_from(["a", "b c", "ü"]), max_size=3))),
            )
        )
    patterns = st.lists(PATTERNS, max_size=3, unique=True).map(tuple)
    return BuildFile(
        tuple(steps),
        {name: draw(VALUES) for name in env},
        draw(st.just(DEFAULT_SHELL) | st.lists(WORDS, min_size=1, max_size=4).map(tuple)),
        {
            name: tuple(draw(st.lists(WORDS, min_size=1, max_size=2, unique=True)))
            for name in matrix[:4]
        },
        draw(patterns),
        draw(patterns),
        draw(patterns),
        draw(st.none() | st.builds(TimeOfDay, st.integers(0, 23), st.integers(0, 59))),
        tuple(secrets),
    )


@settings(max_examples=100, deadline=None)
@given(build_files())
def test_what_is_written_is_what_is_read(build_file: BuildFile) -> None:
    assert parse(to_toml(build_file)) == build_file
    assert parse(to_toml(build_file).replace("\n", "\r\n")).steps
    assert 1 <= len(build_file.cells()) <= 64


PIECES = st.sampled_from(
    ["steps", "run", "name", "env", "when", "paths", "matrix", "timeout", "secrets", "shell", "A",
     " = ", "=", "[", "]", "{", "}", "[[", "]]", ",", ".", "\n", "\r\n", "'", '"', "'''", '"""',
     "#", "'a'", '"20m"', "1", "true", "\\", "\\u0000", "\0", "\ud800", "\ufeff", "é", "\x85", " "]
)  # fmt: skip


def accepted_or_refused(text: str | bytes) -> None:
    try:
        parse(text)
    except BuildFileError:
        refused(text)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=30).map("".join) | st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    accepted_or_refused(text)


@settings(max_examples=200, deadline=None)
@given(st.binary())
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    accepted_or_refused(data)


JUNK = st.recursive(
    st.sampled_from(["1", "'a'", "''", "true", "1.5", "07:00:00", '"\\u0000"', "'LITEBOT_A'"]),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(
            st.sampled_from(["run", "name", "env", "A", "'1'"]), inner, max_size=3
        ).map(lambda table: "{" + ", ".join(f"{k} = {v}" for k, v in table.items()) + "}")
    ),
    max_leaves=5,
)
KEYS = [
    "steps",
    "env",
    "shell",
    "matrix",
    "worker",
    "when",
    "when.branch",
    "nightly",
    "secrets",
    "x",
]


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), JUNK, max_size=6))
def test_values_of_the_wrong_kind_are_refused(table: dict[str, str]) -> None:
    accepted_or_refused("\n".join(f"{key} = {value}" for key, value in table.items()))


@settings(max_examples=40, deadline=None)
@given(build_files(), st.data())
def test_a_line_that_is_wrong_is_the_one_that_is_named(
    build_file: BuildFile, data: st.DataObject
) -> None:
    """An unknown key is put somewhere at the top of a good file; the error names its line."""
    lines = to_toml(build_file).split("\n")
    end = lines.index("]") + 1
    lines.insert(data.draw(st.sampled_from([0, end])), "stepz = 1")
    error = refused("\n".join(lines))
    assert error.what == f".litebot.toml:{lines.index('stepz = 1') + 1}: unknown key 'stepz'"


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"k{n}=1\n" for n in range(3990)),
        "".join(f"{'k' * 200}{n}=1\n" for n in range(300)),
        f"{'k' * 60000} = 1",
        "steps = [" + "1," * 3990 + "]",
        "steps = [" + "{}," * 3990 + "]",
        "steps = ['a']\nenv = {" + ",".join(f"k{n}=1" for n in range(3900)) + "}",
        "steps = [" + "'make'," * 3990 + "]",
        "steps = [" + ",".join(["{run='make', timeout='1s', directory='a/b'}"] * 990) + "]",
        "steps = ['" + "x " * 32000 + "']",
        "steps = ['" + " " * 65000 + "']",
        'steps = ["' + "\\n" * 32000 + '"]',
        "steps = ['a']\nshell = [" + "'x'," * 3900 + "]",
        "steps = ['a']\n" + "".join(f"[env.a{n}]\n" for n in range(2000)),
        "steps = ['a']\nmatrix = {" + ",".join(f"k{n}=['1','2']" for n in range(900)) + "}",
        "steps = ['a']\nworker = [" + ",".join(f"'{'*/' * 40}{n}'" for n in range(600)) + "]",
        "[[steps]]\nrun='a'\n" * 1300,
    ],
    ids=lambda text: text[:16],
)
def test_any_file_is_read_in_time(text: str) -> None:
    begun = time.process_time()
    accepted_or_refused_once(text)
    require_less(time.process_time() - begun, 0.15, "reading")


def accepted_or_refused_once(text: str) -> None:
    try:
        parse(text)
    except BuildFileError:
        return


# what a change has to match


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("main", ["main"], ["main2", "mai", "a/main", "MAIN", ""]),
        ("*", ["main", "x.y", ""], ["a/b"]),
        ("**", ["main", "a/b", "a/b/c"], [""]),
        ("release/*", ["release/1", "release/"], ["release/1/2", "release", "xrelease/1"]),
        ("release/**", ["release/1", "release/1/2"], ["release", "releases/1", "release/"]),
        ("**/*.py", ["a.py", "a/b.py", "a/b/c.py", ".py"], ["a.pyc", "a.py/b", "a/b"]),
        ("docs/**/x", ["docs/x", "docs/a/x", "docs/a/b/x"], ["docs/ax", "x", "docs/x/a"]),
        ("**/a/**/b", ["a/b", "x/a/y/b", "a/a/b/b"], ["a", "b", "ab", "a/xb", "xa/b"]),
        ("**/**/a", ["a", "b/a", "c/b/a"], ["ba"]),
        ("v?.?", ["v1.2"], ["v1.", "v1.23", "v1/2"]),
        ("a*b*c", ["abc", "aXbYc", "abbcc"], ["ab", "a/bc", "abcd"]),
        ("*a/b*", ["a/b", "xa/bx"], ["a/x/b"]),
        ("a+(b)[c].{d}", ["a+(b)[c].{d}"], ["a+(b)c.{d}"]),
        ("é\U0001f600", ["é\U0001f600"], ["e"]),
    ],
)
def test_patterns(pattern: str, matching: list[str], others: list[str]) -> None:
    assert pattern_fault(pattern) is None
    assert [text for text in matching if text not in Patterns([pattern])] == []
    assert [text for text in others if text in Patterns([pattern])] == []
    everything_else = Patterns([f"!{pattern}"])
    assert [text for text in matching if text in everything_else] == []
    assert [text for text in others if text not in everything_else] == []


def test_several_patterns() -> None:
    patterns = Patterns(["src/**", "!**/*.md", "Makefile", "!src/old/**"])
    assert [
        path
        for path in ("src/a.c", "src/README.md", "Makefile", "src/old/a.c", "docs/a", "README.md")
        if path in patterns
    ] == ["src/a.c", "Makefile"]


def slow_match(pattern: list[str], parts: list[str]) -> bool:
    """The same by trying everything."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        if len(pattern) == 1:
            return bool(parts) and parts != [""]
        return any(slow_match(pattern[1:], parts[n:]) for n in range(len(parts) + 1))
    if not parts:
        return False
    expression = re.escape(pattern[0]).replace(r"\*", ".*").replace(r"\?", ".")
    matched = re.fullmatch(expression, parts[0], re.DOTALL)
    return matched is not None and slow_match(pattern[1:], parts[1:])


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.text("ab?*", min_size=1, max_size=4) | st.just("**"), min_size=1, max_size=4).map(
        "/".join
    ),
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=5).map("/".join),
)
def test_patterns_match_as_if_all_was_tried(pattern: str, text: str) -> None:
    if pattern_fault(pattern) is None:
        assert (text in Patterns([pattern])) == slow_match(pattern.split("/"), text.split("/"))


def test_reasons_not_to_build() -> None:
    read = parse(STEPS + "when.branch = ['main', 'v*']\nwhen.paths = ['!docs/**']")
    assert read.reason_not_to_build("main", None) is None
    assert read.reason_not_to_build("v1", ["docs/a", "b"]) is None
    assert read.reason_not_to_build("main", ["docs/a", "docs/b"]) == (
        "when.paths of .litebot.toml leaves out all files that were changed"
    )
    assert read.reason_not_to_build("main", []) is not None
    assert read.reason_not_to_build("x", None) == (
        "when.branch of .litebot.toml leaves out branch 'x'"
    )
    assert parse(STEPS).reason_not_to_build("x", []) is None
    assert parse(STEPS + "when.branch = 'x'").reason_not_to_build("x", []) is None


def test_a_change_with_very_many_files_is_built() -> None:
    read = parse(STEPS + "when.paths = 'src/**'")
    files = [f"docs/{n:05}" for n in range(MOST_PATH_CHARS // 10)]
    assert read.reason_not_to_build("main", files) is not None
    assert read.reason_not_to_build("main", [*files, *files]) is None


@pytest.mark.parametrize("piece", ["*a", "**/", "?", "*/", "**/*a/"])
def test_patterns_are_matched_in_time(piece: str) -> None:
    pattern = (piece * 100)[: LONGEST_PATTERN - 4].rstrip("/*") + "/x"
    patterns = [f"{n}{pattern}"[n % 2 :] for n in range(MOST_PATTERNS)]
    read = BuildFile(
        (), paths=tuple(f"**/{pattern}{n}" for n in range(MOST_PATTERNS)) or tuple(patterns)
    )
    for text in ("a" * MOST_PATH_CHARS, "a/" * (MOST_PATH_CHARS // 2)):
        begun = time.process_time()
        assert read.reason_not_to_build("main", [text]) is not None
        require_less(time.process_time() - begun, 0.5)


# lengths of time


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("20m", 1200), ("1h30m", 5400), ("2d", 172800), ("007s", 7)]
)
def test_lengths_of_time(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    "text", ["", "0s", "5", "m", "1m1h", "-1s", "1.5h", "1 h", "1H", "٣s", "9" * 5000 + "s", "1m\n"]
)
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(LitebotError, match="is not a length of time"):
        parse_duration(text)


def test_how_lengths_of_time_are_shown() -> None:
    assert [format_duration(s) for s in (0, 59, 60, 5400, 86461)] == [
        "0s",
        "59s",
        "1m",
        "1h30m",
        "1d1m1s",
    ]
