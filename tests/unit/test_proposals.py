"""Which steps are proposed for what lies at the top of a repository, and why."""

from __future__ import annotations

import json
import shlex
import time

import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from litebot.projects.build_file import parse
from litebot.projects.proposals import Proposal
from litebot.projects.proposals import propose
from litebot.projects.python_proposals import PIP
from support.timing import require_less

Files = dict[str, str]


def proposed(files: Files) -> Proposal:
    """What is proposed for a repository with these files; the names of folders end in "/"."""
    proposal = propose({path.partition("/")[0] for path in files}, files.get)
    if proposal.steps:
        assert parse(proposal.to_toml()).steps == proposal.steps
        assert proposal.reasons
    else:
        assert proposal.to_toml() == ""
    for step in proposal.steps:
        shlex.split(step.run)  # all quotes are closed
    return proposal


def runs(files: Files) -> list[str]:
    return [step.run for step in proposed(files).steps]


SETUP = "[build-system]\nrequires = ['setuptools']\n[project]\nname = 'Hello-World'\n"
VENV = f"python3 -m venv .venv\n{PIP}"
PYTEST = ".venv/bin/python -m pytest"


def imported(path: str, module: str) -> str:
    return f".venv/bin/python -m compileall -q {path}\n.venv/bin/python -c 'import {module}'"


