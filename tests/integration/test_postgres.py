"""A master on Postgres: what it does there, and what becomes of it where the server goes away."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from bench.postgres import USER
from litebot.settings import set_value
from support.commands import is_running
from support.commands import litebot
from support.commands import succeeded
from support.commands import wait_for
from support.master import CANCELLED
from support.master import RETRY
from support.master import SUCCESS
from support.master import Master
from support.postgres import Postgres
from support.proxy import Proxy
from support.timing import require_less
from support.visitor import Reply

BUILDS = 16
STEPS = 4
LINES = 40
AWAY_S = 30.0
# What a request of a page waits, beside what it is made to wait here.
SOON_S = 8.0


@pytest.fixture(scope="module")
def database_kind() -> str:
    return "postgres"


@pytest.fixture
def name(master: Master) -> str:
    """Of the database of a new master."""
    return master.database


@pytest.fixture
def proxy(postgres: Postgres, name: str, master: Master) -> Iterator[Proxy]:
    """The network between the master and its server."""
    proxy = Proxy(postgres.socket)
    set_value(master.basedir / "litebot.toml", "database.url", proxy.url(USER, name))
    yield proxy
    proxy.close()


def test_builds(master: Master) -> None:
    master.define_builder("b", "echo one", "seq 1000")
    master.start()
    succeeded(master.force("b"))
    build = master.finished_build("b")
    assert build["results"] == SUCCESS
    assert out(1000) in master.log_text(build["buildid"], "shell_1")
    assert succeeded(master.run("check")).stdout == "nothing is wrong\n"
    status = master.status()
    assert status["builders"] == ["b", "hello"]
    assert (status["outage"], status["unreachable"]) == (None, None)
    master.stop()
    assert "Traceback" not in master.log
    assert master.status()["last_start"]["stopped_at"] is not None
    for command in ("cleanupdb", "upgrade-master"):
        succeeded(master.run(command))


def out(lines: int) -> str:
    """What `seq` prints, as logs have it."""
    return "".join(f"o{n}\n" for n in range(1, lines + 1))


def test_a_killed_master_tries_its_builds_again(master: Master) -> None:
    master.define_builder(
        "b", "test $(ls | wc -l) = 1 && touch second || { touch first; sleep 60; }"
    )
    master.start()
    force(master)
    wait_for(lambda: (master.basedir / "workers/local/b/build/first").exists(), "the first try")
    master.kill()
    assert json.loads(master.run("check", "--json").stdout) != []
    master.start()
    assert master.finished_build("b", 1)["results"] == RETRY
    assert master.finished_build("b", 2)["results"] == SUCCESS
    repairs = master.status()["last_start"]["repairs"]
    assert any("build" in repair["message"] for repair in repairs)


def test_a_page_of_a_list_is_the_same_after_a_restart(
    master: Master, postgres: Postgres, name: str
) -> None:
    master.start()
    postgres.execute(
        name,
        "INSERT INTO buildsets (reason, submitted_at, complete, results)"
        " SELECT 'no ' || n, n, 1, 0 FROM generate_series(1, 20) n",
    )
    pages: list[dict[str, Any]] = [
        {"limit": 3, "order": "-bsid"},
        {"limit": 3, "offset": 4, "reason__contains": "no 1"},
    ]
    before = [master.rest("buildsets", **page) for page in pages]
    assert [len(seen["buildsets"]) for seen in before] == [3, 3]
    for page, seen in zip(pages, before, strict=True):
        end_connections(postgres, name)
        assert master.rest("buildsets", **page) == seen


def end_connections(postgres: Postgres, name: str) -> None:
    """End all there are to a database."""
    postgres.rows(
        "postgres",
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        f" WHERE datname = '{name}' AND pid <> pg_backend_pid()",
    )


def force(master: Master) -> None:
    """Force a build and don't wait for it."""
    assert master.login().control("forceschedulers/force-b", "force").status == 200


def busy(master: Master) -> None:
    """Have it do BUILDS builds of STEPS steps, each with LINES lines of log."""
    master.define_builder("b", *[f"seq {LINES}; sleep 0.1"] * STEPS)
    master.configure("c['collapseRequests'] = False")
    master.start()
    visitor = master.login()
    for _ in range(BUILDS):
        assert visitor.control("forceschedulers/force-b", "force").status == 200
    wait_for(lambda: len(master.builds("b")) > 2, "some builds to run")


def more_than(master: Master, builds: int) -> bool:
    return len(master.builds("b")) > builds


