"""Steps that are proposed for a repository without a .litebot.toml, from what lies at its top."""

from __future__ import annotations

import re
from collections.abc import Callable
from collections.abc import Collection
from dataclasses import dataclass

from litebot.projects.build_file import BuildFile
from litebot.projects.build_file import Step
from litebot.projects.build_file import derived_name
from litebot.projects.python_proposals import Proposed
from litebot.projects.python_proposals import python_files
from litebot.projects.python_proposals import python_package
from litebot.projects.python_proposals import python_requirements
from litebot.projects.tree import Tree
from litebot.projects.tree import table_at
from litebot.projects.writing import to_toml


@dataclass(frozen=True)
class Proposal:
    """Steps for a repository, and for each choice a reason such as "there is a tox.ini".

    Both are empty for one in which litebot finds nothing that it knows.
    """

    steps: tuple[Step, ...]
    reasons: tuple[str, ...]

    def to_toml(self) -> str:
        """Return a .litebot.toml with these steps, "" without any."""
        if not self.steps:
            return ""
        reasons = "".join(f"# Because {reason}.\n" for reason in self.reasons)
        return f"{reasons}{to_toml(BuildFile(self.steps))}"


def propose(names: Collection[str], read: Callable[[str], str | None]) -> Proposal:
    """Return the steps for a repository.

    `names` are the files and folders at its top, and `read` returns the text of a file, or None.
    It is asked for a few files in folders, too, such as "tests/__init__.py".  Raises nothing of its
    own, whatever the files hold.
    """
    tree = Tree(names, read)
    found = ((name, kind(tree)) for name, kind in KINDS)
    chosen = [(name, proposed) for name, proposed in found if proposed is not None]
    if not chosen:
        return Proposal((), ())
    (kind, first), *others = chosen
    left_out = sorted({name for name, _ in others} - {kind})
    reasons = [*first.reasons]
    if left_out:
        reasons.append(f"{kind} comes before {', '.join(left_out)} where there are several")
    return Proposal(first.steps, tuple(reasons))


def _made(reason: str, *runs: str | None, tests: str | None = None) -> Proposed:
    """Return steps with these commands, and one called "tests"."""
    steps: list[Step] = []
    for run in filter(None, runs):
        steps.append(Step(derived_name(run, {step.name for step in steps}), run))
    steps += [Step("tests", tests)] if tests else []
    return Proposed(tuple(steps), (f"there is a {reason}",))


def _rust(tree: Tree) -> Proposed | None:
    if "Cargo.toml" not in tree.names:
        return None
    locked = " --locked" if "Cargo.lock" in tree.names else ""
    every = " --workspace" if "workspace" in tree.toml("Cargo.toml") else ""
    return _made("Cargo.toml", f"cargo build{every}{locked}", tests=f"cargo test{every}{locked}")


def _go(tree: Tree) -> Proposed | None:
    if "go.mod" not in tree.names:
        return None
    return _made("go.mod", "go build ./...", tests="go test ./...")


def _java(tree: Tree) -> Proposed | None:
    if "pom.xml" in tree.names:
        program = "./mvnw" if "mvnw" in tree.names else "mvn"
        return _made("pom.xml", tests=f"{program} --batch-mode verify")
    file = tree.first("build.gradle", "build.gradle.kts", "settings.gradle", "settings.gradle.kts")
    if file is None:
        return None
    program = "./gradlew" if "gradlew" in tree.names else "gradle"
    return _made(file, tests=f"{program} --no-daemon build")


def _php(tree: Tree) -> Proposed | None:
    if "composer.json" not in tree.names:
        return None
    tests = None
    if "test" in table_at(tree.json("composer.json"), "scripts"):
        tests = "composer test"
    elif tree.first("phpunit.xml", "phpunit.xml.dist", "phpunit.dist.xml"):
        tests = "vendor/bin/phpunit"
    return _made("composer.json", "composer install --no-interaction", tests=tests)


def _ruby(tree: Tree) -> Proposed | None:
    if "Gemfile" not in tree.names:
        return None
    tests = None
    if "spec" in tree.names:
        tests = "bundle exec rspec"
    elif "Rakefile" in tree.names:
        tests = "bundle exec rake" + (" test" if "test" in tree.names else "")
    install = "bundle config set --local path vendor/bundle\nbundle install"
    return _made("Gemfile", install, tests=tests)


def _haskell(tree: Tree) -> Proposed | None:
    if "stack.yaml" in tree.names:
        return _made("stack.yaml", "stack build", tests="stack test")
    file = tree.first("cabal.project") or tree.ending(".cabal")
    if file is None:
        return None
    return _made(file, "cabal update\ncabal build all", tests="cabal test all")


def _elixir(tree: Tree) -> Proposed | None:
    if "mix.exs" not in tree.names:
        return None
    tools = "mix local.hex --force\nmix local.rebar --force\nmix deps.get"
    return _made("mix.exs", tools, tests="mix test")