@pytest.mark.parametrize(
    ("files", "steps"),
    [
        # of Python
        ({"tox.ini": "[testenv]\n", "pyproject.toml": SETUP, "tests/": ""},
         [f"{VENV} tox", ".venv/bin/tox run -e py"]),
        ({"setup.cfg": "[tox:tox]\n[testenv]\n", "setup.py": ""},
         [f"{VENV} tox", ".venv/bin/tox run -e py"]),
        ({"tox.ini": "[flake8]\n", "pyproject.toml": SETUP, "tests/": ""},
         [f"{VENV} --editable . pytest", PYTEST]),
        ({"noxfile.py": "import nox\n@nox.session\ndef tests(session):\n", "pyproject.toml": SETUP},
         [f"{VENV} nox", ".venv/bin/nox --no-error-on-missing-interpreters --session tests"]),
        ({"noxfile.py": "import nox\n"},
         [f"{VENV} nox", ".venv/bin/nox --no-error-on-missing-interpreters"]),
        ({"pyproject.toml": SETUP + "optional-dependencies = {dev = [], test = []}", "tests/": ""},
         [f"{VENV} --editable '.[test]' pytest", PYTEST]),
        ({"pyproject.toml": SETUP + "optional-dependencies = {x = ['a'], all = ['pytest>=8']}",
          "tests/": ""},
         [f"{VENV} --editable '.[all]' pytest", PYTEST]),
        ({"pyproject.toml": SETUP + "[dependency-groups]\ndev = ['pytest']", "tests/": ""},
         [f"{VENV} --upgrade pip\n{PIP} --editable . --group dev pytest", PYTEST]),
        ({"pyproject.toml": "[tool.poetry]\n[tool.poetry.group.dev.dependencies]\npytest = '^8'\n"
          "pytest-mock = '*'", "tests/": ""},
         [f"{VENV} --editable . pytest pytest-mock", PYTEST]),
        ({"pyproject.toml": SETUP + "[tool.pdm.dev-dependencies]\ntest = ['pytest>=8', 'x; 1']",
          "tests/": ""},
         [f"{VENV} --editable . 'pytest>=8' 'x; 1'", PYTEST]),
        ({"pyproject.toml": SETUP + "[tool.hatch.envs.default]\ndependencies = ['pytest']",
          "test/": ""},
         [f"{VENV} --editable . pytest", PYTEST]),
        ({"setup.py": "setup(extras_require={'dev': [], 'tests': []})", "tests/": ""},
         [f"{VENV} --editable '.[tests]' pytest", PYTEST]),
        ({"setup.py": "", "setup.cfg": "[options.extras_require]\ntesting =\n  x\n", "tests/": ""},
         [f"{VENV} --editable '.[testing]' pytest", PYTEST]),
        ({"setup.py": "", "requirements-dev.txt": "x", "test_a.py": ""},
         [f"{VENV} --editable . --requirement requirements-dev.txt pytest", PYTEST]),
        ({"pyproject.toml": SETUP + "[tool.pytest.ini_options]\n"},
         [f"{VENV} --editable . pytest", f"{PYTEST} || test $? -eq 5"]),
        ({"pyproject.toml": "[build-system]\nbuild-backend = 'mesonpy'", "meson.build": "",
          "tests/": ""},
         [f"{VENV} . pytest", PYTEST]),
        ({"pyproject.toml": SETUP, "hello_world.py": ""},
         [f"{VENV} --editable .", imported("hello_world.py", "hello_world")]),
        ({"pyproject.toml": SETUP.lower(), "src/hello_world/__init__.py": ""},
         [f"{VENV} --editable .", imported("src/hello_world", "hello_world")]),
        ({"setup.py": "setup(name='hello')", "hello/__init__.py": ""},
         [f"{VENV} --editable .", imported("hello", "hello")]),
        ({"pyproject.toml": SETUP}, [f"{VENV} --editable ."]),
        ({"requirements.txt": "x", "tests/": "", "Makefile": "test:\n"},
         [f"{VENV} --requirement requirements.txt pytest", PYTEST]),
        ({"tests/__init__.py": "", "README.md": ""}, ["python3 -m unittest -v"]),
        ({"a.py": "", "tests/": ""}, ["python3 -m unittest discover -v -s tests"]),
        ({"a.py": "", "b-c.py": ""}, ["python3 -m py_compile a.py b-c.py"]),
        ({"a.py": "", "conftest.py": "", "test_a.py": ""}, [f"{VENV} pytest", PYTEST]),
        # of others
        ({"package.json": '{"scripts": {"test": "x", "build": "x"}}', "package-lock.json": ""},
         ["npm ci", "npm run build", "npm run test"]),
        ({"package.json": '{"scripts": {"test": "x"}}', "pnpm-lock.yaml": "", "yarn.lock": ""},
         ["pnpm install --frozen-lockfile", "pnpm run test"]),
        ({"package.json": "{}", "yarn.lock": "", ".yarnrc.yml": ""}, ["yarn install --immutable"]),
        ({"package.json": '{"scripts": {"test": "echo \\"Error: no test specified\\" && exit 1"}}',
          "Makefile": "all:\ntest: all\n"}, ["npm install", "make test"]),
        ({"package.json": '{"scripts": {"test": "x"}}', "Makefile": "test: all\n"},
         ["npm install", "npm run test"]),
        ({"Cargo.toml": "", "Cargo.lock": "", "Makefile": ""},
         ["cargo build --locked", "cargo test --locked"]),
        ({"Cargo.toml": "[workspace]\nmembers = ['a']"},
         ["cargo build --workspace", "cargo test --workspace"]),
        ({"go.mod": "", "Makefile": "test:\n"}, ["go build ./...", "go test ./..."]),
        ({"CMakeLists.txt": "", "Makefile": "test:\n"},
         ["cmake -S . -B build\ncmake --build build --parallel",
          "ctest --test-dir build --output-on-failure"]),
        ({"meson.build": "", "build/": "", "CMakeLists.txt": ""},
         ["meson setup litebot-build\nmeson compile -C litebot-build",
          "meson test -C litebot-build --print-errorlogs"]),
        ({"build.gradle.kts": "", "gradlew": ""}, ["./gradlew --no-daemon build"]),
        ({"pom.xml": ""}, ["mvn --batch-mode verify"]),
        ({"composer.json": '{"scripts": {"test": "x"}}'},
         ["composer install --no-interaction", "composer test"]),
        ({"composer.json": "", "phpunit.xml.dist": ""},
         ["composer install --no-interaction", "vendor/bin/phpunit"]),
        ({"Gemfile": "", "spec/": ""},
         ["bundle config set --local path vendor/bundle\nbundle install", "bundle exec rspec"]),
        ({"Gemfile": "", "Rakefile": "", "test/": ""},
         ["bundle config set --local path vendor/bundle\nbundle install", "bundle exec rake test"]),
        ({"hello.cabal": ""}, ["cabal update\ncabal build all", "cabal test all"]),
        ({"hello.cabal": "", "stack.yaml": ""}, ["stack build", "stack test"]),
        ({"mix.exs": ""},
         ["mix local.hex --force\nmix local.rebar --force\nmix deps.get", "mix test"]),
        ({"hello.sln": ""}, ["dotnet build", "dotnet test"]),
        ({"Package.swift": ""}, ["swift build", "swift test"]),
        ({"configure": "", "configure.ac": "", "Makefile.in": ""},
         ["./configure", "make", "make check"]),
        ({"configure.ac": ""}, ["autoreconf -fi", "./configure", "make", "make check"]),
        ({"Makefile": "CC := gcc\nall: x\n\tcc\ncheck test:: all\n"}, ["make", "make test"]),
        ({"Makefile": "help:\n\techo\n.PHONY: test\ntest:\n"}, ["make test"]),
        ({"GNUmakefile": "x: y\n", "Makefile": "test:"}, ["make"]),
        # nothing
        ({}, []),
        ({"README.md": "", "tests/": "", "pyproject.toml": "[tool.ruff]"}, []),
    ],
)  # fmt: skip
def test_steps(files: Files, steps: list[str]) -> None:
    assert runs(files) == steps


