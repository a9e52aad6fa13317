"""Steps for a project in Python, for a worker that has no more than python3 with venv."""

from __future__ import annotations

import re
import shlex
from typing import Any
from typing import NamedTuple

from litebot.projects.build_file import Step
from litebot.projects.tree import Tree
from litebot.projects.tree import table_at

PIP = ".venv/bin/python -m pip install --quiet --disable-pip-version-check"
MOST_REQUIREMENTS = 50

# In the order of preference: what is only needed for the tests comes first.
_TEST_NAMES = ("test", "tests", "testing", "dev", "develop", "development")
_TEST_FILES = tuple(
    f"{name}.txt"
    for test in ("test", "tests", "dev")
    for name in (f"requirements-{test}", f"requirements_{test}", f"{test}-requirements",
                 f"{test}_requirements")
)  # fmt: skip
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\[\],<>=!~;'\" ()*+-]{0,200}")
_TEST_FILE = re.compile(r"test_\w{1,60}\.py|\w{1,60}_test\.py|tests?\.py")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,60}[A-Za-z0-9])?")
# Their editable packages are built anew at each import, with what pip has removed by then.
_NOT_EDITABLE = ("mesonpy", "scikit_build_core.build")


class _Needs(NamedTuple):
    """What pip is to install for the tests, and where the project says so."""

    extra: str = ""
    group: str = ""
    requirements: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    where: str = ""


class _Check(NamedTuple):
    """A step that tries what was installed, and a sentence why."""

    name: str
    run: str
    why: str


class Proposed(NamedTuple):
    """Steps, and a sentence for each why."""

    steps: tuple[Step, ...]
    reasons: tuple[str, ...]


def python_package(tree: Tree) -> Proposed | None:
    """Return the steps of what pip can install, or has a runner of tests such as tox."""
    project = tree.toml("pyproject.toml")
    runner = _tox(tree, project) or _nox(tree)
    if runner:
        return runner
    package = _package(tree, project)
    return _proposed(tree, project, package) if package else None


def python_requirements(tree: Tree) -> Proposed | None:
    """Return the steps of a project in Python with a list of requirements."""
    found = tree.first("requirements.txt", *_TEST_FILES)
    return _proposed(tree, tree.toml("pyproject.toml"), None) if found else None


def python_files(tree: Tree) -> Proposed | None:
    """Return the steps of files in Python."""
    found = tree.ending(".py") or tree.holds("tests/__init__.py") or tree.holds("test/__init__.py")
    return _proposed(tree, tree.toml("pyproject.toml"), None) if found else None


def _proposed(tree: Tree, project: dict[str, Any], package: str | None) -> Proposed | None:
    needs = _needs(tree, project, package=bool(package))
    check = _tests(tree, project, installs=bool(package or needs.where))
    if check is None:
        check, needs = _import(tree, project), _Needs() if package else needs
    reasons = [f"there is a {package}"] if package else []
    reasons += [f"{needs.where} says what the tests need"] if needs.where else []
    reasons += [check.why] if check else []
    pytest = check is not None and "pytest" in check.run
    installed = _install(tree, needs, package=bool(package), pytest=pytest)
    python = ".venv/bin/python" if installed else "python3"
    steps = [Step("install", "\n".join(["python3 -m venv .venv", *installed]))] if installed else []
    steps += [Step(check.name, check.run.format(python=python))] if check else []
    return Proposed(tuple(steps), tuple(reasons)) if steps else None


def _tox(tree: Tree, project: dict[str, Any]) -> Proposed | None:
    places = {
        "tox.ini": tree.text("tox.ini"),
        "tox.toml": tree.text("tox.toml"),
        "[tox:tox] in setup.cfg": tree.text("setup.cfg").partition("[tox:tox]")[2],
        "[tool.tox] in pyproject.toml": "[testenv" if table_at(project, "tool", "tox") else "",
    }
    for where, text in places.items():
        if "testenv" in text or "env_run_base" in text:
            # The environment "py" is [testenv] with the Python that there is.
            return Proposed(
                (
                    Step("install tox", f"python3 -m venv .venv\n{PIP} tox"),
                    Step("tests", ".venv/bin/tox run -e py"),
                ),
                (f"there is a {where}",),
            )
    return None


def _nox(tree: Tree) -> Proposed | None:
    text = tree.text("noxfile.py")
    if "nox" not in text:
        return None
    named = re.search(r"^def (tests?|unit|pytest)\(", text, re.MULTILINE)
    session = f" --session {named[1]}" if named else ""
    return Proposed(
        (
            Step("install nox", f"python3 -m venv .venv\n{PIP} nox"),
            Step("tests", f".venv/bin/nox --no-error-on-missing-interpreters{session}"),
        ),
        ("there is a noxfile.py",),
    )


def _package(tree: Tree, project: dict[str, Any]) -> str | None:
    """Return the file by which pip can install the project, or None."""
    tools = table_at(project, "tool")
    if any(table_at(project, key) for key in ("project", "build-system")) or "poetry" in tools:
        return "pyproject.toml"
    return tree.first("setup.py")


