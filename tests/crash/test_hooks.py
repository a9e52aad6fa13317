"""Kills while a push is delivered: it is stored once, whole or not at all."""

from __future__ import annotations

import hmac
import json
from collections import Counter
from collections.abc import Callable
from http.client import HTTPException

import pytest

from support.commands import wait_for
from support.killed import Victim
from support.master import on_both
from support.sources import PEOPLE
from support.sources import changes
from support.visitor import Reply

HOOKS = """
c["www"]["change_hook_dialects"] = {"base": True, "github": {"secret": "s", "strict": False}}
builder("b", shell("true"))
c["schedulers"].append(schedulers.AnyBranchScheduler("all", builderNames=["b"]))
"""


def push(victim: Victim, *revisions: str, **headers: str) -> Reply | None:
    """Send a push of these commits as GitHub does; return None if the master dies meanwhile."""
    commits = [
        {
            "id": revision,
            "message": revision,
            "timestamp": "2026-01-01T00:00:00Z",
            "url": "https://git.example.org/" + revision,
            "author": PEOPLE,
            "committer": PEOPLE,
        }
        for revision in revisions
    ]
    names = ("name", "html_url", "full_name")
    body = {
        "ref": "refs/heads/main",
        "repository": dict.fromkeys(names, "r"),
        "head_commit": commits[-1],
        "commits": commits,
    }
    sent = {"X_GitHub_Event": "push", "Content_Type": "application/json", **headers}
    text = json.dumps(body).encode()
    signature = hmac.new(b"s", text, "sha1").hexdigest()
    try:
        return victim.visitor().request(
            "POST", "/change_hook/github", text, X_Hub_Signature=f"sha1={signature}", **sent
        )
    except (OSError, HTTPException):
        return None


@on_both
@pytest.mark.parametrize(
    ("point", "stored"),
    [
        ("db.users.findUserByAttr:2", 0),  # half of the push is prepared
        ("db.changes.addChanges:1", 3),  # stored, but not answered
    ],
)
def test_a_push_is_stored_whole_or_not_at_all_and_once(
    victim: Victim, point: str, stored: int
) -> None:
    victim.write_config(HOOKS)
    die_of(victim, point, lambda: push(victim, "1", "2", "3", X_GitHub_Delivery="a"))
    assert sum(changes(victim).values()) == stored
    victim.start()
    again = push(victim, "1", "2", "3", X_GitHub_Delivery="a")
    assert again is not None
    assert again.status == 200
    assert changes(victim) == Counter("123")
    wait_for(lambda: len(victim.schedulers()) == 3, "a buildset of each")
    victim.await_quiet()


def die_of(victim: Victim, point: str, act: Callable[[], Reply | None]) -> None:
    victim.start_to_die(point)
    assert act() is None
    victim.await_death()


def test_a_delivery_is_one_and_another_is_another(victim: Victim) -> None:
    victim.write_config(HOOKS)
    victim.start()
    push(victim, "1", X_GitHub_Delivery="a")
    reply = push(victim, "1", X_GitHub_Delivery="a")
    assert reply is not None
    assert reply.status == 200
    assert reply.body == b"no change stored: this delivery has been received before"
    push(victim, "1", X_GitHub_Delivery="b")  # somebody pushed it again, on purpose
    push(victim, "2", X_GitHub_Delivery="a")
    assert changes(victim) == Counter({"1": 2, "2": 1})
    form, kind = "author=ada&comments=3", "application/x-www-form-urlencoded"
    for key in ("a", "a", "b"):
        reply = victim.visitor().request(
            "POST", "/change_hook/base", form, Content_Type=kind, Idempotency_Key=key
        )
        assert reply.status == 200
    assert changes(victim)["3"] == 2


@on_both
def test_what_was_delivered_is_known_for_a_week(victim: Victim) -> None:
    victim.write_config(HOOKS)
    victim.start()
    push(victim, "1", X_GitHub_Delivery="a")
    push(victim, "2", X_GitHub_Delivery="b")
    victim.stop()
    victim.execute("UPDATE litebot_deliveries SET taken_at = taken_at - 8 * 86400")
    victim.start()
    push(victim, "3", X_GitHub_Delivery="c")
    assert len(victim.rows("SELECT * FROM litebot_deliveries")) == 1
