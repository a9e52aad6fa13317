"""The page in a headless Chromium: the fixture `driver`, and what a test sees and does there."""

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
    # A name of somebody else that leads to this machine.
    "--host-resolver-rules=MAP evil.example 127.0.0.1",
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

    def violations(self) -> list[str]:
        """What the browser has refused to do since it was last asked, by the page's policy."""
        lines = [entry["message"] for entry in self.driver.get_log("browser")]
        return [line for line in lines if "Content Security Policy" in line]

    def shoot(self, name: str) -> None:
        self.driver.save_screenshot(str(self._shots / f"{name}.png"))

    def press_until(self, element: Any, key: str) -> None:
        """Press a key, such as Tab, until an element has the focus."""
        from selenium.webdriver.common.action_chains import ActionChains

        for _ in range(100):
            if self.driver.switch_to.active_element == element:
                return
            ActionChains(self.driver).send_keys(key).perform()
        raise AssertionError(f"the focus does not get to {element.get_attribute('outerHTML')}")

    def look_as(self, width: int, colors: str) -> None:
        """Show pages as on a screen of this width, to somebody who prefers these colors."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 700}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": colors}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def run_scripts(self, may_run: bool) -> None:
        """Have the browser run the scripts of pages that it loads from now on, or not."""
        stop = {"value": not may_run}
        self.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", stop)

    def look_as_usual(self) -> None:
        """Undo look_as() and run_scripts()."""
        self.run_scripts(True)
        self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})

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
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    try:
        yield driver
    finally:
        driver.quit()