def _needs(tree: Tree, project: dict[str, Any], *, package: bool) -> _Needs:
    """Return what the tests need, from the first place that says so."""
    extras = table_at(project, "project", "optional-dependencies") if package else {}
    groups = table_at(project, "dependency-groups")
    tools = table_at(project, "tool")
    for name in _TEST_NAMES:
        if name in extras:
            return _Needs(extra=name, where=f"the extra {name!r}")
        if name in groups:
            return _Needs(group=name, where=f"the dependency group {name!r}")
        lists = {
            "Poetry": list(table_at(tools, "poetry", "group", name, "dependencies")),
            "PDM": table_at(tools, "pdm", "dev-dependencies").get(name),
            "Hatch": table_at(tools, "hatch", "envs", name).get("dependencies"),
        }
        for tool, wanted in lists.items():
            if found := _requirements(wanted):
                return _Needs(requirements=found, where=f"the group {name!r} of {tool}")
    # Under any other name, what has pytest is for the tests.
    for name in filter(_NAME.fullmatch, extras):
        if _has_pytest(extras[name]):
            return _Needs(extra=name, where=f"the extra {name!r}")
    for name in filter(_NAME.fullmatch, groups):
        if _has_pytest(groups[name]):
            return _Needs(group=name, where=f"the dependency group {name!r}")
    hatch = table_at(tools, "hatch", "envs")
    lists = {
        "Poetry": list(table_at(tools, "poetry", "dev-dependencies")),
        "uv": table_at(tools, "uv").get("dev-dependencies"),
        "Hatch": table_at(hatch, "hatch-test").get("extra-dependencies")
        or table_at(hatch, "default").get("dependencies"),
    }
    for tool, wanted in lists.items():
        if found := _requirements(wanted):
            return _Needs(requirements=found, where=f"the configuration of {tool}")
    if package and (extra := _extra_of_setuptools(tree)):
        return _Needs(extra=extra, where=f"the extra {extra!r}")
    files = [tree.first(*_TEST_FILES), tree.first("requirements.txt") if not package else None]
    given = tuple(name for name in files if name)
    return _Needs(files=given, where=" and ".join(given))


def _requirements(wanted: object) -> tuple[str, ...]:
    if not isinstance(wanted, list):
        return ()
    return tuple(
        text
        for text in wanted[:MOST_REQUIREMENTS]
        if isinstance(text, str) and _REQUIREMENT.fullmatch(text)
    )


def _has_pytest(wanted: object) -> bool:
    return any(re.match(r"pytest\b", text) for text in _requirements(wanted))


def _extra_of_setuptools(tree: Tree) -> str | None:
    section = tree.text("setup.cfg").partition("[options.extras_require]")[2].partition("\n[")[0]
    script = tree.text("setup.py").partition("extras_require")[2]
    for name in _TEST_NAMES:
        if re.search(rf"^{name}[ \t]*=", section, re.MULTILINE):
            return name
        if re.search(rf"""["']{name}["']\s*:|\b{name}\s*=\s*\[""", script):
            return name
    return None


def _tests(tree: Tree, project: dict[str, Any], *, installs: bool) -> _Check | None:
    """Return how the tests are run; None if there seem to be none."""
    folder = tree.first("tests", "test")
    file = next((n for n in sorted(tree.names) if _TEST_FILE.fullmatch(n)), None)
    there = f"there is a folder {folder}" if folder else f"there is a {file}"
    configured = tree.first("pytest.ini", "conftest.py")
    if "pytest" in table_at(project, "tool"):
        configured = configured or "pyproject.toml"
    if "[tool:pytest]" in tree.text("setup.cfg"):
        configured = configured or "setup.cfg"
    if configured and not (folder or file):
        # pytest exits with 5 where it has found none.
        return _Check(
            "tests", "{python} -m pytest || test $? -eq 5", f"{configured} configures pytest"
        )
    if configured or (installs and (folder or file)):
        why = f"{configured} configures pytest" if configured else there
        return _Check("tests", "{python} -m pytest", why)
    if folder and not tree.holds(f"{folder}/__init__.py"):
        return _Check("tests", f"{{python}} -m unittest discover -v -s {folder}", there)
    if folder or file:
        return _Check("tests", "{python} -m unittest -v", there)
    return None


def _import(tree: Tree, project: dict[str, Any]) -> _Check | None:
    """Return how what was installed is tried where there are no tests."""
    name = table_at(project, "project").get("name") or table_at(project, "tool", "poetry").get(
        "name"
    )
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        found = re.search(r"""\bname\s*=\s*["']?([\w.-]{1,60})""", tree.text("setup.py"))
        name = found[1] if found else ""
    written = re.sub(r"[-.]+", "_", name)
    for module in (written, written.lower()):
        path = next((path for path in _places(module) if tree.holds(path)), None)
        if path and module.isidentifier():
            return _Check(
                "import",
                f"{{python}} -m compileall -q {path.removesuffix('/__init__.py')}\n"
                f"{{python}} -c 'import {module}'",
                "it has no tests that litebot knows of, so it is compiled and imported",
            )
    scripts = [n for n in sorted(tree.names) if re.fullmatch(r"[\w-]{1,60}\.py", n)][:20]
    if scripts:
        return _Check(
            "compile",
            f"{{python}} -m py_compile {' '.join(scripts)}",
            "it has no tests that litebot knows of, so it is compiled",
        )
    return None


def _places(module: str) -> tuple[str, ...]:
    return (
        f"{module}/__init__.py",
        f"{module}.py",
        f"src/{module}/__init__.py",
        f"src/{module}.py",
    )


def _install(tree: Tree, needs: _Needs, *, package: bool, pytest: bool) -> list[str]:
    """Return the commands that install the project and what its tests need."""
    words = []
    if package:
        backend = table_at(tree.toml("pyproject.toml"), "build-system").get("build-backend")
        words += [] if backend in _NOT_EDITABLE else ["--editable"]
        words.append(f".[{needs.extra}]" if needs.extra else ".")
    words += [word for file in needs.files for word in ("--requirement", file)]
    words += ["--group", needs.group] if needs.group else []
    words += needs.requirements
    words += ["pytest"] if pytest and not _has_pytest(list(needs.requirements)) else []
    if not words:
        return []
    # pip knows groups since 25.1, and that of a worker may be older.
    return [*([f"{PIP} --upgrade pip"] if needs.group else []), f"{PIP} {shlex.join(words)}"]
