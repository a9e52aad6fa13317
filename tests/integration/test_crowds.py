"""Many who come at once while builds run: all are answered, and builds go on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException

import pytest

from support.commands import succeeded
from support.commands import wait_for
from support.master import Master

BETWEEN_REQUESTS_S = 0.02


@contextmanager
def crowd_at(master: Master, path: str = "/api/v2/builders") -> Iterator[list[int]]:
    """Have a few visitors ask again and again, and builds run beside them.

    Yields the statuses of the answers, 0 where there was none.
    """
    statuses: list[int] = []
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.wait(BETWEEN_REQUESTS_S):
            try:
                statuses.append(master.visitor().request("GET", path).status)
            except (OSError, HTTPException):
                statuses.append(0)

    def build() -> None:
        while not is_over.is_set():
            succeeded(master.force("short"))

    threads = [threading.Thread(target=what) for what in (ask, ask, ask, build)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: len(statuses) > 50 and master.builds("short"), "a crowd")
        yield statuses
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


@pytest.fixture(scope="module")
def running(module_master: Master) -> Master:
    """A master with a builder of builds that take no time."""
    module_master.configure('c["www"] = {"change_hook_dialects": {"base": True}}')
    module_master.define_builder("short", "true")
    module_master.start()
    return module_master


def test_who_has_changed_something_sees_it(running: Master) -> None:
    with crowd_at(running) as statuses:
        for number in range(30):
            assert running.change(revision=f"seen {number}") == 200
            found = running.rest("changes", order="-changeid", limit=1)["changes"]
            assert found[0]["revision"] == f"seen {number}"
    assert set(statuses) == {200}
    assert "Traceback" not in running.log


def test_http_log_has_every_request(running: Master) -> None:
    path = "/api/v2/builders?limit=17"
    with crowd_at(running, path) as statuses:
        pass
    line = f'"GET {path} HTTP/1.1" 200 '
    assert set(statuses) == {200}
    log = running.basedir / "http.log"
    wait_for(lambda: log.read_text().count(line) == len(statuses), "all lines in http.log")


@pytest.fixture
def closed_to_strangers(running: Master) -> Iterator[None]:
    """The configuration is such, while the running master has not read it yet."""
    config = running.basedir / "master.cfg"
    text = config.read_text(encoding="utf-8")
    running.configure(
        """
        c["www"]["auth"] = util.UserPasswordAuth({"a": "b"})
        c["www"]["authz"] = util.Authz([util.AnyEndpointMatcher(role="admins")])
        """
    )
    yield
    config.write_text(text, encoding="utf-8")
    running.reconfig()


@pytest.mark.usefixtures("closed_to_strangers")
def test_a_reconfig_is_obeyed(running: Master) -> None:
    with crowd_at(running) as statuses:
        running.reconfig()
        assert running.visitor().request("GET", "/api/v2/builds").status == 403
        before = len(statuses)
        wait_for(lambda: len(statuses) > before + 20, "more requests")
        # Those that were under way meanwhile have ended.
        assert set(statuses[before + 10 :]) == {403}
    assert set(statuses) == {200, 403}
