"""Texts longer than their columns: SQLite keeps them, Postgres would refuse what they belong to."""

from __future__ import annotations

import json
from urllib.parse import urlencode

import pytest

from support.master import SUCCESS
from support.master import Master
from support.master import on_both
from support.visitor import Reply

pytestmark = on_both

LONG = "long " * 100
CONFIG = f"""
c["www"] = {{"change_hook_dialects": {{"base": True}}}}
c["schedulers"] = [
    schedulers.AnyBranchScheduler("any", builderNames=["hello"], reason={LONG!r}),
    schedulers.ForceScheduler("force", builderNames=["hello"]),
]
"""


@pytest.fixture
def started(master: Master) -> Master:
    master.configure(CONFIG)
    master.start()
    return master


def send(master: Master, form: dict[str, str]) -> Reply:
    kind = "application/x-www-form-urlencoded"
    return master.visitor().request("POST", "/change_hook/base", urlencode(form), Content_Type=kind)


def test_what_people_read_is_cut_and_what_is_built_is_not(
    started: Master, database_kind: str
) -> None:
    form = {"author": LONG, "committer": LONG, "revlink": LONG, "category": LONG, "comments": LONG}
    assert send(started, form).status == 200
    assert started.finished_build("hello")["results"] == SUCCESS
    (change,) = started.rest("changes")["changes"]
    (buildset,) = started.rest("buildsets")["buildsets"]
    lengths = {name: len(change[name]) for name in form} | {"reason": len(buildset["reason"])}
    if database_kind == "sqlite":
        assert lengths == dict.fromkeys(lengths, len(LONG))
    else:
        assert lengths == {
            "author": 255,
            "committer": 255,
            "revlink": 256,
            "category": 255,
            "comments": len(LONG),
            "reason": 256,
        }
    assert started.force("hello", "--reason", LONG).returncode == 0

    for form, said in (
        ({"branch": LONG}, "branch is longer than 255 characters"),
        ({"files": json.dumps([LONG * 3])}, "a name in files is longer than 1024 characters"),
        ({"properties": json.dumps({LONG: 1})}, "a name in properties is longer than 256"),
    ):
        reply = send(started, {"author": "Ada", **form})
        assert reply.status == (200 if database_kind == "sqlite" else 400)
        assert database_kind == "sqlite" or said in reply.body.decode()
    assert len(started.rest("changes")["changes"]) == (4 if database_kind == "sqlite" else 1)
