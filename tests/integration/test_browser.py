"""The web page in a real browser: look, log in, force a build, watch it end, read its log."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from support.commands import require
from support.commands import wait_for
from support.master import SUCCESS
from support.master import Master

CHROMIUM, CHROMEDRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
FLAGS = (
    "--headless=new",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
)


class Page:
    """A browser's tab; things on the page are found by CSS selector and by their text."""

    def __init__(self, driver: Any, master: Master, shots: Path) -> None:
        self.driver = driver
        self.base = f"http://127.0.0.1:{master.ports[0]}"
        self._shots = shots

    def open(self, path: str) -> None:
        """Load a path of the page anew, not only move within it."""
        self.driver.get("about:blank")
        self.driver.get(f"{self.base}/{path}")

    def log_in(self, name: str, password: str) -> None:
        self.driver.get(self.base.replace("://", f"://{name}:{password}@") + "/auth/login")

    def find(self, css: str, text: str = "") -> list[Any]:
        found = self.driver.find_elements("css selector", css)
        return [element for element in found if text in element.text]

    def wait(self, css: str, text: str = "") -> Any:
        """The first of them, as soon as there is one."""
        from selenium.common.exceptions import StaleElementReferenceException

        def look() -> list[Any]:
            try:
                return self.find(css, text)
            except StaleElementReferenceException:
                return []  # the page is being drawn anew

        return wait_for(look, f"{css!r} with {text!r} on the page")[0]

    def click(self, css: str, text: str = "") -> None:
        self.wait(css, text).click()

    def shoot(self, name: str) -> None:
        self.driver.save_screenshot(str(self._shots / f"{name}.png"))

    def requested_hosts(self) -> set[str]:
        """All that the page has asked for something since it was opened."""
        hosts = set()
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            params = message["params"]
            if message["method"] == "Network.requestWillBeSent":
                url = urlsplit(params["request"]["url"])
            elif message["method"] == "Network.webSocketCreated":
                url = urlsplit(params["url"])
            else:
                continue
            if url.scheme in {"http", "https", "ws", "wss"}:
                hosts.add(f"{url.hostname}:{url.port}")
        return hosts


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium that fetches nothing for itself."""
    require(shutil.which(CHROMIUM), f"there is no {CHROMIUM}")
    require(shutil.which(CHROMEDRIVER), f"there is no {CHROMEDRIVER}")
    require(importlib.util.find_spec("selenium"), "selenium is not installed")
    os.environ |= {"SE_OFFLINE": "true", "SE_AVOID_STATS": "true"}
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    try:
        yield driver
    finally:
        driver.quit()


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
