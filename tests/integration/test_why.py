"""litebot why: what became of a change, as the one who pushed it asks."""

from __future__ import annotations

import json
from urllib.parse import urlencode

import pytest

from support.commands import succeeded
from support.commands import wait_for
from support.master import Master
from support.master import on_both

pytestmark = pytest.mark.usefixtures("real_commands")

CONFIG = """
from buildbot.plugins import schedulers, steps, util, worker

c = BuildmasterConfig = {}
c["workers"] = [worker.LocalWorker("local")]
c["www"] = {"change_hook_dialects": {"base": True}}
factory = util.BuildFactory([steps.ShellCommand(command="true")])
c["builders"] = [util.BuilderConfig(name="b", workernames=["local"], factory=factory)]
on = lambda branch: util.ChangeFilter(branch=branch)
basic = schedulers.SingleBranchScheduler
common = {"builderNames": ["b"]}
c["schedulers"] = [
    basic("a-built", change_filter=on("main"), **common),
    basic("b-waiting", change_filter=on("main"), treeStableTimer=3600, **common),
    basic("c-filtered", change_filter=on("release"), **common),
    basic("d-trifle", change_filter=on("main"), fileIsImportant=lambda c: "x" in c.files, **common),
    basic("e-disabled", change_filter=on("main"), **common),
    schedulers.AnyBranchScheduler("f-codebase", codebases=["other"], **common),
    schedulers.Triggerable("g-triggerable", **common),
]
"""


@pytest.fixture
def asked(master: Master) -> Master:
    (master.basedir / "master.cfg").write_text(CONFIG)
    master.start()
    return master


@on_both
def test_it_says_what_each_scheduler_made_of_a_change(asked: Master) -> None:
    ids = {s["name"]: s["schedulerid"] for s in asked.rest("schedulers")["schedulers"]}
    admin = asked.login()
    assert admin.control(f"schedulers/{ids['e-disabled']}", "enable", enabled=False).status == 200
    form = urlencode({"author": "a", "comments": "c", "branch": "main", "revision": "abcdef"})
    kind = "application/x-www-form-urlencoded"
    assert admin.request("POST", "/change_hook/base", form, Content_Type=kind).status == 200
    wait_for(lambda: asked.builds("b"), "the build")

    reply = json.loads(succeeded(asked.run("why", "--json", "abc")).stdout)
    assert reply["changeid"] == 1
    assert {o["scheduler"]: (o["what"], o["buildsetid"]) for o in reply["schedulers"]} == {
        "a-built": ("built in buildset 1", 1),
        "b-waiting": ("waiting for its tree-stable timer", None),
        "c-filtered": ("ignored: filter on branch: branch in ['release'], but it is 'main'", None),
        "d-trifle": ("ignored: fileIsImportant does not accept it", None),
        "e-disabled": ("ignored: the scheduler is disabled", None),
        "f-codebase": ("ignored: codebase '' is not one of the scheduler's", None),
        "g-triggerable": ("ignored: this scheduler acts on no changes", None),
    }
    assert "a-built        built in buildset 1\n" in succeeded(asked.run("why", "1")).stdout
    refused = asked.run("why", "77")
    assert refused.returncode == 1
    assert "there is no change with the id or the revision '77'" in refused.stderr
