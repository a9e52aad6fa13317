"""The pages of projects in a real browser: alone, within Buildbot's page, wide and narrow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.axe import require_accessible
from support.browser import Page
from support.commands import run
from support.commands import succeeded
from support.master import Master
from support.pages import send
from support.pages import token_in

MANY = 12  # as many as do not fit on a screen


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repositories") / "greeter"
    folder.mkdir()
    (folder / "Makefile").write_text("test:\n\techo tested\n", encoding="utf-8")
    succeeded(run("git", "init", "--quiet", "-b", "main", folder))
    succeeded(run("git", "-C", folder, "add", "."))
    identity = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    succeeded(run("git", *identity, "-C", folder, "commit", "--quiet", "-m", "Begin"))
    return folder


@pytest.fixture(scope="module")
def running(module_master: Master) -> Iterator[Master]:
    module_master.start()
    yield module_master
    module_master.stop()


@pytest.fixture
def page(driver: Any, running: Master, tmp_path: Path) -> Iterator[Page]:
    """A tab where an admin has logged in; screenshots are kept in the test's tmp_path."""
    driver.delete_all_cookies()
    page = Page(driver, running, tmp_path)
    page.log_in("admin", running.password)
    yield page
    page.shoot("at-the-end")
    page.look_as_usual()


def add(running: Master, repository: Path, name: str, steps: str) -> None:
    admin = running.login()
    token = token_in(admin.request("GET", "/litebot/projects/add"))
    fields = {"url": str(repository), "branch": "main", "name": name, "steps": steps}
    fields["step"] = "save"
    assert send(admin, "/litebot/projects/add", token, **fields).status == 303


def require_well_shown(page: Page, path: str) -> None:
    """Fail where a page is too wide for the window, or not accessible, in any size and color."""
    for width in (1280, 360, 320):
        for colors in ("light", "dark"):
            page.look_as(width, colors)
            page.open(path)
            page.wait("h1")
            page.shoot(f"{path.replace('/', '-')}-{width}-{colors}")
            require_accessible(page)
            assert page.driver.execute_script(
                "return document.documentElement.scrollWidth <= innerWidth"
            ), f"{path} is wider than {width} px"


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
def test_a_project_is_added_and_built_in_a_browser(
    page: Page, running: Master, repository: Path, scripts: bool
) -> None:
    page.run_scripts(scripts)
    page.open("litebot/projects/add")
    page.wait("input#url").send_keys(str(repository))
    page.click("button", "Look at it")
    name = page.wait("input#name")
    assert name.get_attribute("value") == "greeter" + ("" if scripts else "-2")
    page.click("button", "Add and build it")
    page.wait(".alert", "Added.")
    added = page.wait("h1").text
    running.finished_build(added)
    if scripts:
        page.wait("td", "success")  # the page follows it
    else:
        page.open(f"litebot/projects/{added}")
        page.wait("td", "success")
    assert page.violations() == []


def test_a_project_is_added_within_buildbots_page(
    page: Page, running: Master, repository: Path
) -> None:
    page.open("#/pages/projects/add")
    page.wait("input#url").send_keys(str(repository))
    page.wait("input#name").send_keys("within")
    page.click("button", "Look at it")
    page.click("button", "Add and build it")
    page.wait("h1", "within")
    page.wait(".alert", "Added.")
    assert "#/pages/projects/within" in page.driver.current_url
    page.wait("td", "success")
    page.click(".bb-sidebar-button", "Overview")
    page.wait("th", "within")
    assert page.violations() == []


def test_an_empty_and_a_full_overview_are_well_shown(
    page: Page, running: Master, repository: Path
) -> None:
    for number in range(MANY):
        add(running, repository, f"shown-{number:02}", f'steps = ["sleep 0.{number}"]')
    add(running, repository, "a-name-that-is-as-long-as-any-name-of-a-project", 'steps = ["false"]')
    running.finished_build("a-name-that-is-as-long-as-any-name-of-a-project")
    require_well_shown(page, "litebot/")


def test_all_pages_of_a_project_are_well_shown(
    page: Page, running: Master, repository: Path
) -> None:
    add(running, repository, "shown", 'steps = ["true"]')
    running.finished_build("shown")
    admin = running.login()
    token = token_in(admin.request("GET", "/litebot/projects/shown"))
    for base, timeout in enumerate(("2h", "3h"), start=1):
        fields = {"base": str(base), "timeout": timeout, "comment": "more time " * 10}
        assert send(admin, "/litebot/projects/shown/edit", token, **fields).status == 303
    for path in ("projects/add", *(f"projects/shown{e}" for e in ("", "/edit", "/history"))):
        require_well_shown(page, f"litebot/{path}")
    require_well_shown(page, "litebot/projects/shown/remove")
