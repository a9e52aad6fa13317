"""Where litebot depends on what Buildbot does not promise: all of it is written down.

Found are the private names that Buildbot's source defines and litebot uses or overrides, methods of
Buildbot's that are replaced on an object, and objects that get another class.  The table is that
of "Seams of Buildbot that are used" in the design.

What litebot's classes override was written against the source that Buildbot had then.  Where a
release has changed it, look whether the override still does the right thing, and then:

    python tests/unit/test_seams.py
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import buildbot
import buildbot_worker
import pytest

import litebot

OURS = Path(litebot.__file__).parent
SOURCES = sorted(path for path in OURS.rglob("*.py") if "template" not in path.parts)
DESIGNS = [OURS.parent / "docs" / name for name in ("design.md", "internals/design.md")]
HEADING = "## Seams of Buildbot that are used"
LIST = Path(__file__).with_name("overridden_methods.txt")

# Methods that nothing overrides and whose course litebot's code follows.
FOLLOWED = """
    buildbot.changes.bitbucket.BitbucketPullrequestPoller._processChanges
    buildbot.changes.github.GitHubPullrequestPoller._processChanges
    buildbot.changes.gitpoller.GitPoller.poll
    buildbot.changes.hgpoller.HgPoller._processChanges
    buildbot.changes.pb.ChangePerspective.perspective_addChange
    buildbot.process.botmaster.BotMaster.cleanShutdown
    buildbot.process.build.Build.lostRemote
    buildbot.process.build.Build.stopBuild
    buildbot.process.builder.Builder._startBuildFor
    buildbot.process.builder.Builder.buildFinished
    buildbot.process.buildstep.BuildStep._cleanup_logs
    buildbot.process.buildstep.BuildStep.getBuildResultSummary
    buildbot.process.buildstep.BuildStep.runCommand
    buildbot.process.buildstep.BuildStep.startStep
    buildbot.process.factory.BuildFactory.newBuild
    buildbot.process.properties.Interpolate.getRenderingFor
    buildbot.process.properties.WithProperties.getRenderingFor
    buildbot.process.remotetransfer.DirectoryWriter.purge
    buildbot.process.remotetransfer.DirectoryWriter.remote_unpack
    buildbot.process.remotetransfer.FileWriter.cancel
    buildbot.process.remotetransfer.FileWriter.purge
    buildbot.process.remotetransfer.FileWriter.remote_close
    buildbot.process.remotetransfer.FileWriter.remote_utime
    buildbot.process.remotetransfer.FileWriter.remote_write
    buildbot.reporters.base.ReporterBase._got_event
    buildbot.schedulers.base.BaseScheduler._changeCallback
    buildbot.schedulers.base.BaseScheduler.startConsumingChanges
    buildbot.schedulers.basic.BaseBasicScheduler.gotChange
    buildbot.schedulers.basic.BaseBasicScheduler.stableTimerFired
    buildbot.schedulers.dependent.Dependent._buildset_complete_cb
    buildbot.schedulers.dependent.Dependent._buildset_new_cb
    buildbot.steps.source.base.Source.patch
    buildbot.steps.source.base.Source.updateSourceProperty
    buildbot.steps.transfer.MultipleFileUpload.startUpload
    buildbot.steps.transfer._TransferBuildStep.runTransferCommand
    buildbot.util.service.BuildbotService.canReconfigWithSibling
    buildbot.util.service.BuildbotService.reconfigServiceWithSibling
    buildbot.util.service.BuildbotServiceManager.reconfigServiceWithBuildbotConfig
    buildbot.util.service.ClusteredBuildbotService._activityPoll
    buildbot.util.service.ClusteredBuildbotService.stopService
    buildbot.worker.local.LocalWorker.checkConfig
    buildbot.worker.local.LocalWorker.reconfigService
"""

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Class(NamedTuple):
    """A class of Buildbot's, as its source defines it."""

    private: frozenset[str]  # names of methods, of class attributes and of those that it sets
    methods: dict[str, str]  # the source of each


class Seam(NamedTuple):
    """A place in litebot's source, and the name that it depends on."""

    where: str
    name: str


def is_private(name: str) -> bool:
    return name.startswith("_") and name != "_" and not name.endswith("__")


def named(node: ast.AST) -> Iterator[str]:
    """The names that a piece of source defines or sets."""
    for each in ast.walk(node):
        if isinstance(each, Function):
            yield each.name
        elif isinstance(each, ast.Attribute) and not isinstance(each.ctx, ast.Load):
            yield each.attr
        elif isinstance(each, ast.Name) and not isinstance(each.ctx, ast.Load):
            yield each.id