def test_each_choice_has_its_reason() -> None:
    project = SETUP + "optional-dependencies.test = []\n[tool.pytest.ini_options]"
    files = {"pyproject.toml": project, "tests/": "", "package.json": "{}", "Makefile": ""}
    assert proposed(files).to_toml() == (
        "# Because there is a pyproject.toml.\n"
        "# Because the extra 'test' says what the tests need.\n"
        "# Because pyproject.toml configures pytest.\n"
        "# Because Python comes before Node, make where there are several.\n"
        "steps = [\n"
        "    { name = \"install\", run = '''\n"
        "python3 -m venv .venv\n"
        f"{PIP} --editable '.[test]' pytest''' }},\n"
        '    { name = "tests", run = ".venv/bin/python -m pytest" },\n'
        "]\n"
    )


# what others have written into their files

NASTY = ["x'; touch /tmp/y; '", "$(id)", "a\nb", "-x", "../x", "`id`", "\0", "\u202e", "'''"]


@pytest.mark.parametrize("text", NASTY)
def test_no_command_comes_from_a_file(text: str) -> None:
    """Only what is the name of a requirement or an extra gets into a command, and quoted."""
    written = json.dumps(text)
    files = {
        "pyproject.toml": f"[project]\nname = {written}\n[project.optional-dependencies]\n"
        f"{written} = ['pytest']\n[tool.poetry.group.dev.dependencies]\n{written} = '*'\n"
        f"[tool.hatch.envs.default]\ndependencies = [{written}]\n[tool.pytest]\n[build-system]\n",
        "setup.py": f"setup(name={text!r})",
        "package.json": json.dumps({"scripts": {"test": text, text: "x"}}),
        f"{text}.py": "",
        f"{text}.cabal": "",
        f"test_{text}.py": "",
        "Makefile": f"{text}: x\n",
    }
    allowed = {"python3", "-m", "venv", ".venv", "--editable", ".", "pytest", *shlex.split(PIP)}
    allowed |= {"||", "test", "$?", "-eq", "5"}
    for run in runs(files):
        assert set(shlex.split(run)) <= allowed
    del files["pyproject.toml"], files["setup.py"], files[f"{text}.py"], files[f"test_{text}.py"]
    for run in runs(files):
        assert text not in run


KEYS = [
    "project",
    "tool",
    "poetry",
    "scripts",
    "test",
    "group",
    "dev",
    "name",
    "dependencies",
    "optional-dependencies",
]
KEYS += ["hatch", "envs", "default", "pdm", "dev-dependencies", "uv", "hatch-test"]
VALUES: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just("pytest"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)  # fmt: skip
NAMES = [
    "pyproject.toml",
    "setup.py",
    "setup.cfg",
    "package.json",
    "tests",
    "composer.json",
    "Makefile",
]
NAMES += ["Cargo.toml", "requirements.txt", "x.cabal", "conftest.py", "tox.ini", "noxfile.py"]


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return "''" if value is None else json.dumps(value)


TEXTS = (
    st.text(max_size=30)
    | VALUES.map(json.dumps)
    | st.dictionaries(st.sampled_from(["project", "tool", "build-system"]), VALUES).map(
        lambda table: "\n".join(f"{key} = {toml(value)}" for key, value in table.items())
    )
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), TEXTS, max_size=5))
def test_whatever_lies_there_is_read(files: Files) -> None:
    proposed(files)


SIZE = 262_144


@pytest.mark.parametrize(
    "text",
    [
        *(piece * SIZE for piece in ("[", '{"a":', "a.", "test ", "name", "name=", "1", "a:")),
        *(piece * SIZE for piece in ("\n", "test\t", "[project]\n", "extras_require")),
        "[options.extras_require]\n" + "test " * SIZE,
    ],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_large_files_are_read_in_time(text: str) -> None:
    begun = time.process_time()
    proposed(dict.fromkeys(NAMES[:-2], text))
    proposed({"Makefile": text})
    proposed({"package.json": text, "Makefile": text})
    require_less(time.process_time() - begun, 1)


def test_very_many_names() -> None:
    begun = time.process_time()
    propose([f"{n}.txt" for n in range(1_000_000)], lambda name: None)
    require_less(time.process_time() - begun, 1)