def whole(master: Master, builds: int = BUILDS) -> None:
    """Wait until all are done, and see that each is there once, with all that belongs to it."""

    def done() -> bool:
        requests = master.rest("buildrequests")["buildrequests"]
        return len(requests) == builds and all(request["complete"] for request in requests)

    wait_for(done, f"{builds} requests to be complete", 120)
    found = master.builds("b")
    assert [build["number"] for build in found] == list(range(1, builds + 1))
    assert {build["results"] for build in found} == {SUCCESS}
    assert len({build["buildrequestid"] for build in found}) == builds
    for build in found:
        steps = master.rest(f"builds/{build['buildid']}/steps")["steps"]
        assert [step["results"] for step in steps if step["name"].startswith("shell")] == [0] * 4
        for step in steps:
            if step["name"].startswith("shell"):
                text = master.log_text(build["buildid"], step["name"])
                assert text.count(out(LINES)) == 1
                assert text.count("o7\n") == 1
    assert json.loads(master.run("check", "--json").stdout) == []
    assert "Traceback" not in master.log


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_the_server_is_restarted_under_builds(
    master: Master, postgres: Postgres, mode: str
) -> None:
    busy(master)
    for _ in range(2):
        there = len(master.builds("b"))
        postgres.restart(mode)
        wait_for(partial(more_than, master, there + 1), "builds to go on")
    whole(master)


def test_the_server_stands_still_for_some_time(master: Master, postgres: Postgres) -> None:
    busy(master)
    with postgres.standing_still():
        wait_for(lambda: master.status()["outage"], "status to tell of it")
        reply: Reply = master.visitor().request("GET", "/api/v2/builders/b/builds")
        assert reply.status == 503
    whole(master)
    wait_for(lambda: master.status()["outage"] is None, "status to tell that it is over")


def test_the_server_is_out_of_reach_for_half_a_minute(
    master: Master, proxy: Proxy, name: str
) -> None:
    busy(master)
    visitor, asked = master.login(), []
    visitor.timeout_s = 3 * AWAY_S
    proxy.cut()
    cut_at = time.monotonic()

    def ask() -> None:
        asked.append((visitor.control("forceschedulers/force-b", "force"), time.monotonic()))

    wait_for(lambda: master.status()["outage"], "status to tell of it")
    require_less(time.monotonic() - cut_at, 10)
    status = master.status()
    assert status["running"]
    assert "refused" in status["outage"]["words"] or "closed" in status["outage"]["words"]
    assert status["unreachable"] is not None
    shown = master.run("status")
    assert shown.returncode == 0
    assert "away" in shown.stdout
    assert "Traceback" not in shown.stderr
    began_at = time.monotonic()
    reply: Reply = master.visitor().request("GET", "/api/v2/builders/b/builds")
    require_less(time.monotonic() - began_at, SOON_S)
    assert (reply.status, "is away" in reply.json["error"]) == (503, True)
    checked = master.run("check")
    assert checked.returncode == 1
    assert "Traceback" not in checked.stderr
    thread = threading.Thread(target=ask)
    thread.start()
    thread.join(cut_at + AWAY_S - time.monotonic())
    assert thread.is_alive()  # who has something stored waits
    mended_at = time.monotonic()
    proxy.mend()
    thread.join(SOON_S)
    reply, answered_at = asked[0]
    assert (reply.status, answered_at > mended_at) == (200, True)
    whole(master, BUILDS + 1)
    wait_for(lambda: master.status()["outage"] is None, "status to tell that it is over")
    assert master.log.count("is away") == 1
    back = f"{proxy.url(USER, name)} is back after "  # the session has words of its own
    assert master.log.count(f"[-] {back}") == 1


def test_a_stop_while_the_server_is_away(master: Master, proxy: Proxy) -> None:
    master.define_builder("b", "sleep 60")
    master.start()
    force(master)
    wait_for(lambda: master.status()["running_builds"], "the build to run")
    proxy.cut()
    began_at = time.monotonic()
    stopped = master.run("stop")
    require_less(time.monotonic() - began_at, 25)
    assert not is_running(master.pid)
    assert "has been away for" in master.log
    assert "Traceback" not in stopped.stderr
    proxy.mend()
    master.start()
    visitor = master.login()
    wait_for(lambda: len(master.builds("b")) == 2, "the build to be tried again")
    assert master.builds("b")[0]["results"] == RETRY
    visitor.control("builds/2", "stop")
    assert master.finished_build("b", 2)["results"] == CANCELLED


def test_a_start_without_a_server(master: Master, proxy: Proxy) -> None:
    proxy.cut()
    began_at = time.monotonic()
    refused = master.run("start")
    assert refused.returncode == 1
    require_less(time.monotonic() - began_at, 20)
    assert f"litebot: {proxy.url(USER, '')[:30]}" in refused.stderr
    assert "Traceback" not in refused.stderr
    status = master.run("status")
    assert status.returncode == 3
    assert "unreadable" in status.stdout
    assert litebot("status", "--json", master.basedir).returncode == 3
