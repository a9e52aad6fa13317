"""litebot's own pages in a real browser: alone, within Buildbot's page, and without JavaScript."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.axe import require_accessible
from support.browser import Page
from support.master import Master
from support.pages import register_notes

NOTES = "litebot/notes/x"


@pytest.fixture(scope="module")
def running(module_master: Master, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Master]:
    register_notes(module_master, tmp_path_factory.mktemp("templates"))
    module_master.start()
    yield module_master
    module_master.stop()


@pytest.fixture
def page(driver: Any, running: Master, tmp_path: Path) -> Iterator[Page]:
    """A tab where nobody has logged in; screenshots are kept in the test's tmp_path."""
    driver.delete_all_cookies()
    page = Page(driver, running, tmp_path)
    yield page
    page.shoot("at-the-end")
    page.look_as_usual()


def log_in(page: Page, running: Master, path: str) -> None:
    """Log in as a user does who began at a page; the browser asks for name and password."""
    credentials = f"://admin:{running.password}@"
    page.driver.get(page.base.replace("://", credentials) + f"/auth/login?redirect=/{path}")


def test_a_login_leads_back_and_a_form_can_be_sent_with_the_keyboard_alone(
    page: Page, running: Master
) -> None:
    from selenium.webdriver.common.keys import Keys

    page.open(NOTES)
    assert page.wait(".lb-user a").text == "Log in"
    log_in(page, running, NOTES)
    page.wait("h1", "Notes of x")
    assert page.driver.current_url.endswith("/litebot/notes/x")
    page.wait(".lb-user", "admin")
    field = page.wait("input#text")
    page.press_until(field, Keys.TAB)
    page.driver.switch_to.active_element.send_keys("by keys" + Keys.ENTER)
    page.wait("td", "by keys by admin")
    assert page.violations() == []
    assert page.requested_hosts() == {f"127.0.0.1:{running.ports[0]}"}


def test_pages_are_shown_within_buildbots(page: Page, running: Master) -> None:
    log_in(page, running, "pages/notes/y")
    assert page.driver.current_url.endswith("/#/pages/notes/y")
    page.wait("h1", "Notes of y")
    page.wait(".bb-sidebar-item, .sidebar-list", "Overview")
    page.wait("input#text").send_keys("too long, this is")
    page.click("button", "Add")
    page.wait(".lb-error", "more than 10 letters")
    field = page.wait("input#text")
    field.clear()
    field.send_keys("inside")
    page.click("button", "Add")
    page.wait("td", "inside by admin")
    assert page.driver.current_url.endswith("/#/pages/notes/y")
    page.click("a", "another")
    page.wait("h1", "Notes of a b/c")
    assert "#/pages/notes/a%20b%2Fc" in page.driver.current_url
    page.shoot("within")
    assert page.violations() == []


def test_parts_of_a_page_are_kept_up_to_date(page: Page, running: Master) -> None:
    page.open(NOTES)
    page.wait("h1", "Notes of x")
    from support.pages import send
    from support.pages import token_in

    admin = running.login()
    send(admin, f"/{NOTES}", token_in(admin.request("GET", f"/{NOTES}")), text="live")
    page.wait("td", "live by admin")
    assert page.violations() == []


def test_pages_need_no_script(page: Page, running: Master) -> None:
    log_in(page, running, NOTES)
    page.run_scripts(False)
    page.open(NOTES)
    page.wait("input#text").send_keys("no script")
    page.click("button", "Add")
    page.wait("td", "no script by admin")


@pytest.mark.parametrize("colors", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360, 320])
def test_pages_are_accessible(page: Page, running: Master, width: int, colors: str) -> None:
    log_in(page, running, NOTES)
    page.look_as(width, colors)
    for path in (NOTES, "litebot/nothing"):
        page.open(path)
        page.wait("h1")
        page.shoot(f"{path.rpartition('/')[2]}-{width}-{colors}")
        require_accessible(page)
        assert page.driver.execute_script(
            "return document.documentElement.scrollWidth <= innerWidth"
        ), "the page is wider than the window"