def _dotnet(tree: Tree) -> Proposed | None:
    file = tree.ending(".sln", ".slnx", ".csproj", ".fsproj")
    return _made(file, "dotnet build", tests="dotnet test") if file else None


def _swift(tree: Tree) -> Proposed | None:
    if "Package.swift" not in tree.names:
        return None
    return _made("Package.swift", "swift build", tests="swift test")


def _meson(tree: Tree) -> Proposed | None:
    if "meson.build" not in tree.names:
        return None
    folder = _build_folder(tree)
    build = f"meson setup {folder}\nmeson compile -C {folder}"
    return _made("meson.build", build, tests=f"meson test -C {folder} --print-errorlogs")


def _cmake(tree: Tree) -> Proposed | None:
    if "CMakeLists.txt" not in tree.names:
        return None
    folder = _build_folder(tree)
    build = f"cmake -S . -B {folder}\ncmake --build {folder} --parallel"
    tests = f"ctest --test-dir {folder} --output-on-failure"
    return _made("CMakeLists.txt", build, tests=tests)


def _build_folder(tree: Tree) -> str:
    return "litebot-build" if "build" in tree.names else "build"


def _autotools(tree: Tree) -> Proposed | None:
    if "configure" in tree.names:
        return _made("configure", "./configure", "make", tests="make check")
    if "configure.ac" in tree.names:
        return _made("configure.ac", "autoreconf -fi", "./configure", "make", tests="make check")
    return None


def _node(tree: Tree) -> Proposed | None:
    if "package.json" not in tree.names:
        return None
    scripts = table_at(tree.json("package.json"), "scripts")
    # What `npm init` writes always fails.
    test = isinstance(scripts.get("test"), str) and "no test specified" not in scripts["test"]
    lock = tree.first(*_LOCKS)
    program, install = _LOCKS[lock] if lock else ("npm", "npm install")
    if lock == "yarn.lock" and ".yarnrc.yml" in tree.names:
        install = "yarn install --immutable"
    tests = f"{program} run test" if test else None
    made_test = None if test else _test_target(tree)
    made = _made(
        "package.json",
        install,
        f"{program} run build" if "build" in scripts else None,
        tests=tests or (f"make {made_test}" if made_test else None),
    )
    reasons = [*made.reasons, *([f"there is a {lock}"] if lock else [])]
    if made_test:
        reasons.append(f"there is a Makefile with a target {made_test!r}")
    return Proposed(made.steps, tuple(reasons))


# Which program has written a file, and how it installs just what that file says.
_LOCKS = {
    "pnpm-lock.yaml": ("pnpm", "pnpm install --frozen-lockfile"),
    "yarn.lock": ("yarn", "yarn install --frozen-lockfile"),
    "bun.lock": ("bun", "bun install --frozen-lockfile"),
    "bun.lockb": ("bun", "bun install --frozen-lockfile"),
    "package-lock.json": ("npm", "npm ci"),
    "npm-shrinkwrap.json": ("npm", "npm ci"),
}


def _make_with_tests(tree: Tree) -> Proposed | None:
    return _make(tree) if _test_target(tree) else None


def _make(tree: Tree) -> Proposed | None:
    file = tree.first(*_MAKEFILES)
    if file is None:
        return None
    test = _test_target(tree)
    targets = _targets(tree)
    # The first target is what `make` makes; where it is another, it may be a list of targets.
    builds = not test or (targets and targets[0] in {"all", "build"})
    made = _made(file, "make" if builds else None, tests=f"make {test}" if test else None)
    why = (f"it has a target {test!r}",) if test else ()
    return Proposed(made.steps, (*made.reasons, *why))


_MAKEFILES = ("GNUmakefile", "makefile", "Makefile")


def _targets(tree: Tree) -> list[str]:
    text = tree.text(tree.first(*_MAKEFILES) or "")
    lines = re.findall(r"^([A-Za-z][\w ./-]{0,200}):{1,2}(?![:=])", text, re.MULTILINE)
    return [target for line in lines for target in line.split()]


def _test_target(tree: Tree) -> str | None:
    targets = set(_targets(tree))
    return next((name for name in ("test", "check", "tests") if name in targets), None)


# The first that finds something is proposed: first what is surest to be built by these commands.
KINDS: tuple[tuple[str, Callable[[Tree], Proposed | None]], ...] = (
    ("Python", python_package),
    ("Rust", _rust),
    ("Go", _go),
    ("Java", _java),
    ("Elixir", _elixir),
    ("Haskell", _haskell),
    ("Swift", _swift),
    (".NET", _dotnet),
    ("Node", _node),
    ("PHP", _php),
    ("Ruby", _ruby),
    ("Meson", _meson),
    ("CMake", _cmake),
    ("autotools", _autotools),
    ("Python", python_requirements),
    ("make", _make_with_tests),
    ("Python", python_files),
    ("make", _make),
)
