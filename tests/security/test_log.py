"""What visitors can write to the log of a master: little, on short lines."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from support.commands import succeeded
from support.master import Master
from support.visitor import Visitor

FORM, JSON = "application/x-www-form-urlencoded", "application/json"


@pytest.fixture(scope="module")
def running(module_master: Master) -> Master:
    """A master with hooks that anybody may call, and that log what they get."""
    module_master.configure(
        """
        from buildbot.www.hooks.base import BaseHookHandler
        class Failing(BaseHookHandler):
            def getChanges(self, request):
                raise OSError("broken " + "x" * 20_000)
        c["www"] = {
            "change_hook_dialects": {
                "base": True, "github": {}, "gitlab": True, "bitbucketcloud": True,
                "bitbucketserver": True, "failing": {"custom_class": Failing},
            },
        }
        """
    )
    module_master.start()
    return module_master


def written(master: Master, times: int, path: str, body: bytes | None, **headers: str) -> str:
    """Return what is in the log after a request was sent some times."""
    visitor = Visitor(master.ports[0])
    before = len(master.log)
    for _ in range(times):
        method = "GET" if body is None else "POST"
        assert visitor.request(method, path, body, **headers).status >= 200
    return master.log[before:]


def is_short(text: str, most: int) -> bool:
    lines = text.splitlines()
    return len(text) < most and all(len(line) < 1200 for line in lines)


def test_names_of_hooks_that_do_not_exist(running: Master) -> None:
    visitor = running.visitor()
    for name in ("x" * 15_000, "svnlook", "%0a%0dforged", "os", "base/" + "y" * 10_000):
        reply = visitor.request("GET", f"/change_hook/{name}")
        assert 400 <= reply.status < 500
        assert len(reply.body) < 300
    assert is_short(written(running, 200, f"/change_hook/{'x' * 15_000}", None), 4_000)
    log = written(running, 1, "/change_hook/%0aforged", None)
    assert not re.search(r"^forged", log, re.MULTILINE)


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("bitbucketcloud", {"X_Event_Key": "repo:nothing"}),
        ("bitbucketserver", {"X_Event_Key": "repo:nothing"}),
        ("bitbucketserver", {"X_Event_Key": "repo:" + "x" * 10_000}),
        ("github", {"X_GitHub_Event": "ping"}),
        ("github", {"X_GitHub_Event": "x" * 10_000}),
        ("gitlab", {"X_Gitlab_Event": "x" * 10_000}),
        ("base", {}),
        ("failing", {}),
    ],
)
def test_payloads_of_hooks(running: Master, path: str, headers: dict[str, str]) -> None:
    body = json.dumps({"text": "x" * 200_000}).encode()
    kind = FORM if path == "base" else JSON
    log = written(running, 60, f"/change_hook/{path}", body, Content_Type=kind, **headers)
    assert is_short(log.replace("x" * 1000, ""), 60_000)
    assert len(log) < 120_000


def test_requests_that_can_not_be_understood(running: Master) -> None:
    log = written(running, 100, "/api/v2/builds", b"[" * 15_000, Content_Type=JSON)
    log += written(running, 100, "/api/v2/" + "x" * 10_000, None)
    log += written(running, 100, "/ws", None)
    log += written(running, 100, "/auth/login", None, Authorization="Basic " + "x" * 10_000)
    log += written(running, 100, "/auth/login", None, Authorization="Digest " + "x" * 10_000)
    log += written(running, 100, "/avatar?email=" + "x" * 10_000, None)
    assert is_short(log, 5_000), log[:3000]


def test_builds_that_a_visitor_has_forced_are_logged_as_others(master: Master) -> None:
    master.define_builder("b", "true")
    master.start()
    admin = master.login()
    before = len(master.log)
    reply = admin.control("forceschedulers/force-b", "force", builderNames=["b"])
    assert reply.status == 200, reply.body
    master.finished_build("b")
    by_visitor = master.log[before:]
    before = len(master.log)
    succeeded(master.force("b"))
    by_command = master.log[before:]

    def names(log: str) -> set[str]:
        return set(re.findall(r"<Build b|releaseLocks|acquireLocks|ShellCommand", log))

    assert names(by_visitor) == names(by_command)


def test_the_log_of_a_visitor(tmp_path: Path) -> None:
    from contextvars import copy_context

    from twisted import logger

    from litebot.master.runtime.visitor_log import ERRORS_PER_WINDOW
    from litebot.master.runtime.visitor_log import LONGEST_LINE
    from litebot.master.runtime.visitor_log import PER_WINDOW
    from litebot.master.runtime.visitor_log import BriefObserver
    from litebot.master.runtime.visitor_log import for_visitor

    now = [0.0]
    texts: list[str] = []
    observer = BriefObserver(lambda e: texts.append(logger.formatEvent(e)), lambda: now[0])
    log = logger.Logger("of.nobody", observer=observer)  # type: ignore[arg-type]

    def visit() -> None:
        for_visitor.set(True)
        for _ in range(1000):
            log.info("{text}", text="a\nb" * 1000)
        for _ in range(100):
            try:
                raise OSError("x" * 50_000)
            except OSError:
                log.failure("it failed")
        now[0] += 60
        log.info("later")

    copy_context().run(visit)
    lines = [text for text in texts if "Traceback" not in text and "failed" not in text]
    assert len(lines) == PER_WINDOW + 2
    assert all(len(line) <= LONGEST_LINE + 3 and "\n" not in line for line in lines)
    assert len(texts) - len(lines) == ERRORS_PER_WINDOW
    assert lines[-2:] == ["litebot: 995 lines of the log about visitors were left out", "later"]
    log.info("{text}", text="a\nb" * 1000)
    assert texts[-1] == "a\nb" * 1000
