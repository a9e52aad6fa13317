"""A build that stands for several requests knows the changes and the people of all of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.commands import wait_for
from support.master import Master
from support.master import on_both

CONFIG = """
from buildbot.reporters.base import ReporterBase
from buildbot.reporters.generators.build import BuildStatusGenerator


class Reporter(ReporterBase):
    def sendMessage(self, reports):
        with open(os.path.join(basedir, "reported"), "a") as file:
            for report in reports:
                file.write(",".join(sorted(report["users"])) + "\\n")


@util.renderer
def files(props):
    return ["echo", " ".join(sorted(props.getBuild().allFiles()))]


c["www"] = {"change_hook_dialects": {"base": True}}
c["change_source"] = []
c["services"] = [Reporter(name="r", generators=[BuildStatusGenerator()])]
c["builders"] = [util.BuilderConfig(name="b", workernames=["local"], factory=util.BuildFactory([
    steps.ShellCommand(name="files", command=files, logEnviron=False),
    steps.ShellCommand(command="until test -e GATE; do sleep 0.02; done", logEnviron=False),
]))]
c["schedulers"] = [
    schedulers.SingleBranchScheduler(name="s", branch="main", treeStableTimer=TIMER,
                                     builderNames=["b"]),
    schedulers.ForceScheduler(name="force", builderNames=["b"]),
]
"""


def push(master: Master, name: str) -> None:
    files = json.dumps([f"{name}.c", f"{name}.h"])
    assert master.change(author=name, branch="main", files=files, revision=name) == 200


@on_both
@pytest.mark.parametrize("timer", ["None", "0.5"], ids=["at once", "gathered"])
def test_three_people_push_while_the_builder_is_busy(
    master: Master, tmp_path: Path, timer: str
) -> None:
    gate = tmp_path / "gate"
    master.configure(CONFIG.replace("GATE", str(gate)).replace("TIMER", timer))
    master.start()
    push(master, "zoe")
    wait_for(lambda: master.builds("b"), "the first build to begin", 60)
    people = ["ada", "grace", "mary"]
    for name in people:
        push(master, name)
    waiting = "SELECT count(*) FROM buildsets WHERE complete = 0"
    built = "SELECT count(*) FROM litebot_built"
    wait_for(lambda: master.rows(built)[0][0] == 4, "a buildset of each change", 60)
    wait_for(lambda: master.rows(waiting)[0][0] == 2, "the requests to be collapsed", 60)
    gate.touch()
    build = master.finished_build("b", 2)
    props = master.rest(f"builds/{build['buildid']}/properties")["properties"][0]
    assert props["owners"][0] == people
    shown = master.rest(f"builds/{build['buildid']}/changes")["changes"]
    assert sorted(change["author"] for change in shown) == people
    assert " ".join(f"{name}.{end}" for name in people for end in "ch") in master.log_text(
        build["buildid"], "files"
    )
    path = master.basedir / "reported"
    wait_for(lambda: len(path.read_text(encoding="utf-8").splitlines()) == 2, "the reports")
    assert path.read_text(encoding="utf-8").splitlines() == ["zoe", ",".join(people)]