def classes(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.ClassDef]]:
    """The classes that a module defines, also in each other, with their full names."""
    for each in ast.iter_child_nodes(node):
        if isinstance(each, ast.ClassDef):
            yield prefix + each.name, each
            yield from classes(each, f"{prefix}{each.name}.")
        elif not isinstance(each, Function):
            yield from classes(each, prefix)


def module_name(path: Path, root: Path) -> str:
    parts = [root.name, *path.relative_to(root).with_suffix("").parts]
    return ".".join(parts).removesuffix(".__init__")


class Buildbot:
    """The source of Buildbot and its worker, as installed."""

    def __init__(self) -> None:
        self.private: set[str] = set()
        self.methods: set[str] = set()  # names of what is a method, and nowhere an attribute
        self.classes: dict[str, Class] = {}
        attributes: set[str] = set()
        for package in (buildbot, buildbot_worker):
            root = Path(package.__file__).parent
            for path in root.rglob("*.py"):
                if "test" not in path.relative_to(root).parts:
                    text = path.read_text(encoding="utf-8")
                    attributes |= set(self._read(module_name(path, root), text))
        self.methods -= attributes

    def _read(self, module: str, text: str) -> Iterator[str]:
        """Take up a module; gives the names of attributes and properties."""
        tree = ast.parse(text)
        self.private |= set(filter(is_private, named(tree)))
        for each in ast.walk(tree):
            if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store):
                yield each.attr
            elif isinstance(each, Function) and "property" in map(ast.unparse, each.decorator_list):
                yield each.name
        lines = text.splitlines()
        for name, node in classes(tree):
            methods: dict[str, str] = {}
            for each in node.body:
                if isinstance(each, Function):
                    first = min([each, *each.decorator_list], key=lambda node: node.lineno).lineno
                    source = "\n".join(lines[first - 1 : each.end_lineno])
                    methods[each.name] = methods.get(each.name, "") + source
            self.methods |= methods.keys()
            private = frozenset(filter(is_private, named(node)))
            self.classes[f"{module}.{name}"] = Class(private, methods)

    def bases(self, kind: type) -> list[str]:
        """The full names of Buildbot's classes that a class is made of, nearest first."""
        names = [f"{base.__module__}.{base.__qualname__}" for base in kind.__mro__[1:]]
        return [name for name in names if name in self.classes]

    def hash(self, method: str) -> str:
        """Tells the source of a method by its full name; "" where there is none."""
        kind, _, name = method.rpartition(".")
        found = self.classes.get(kind)
        source = found.methods.get(name, "") if found else ""
        return hashlib.sha256(source.encode()).hexdigest()[:16] if source else ""


@cache
def theirs() -> Buildbot:
    return Buildbot()


def is_own(node: ast.expr) -> bool:
    """Whether an expression is what a method calls its own object."""
    if isinstance(node, ast.Call):
        node = node.func
        return isinstance(node, ast.Name) and node.id == "super"
    return isinstance(node, ast.Name) and node.id in {"self", "cls"}


def kind_of(module: ModuleType, name: str) -> type:
    found = module
    for part in name.split("."):
        found = getattr(found, part)
    assert isinstance(found, type)
    return found


@cache
def bound() -> set[str]:
    """The private names that litebot itself defines or sets, not only declares."""
    names = set()
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.AnnAssign)]
        declared = {ast.unparse(node.target) for node in nodes if node.value is None}
        names |= set(filter(is_private, named(tree))) - declared
    return names


@cache
def fields() -> set[str]:
    """The names of the fields of litebot's dataclasses."""
    return {
        each.target.id
        for path in SOURCES
        for _, node in classes(ast.parse(path.read_text(encoding="utf-8")))
        for each in node.body
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    }


