"""The web page in a real browser: look, log in, force a build, watch it end, read its log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.browser import Page
from support.commands import wait_for
from support.master import SUCCESS
from support.master import Master


@pytest.fixture(scope="module")
def running(module_master: Master) -> Iterator[Master]:
    """A master with the sample builder and one that waits for the file `go` in the basedir."""
    wait = "touch {0}/waiting; while ! test -e {0}/go; do sleep 0.05; done; echo went on"
    module_master.define_builder("slow", wait.format(module_master.basedir))
    module_master.start()
    yield module_master
    module_master.stop()


@pytest.fixture
def page(driver: Any, running: Master, tmp_path: Path) -> Iterator[Page]:
    """A tab where nobody has logged in; screenshots are kept in the test's tmp_path."""
    driver.delete_all_cookies()
    page = Page(driver, running, tmp_path)
    page.open("")
    yield page
    page.shoot("at-the-end")


def builder_path(master: Master, name: str) -> str:
    builderid = master.rest(f"builders/{name}")["builders"][0]["builderid"]
    return f"#/builders/{builderid}"


def test_everybody_may_look(page: Page, running: Master) -> None:
    page.wait("body", "Welcome to buildbot")
    page.wait(".dropdown", "Anonymous")
    page.shoot("home")
    page.open("#/builders")
    page.wait("td", "hello")
    page.wait("td", "slow")
    for view in ("waterfall", "console", "grid"):
        page.open(f"#/{view}")
        page.wait("body", running.basedir.name)
    assert page.requested_hosts() == {f"127.0.0.1:{running.ports[0]}"}


def test_anonymous_can_not_force(page: Page, running: Master) -> None:
    page.open(builder_path(running, "hello"))
    page.click("button", "force")
    page.click(".modal-footer button", "Start build")
    page.wait(".modal-dialog", "you need to have role 'admin'")
    assert running.builds("hello") == []


def test_an_admin_forces_a_build_and_reads_its_log(page: Page, running: Master) -> None:
    page.log_in("admin", running.password)
    page.wait(".dropdown", "admin")
    page.open(builder_path(running, "hello"))
    page.click("button", "force")
    reason = page.wait(".modal-body input[id=reason]")
    reason.clear()
    reason.send_keys("by hand, in a browser")
    page.shoot("dialog")
    page.click(".modal-footer button", "Start build")

    # The page moves on to the build by itself and follows it.
    page.wait(".bb-badge-status.results_SUCCESS", "SUCCESS")
    assert page.driver.current_url.endswith(f"{builder_path(running, 'hello')}/builds/1")
    page.wait(".bb-build-summary", "build successful")
    page.shoot("build")
    build = running.finished_build("hello")
    assert build["results"] == SUCCESS
    properties = running.rest(f"builds/{build['buildid']}/properties")["properties"][0]
    assert properties["reason"][0] == "by hand, in a browser"
    assert properties["owner"][0] == "admin"

    page.open(f"{builder_path(running, 'hello')}/builds/1")
    page.wait(".bb-build-summary-step-line", "tests")
    steps = [line.text.split()[:2] for line in page.find(".bb-build-summary-step-line")]
    assert steps == [["0", "worker_preparation"], ["1", "git"], ["2", "tests"]]
    page.click(".bb-build-summary-step-line", "tests")
    page.wait("pre.log", "Ran 3 tests in")
    page.shoot("log")
    page.click("a", "view all")
    page.wait("body", "test_greets_by_name (tests.test_hello.GreetTest.test_greets_by_name) ... ok")


def test_a_running_build_turns_green_while_one_looks(page: Page, running: Master) -> None:
    page.log_in("admin", running.password)
    page.wait(".dropdown", "admin")
    page.open(builder_path(running, "slow"))
    page.click("button", "force")
    page.click(".modal-footer button", "Start build")
    wait_for((running.basedir / "waiting").exists, "the step to wait")
    page.wait(".bb-build-summary .results_PENDING")
    page.wait("button", "Stop")
    assert not page.find(".bb-badge-status.results_SUCCESS")
    page.shoot("running")
    (running.basedir / "go").touch()
    page.wait(".bb-badge-status.results_SUCCESS", "SUCCESS")
    page.wait("button", "Rebuild")