def seams(module: ModuleType, text: str, where: str) -> Iterator[Seam]:
    """What a module of litebot depends on."""
    tree = ast.parse(text)
    inherited: dict[ast.AST, set[str]] = {}  # of what is in a class: Buildbot's private names there
    for name, node in classes(tree):
        bases = theirs().bases(kind_of(module, name))
        private = {name for base in bases for name in theirs().classes[base].private}
        inherited |= dict.fromkeys(ast.walk(node), private)
        for each in node.body:
            if isinstance(each, Function) and each.name in private:
                yield Seam(f"{where}:{each.lineno}", each.name)
    replaced = {*theirs().methods, "__class__"} - fields()
    for part in ast.walk(tree):
        if isinstance(part, ast.Attribute) and is_private(part.attr):
            private = theirs().private
            if is_own(
                part.value
            ):  # a class put before one of Buildbot's may inherit nothing itself
                private = inherited.get(part, set()) | (private - bound())
            if part.attr in private:
                yield Seam(f"{where}:{part.lineno}", part.attr)
        elif isinstance(part, ast.Assign) and not isinstance(part.value, ast.Constant):
            targets = [each for each in part.targets if isinstance(each, ast.Attribute)]
            for target in targets:
                if target.attr in replaced and not is_own(target.value):
                    yield Seam(f"{where}:{part.lineno}", target.attr)


@cache
def found() -> list[Seam]:
    """All of litebot's."""
    seen: list[Seam] = []
    for path in SOURCES:
        module = importlib.import_module(module_name(path, OURS))
        text = path.read_text(encoding="utf-8")
        seen += seams(module, text, str(path.relative_to(OURS)))
    return seen


def written_down() -> set[str]:
    """The names in the first column of the table of names."""
    (design,) = [path for path in DESIGNS if path.exists()]
    section = design.read_text(encoding="utf-8").partition(HEADING)[2].partition("\n## ")[0]
    rows = section.partition("| name |")[2].splitlines()
    cells = [line.split("|")[1] for line in rows if line.startswith("|")]
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def test_every_name_of_buildbots_own_is_written_down() -> None:
    known = written_down()
    assert [seam for seam in found() if seam.name not in known] == []


def test_no_name_is_written_down_that_is_not_used() -> None:
    assert written_down() - {seam.name for seam in found()} == set()


def overridden() -> Iterator[str]:
    """The full names of Buildbot's methods that litebot's classes override."""
    for path in SOURCES:
        module = importlib.import_module(module_name(path, OURS))
        for name, node in classes(ast.parse(path.read_text(encoding="utf-8"))):
            bases = theirs().bases(kind_of(module, name))
            for each in node.body:
                if isinstance(each, Function):
                    yield from (
                        f"{base}.{each.name}"
                        for base in bases
                        if each.name in theirs().classes[base].methods
                    )


def as_installed() -> dict[str, str]:
    """A hash of the source of each method that is overridden or followed."""
    return {name: theirs().hash(name) for name in sorted({*overridden(), *FOLLOWED.split()})}


def as_listed() -> dict[str, str]:
    """The same of the Buildbot that litebot's methods were written against."""
    lines = LIST.read_text(encoding="utf-8").splitlines()
    return {line.split()[0]: line.split()[1] for line in lines}


def test_the_source_of_what_is_overridden_is_what_it_was() -> None:
    installed, listed = as_installed(), as_listed()
    changed = {name for name in installed.keys() & listed if installed[name] != listed[name]}
    assert changed == set(), f"Buildbot {buildbot.version} has changed these"
    assert installed.keys() == listed.keys(), f"python {Path(__file__).name} lists them anew"


def test_what_is_followed_is_there() -> None:
    assert [name for name in FOLLOWED.split() if not theirs().hash(name)] == []


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("def f(build): return build._preparation_step", ["_preparation_step"]),
        ("def f(build): return build._our_own_step", []),
        ("def f(build): return build.currentStep", []),
        ("def f(build, step): build.currentStep = step", []),
        ("def f(build): build.stepDone = f", ["stepDone"]),
        ("def f(build): build.__class__ = int", ["__class__"]),
        ("def f(build): return build.__class__", []),
        ("class Build:\n    def f(self): return self._preparation_step", ["_preparation_step"]),
        ("class Build:\n    def f(self): return self._state_of_ours", []),
    ],
)
def test_what_is_a_seam(text: str, names: list[str]) -> None:
    module = ModuleType("probe")
    exec(text, vars(module))
    assert [seam.name for seam in seams(module, text, "probe")] == names


def test_what_a_class_inherits_is_a_seam() -> None:
    text = """
from buildbot.process import build

class Build(build.Build):
    def _setup_locks(self):
        self._of_ours = self._locks_to_acquire
        return super()._setup_locks()
"""
    module = ModuleType("probe")
    exec(text, vars(module))
    expected = {"_setup_locks", "_locks_to_acquire"}
    assert {seam.name for seam in seams(module, text, "probe")} == expected


if __name__ == "__main__":
    lines = [f"{name} {hashed}\n" for name, hashed in as_installed().items()]
    LIST.write_text("".join(lines), encoding="utf-8")
