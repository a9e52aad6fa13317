"""Buildbot's own tests have the same outcomes on litebot's store as on stock.

All tests of PyPI's source archive run on both, side by side.  LITEBOT_BUILDBOT_SOURCE names the
directory master/ of a Buildbot checkout: then its database tests and old databases, which the
archive lacks, run too; LITEBOT_BUILDBOT_TESTS chooses others of it, such as "buildbot.test.unit".
Those that work on a database run once more where both sides have theirs on a Postgres server.
What may differ, and why, stands in known_differences.toml and known_differences_on_postgres.toml.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

import pytest
from archive import CannotFetch
from archive import fetch
from comparison import Comparison
from comparison import load_known
from packaging.requirements import Requirement
from sides import HERE
from sides import REPOSITORY
from sides import TIME_LIMIT_S
from sides import Side
from sides import run_both

from support.commands import require

if TYPE_CHECKING:
    from support.postgres import Postgres

CACHE = REPOSITORY / ".cache" / "conformance"
REQUIREMENTS = HERE / "requirements.txt"

# Of the archive: those that have masters, with their workers, run builds, and the like.
ON_A_DATABASE = [
    "buildbot.test.integration",
    "buildbot.test.regressions",
    "buildbot.test.unit.test_buildbot_net_usage_data",
    "buildbot.test.unit.test_master",
    "buildbot.test.unit.test_stats_service",
]

# Either suite may take its time twice: what did not do as expected runs again.
pytestmark = pytest.mark.timeout(2 * TIME_LIMIT_S + 600)


@dataclass(frozen=True)
class Suite:
    """Which of Buildbot's tests to run; `name` is what `only_in` in the list refers to."""

    name: str
    tests: list[str]
    checkout: Path | None = None
    on_postgres: bool = False

    def __str__(self) -> str:
        return f"{self.name}{'-on-postgres' * self.on_postgres}"

    @property
    def known(self) -> Path:
        """The list of what may differ."""
        return HERE / f"known_differences{'_on_postgres' * self.on_postgres}.toml"

    def has(self, test: str) -> bool:
        """Whether a test of this id belongs to the suite."""
        return any(f"{test}.".startswith(f"{chosen}.") for chosen in self.tests)

    def source(self) -> Path:
        """The directory with the package buildbot, fetched where needed.  Raises CannotFetch."""
        if self.checkout is not None:
            return self.checkout
        return fetch(metadata.version("buildbot"), CACHE)


def suites() -> list[Suite]:
    """What to run here."""
    chosen = [
        Suite("archive", ["buildbot.test"]),
        Suite("archive", ON_A_DATABASE, on_postgres=True),
    ]
    if checkout := os.environ.get("LITEBOT_BUILDBOT_SOURCE"):
        usual = "buildbot.test.unit.db buildbot.test.integration.test_upgrade"
        tests = os.environ.get("LITEBOT_BUILDBOT_TESTS", usual).split()
        source = Path(checkout).resolve()
        chosen.append(Suite("git", tests, source))
        chosen.append(Suite("git", tests, source, on_postgres=True))
    return chosen


def missing_packages() -> list[str]:
    """The lines of requirements.txt that are not installed as they say."""
    missing = []
    for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines():
        wanted, _, _ = line.partition("#")
        if not wanted.strip():
            continue
        requirement = Requirement(wanted)
        try:
            installed = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            missing.append(str(requirement))
        else:
            if not requirement.specifier.contains(installed, prereleases=True):
                missing.append(f"{requirement} (installed: {installed})")
    return missing


@pytest.fixture(scope="module", params=suites(), ids=str)
def suite(request: pytest.FixtureRequest) -> Suite:
    chosen: Suite = request.param
    return chosen


@pytest.fixture(scope="module")
def compared(request: pytest.FixtureRequest, suite: Suite) -> Comparison:
    """Both sides' outcomes of a suite."""
    missing = missing_packages()
    install = f"pip install -r {REQUIREMENTS.relative_to(REPOSITORY)}"
    require(not missing, f"Buildbot's tests need {', '.join(missing)}: {install}")
    try:
        source = suite.source()
    except CannotFetch as error:
        require(False, f"the source archive of Buildbot can't be fetched: {error}")
        raise
    known = [
        entry
        for entry in load_known(suite.known)
        if entry.only_in in (None, suite.name) and suite.has(entry.test)
    ]
    server: Postgres | None = request.getfixturevalue("postgres") if suite.on_postgres else None

    def run(tests: list[str]) -> tuple[Side, Side]:
        if server is None:
            return run_both(source, tests)
        urls = (server.url(server.new_database()), server.url(server.new_database()))
        return run_both(source, tests, servers=urls)

    compared = Comparison(*run(suite.tests), known)
    compared.run_unexpected_again(run)
    _show(request.config, compared.table(f"Buildbot's own tests, {suite}, in {source}"))
    return compared


def _show(config: pytest.Config, text: str) -> None:
    """Print on the terminal, also when the test then passes."""
    terminal: Any = config.pluginmanager.get_plugin("terminalreporter")
    capture: Any = config.pluginmanager.get_plugin("capturemanager")
    with capture.global_and_fixture_disabled():
        terminal.ensure_newline()
        terminal.write_line(text)


def test_every_module_loads(compared: Comparison) -> None:
    assert not compared.not_loaded(), compared.explain(compared.not_loaded())


def test_each_side_ran_on_its_own_store(compared: Comparison, suite: Suite) -> None:
    assert compared.stock.databases == 0
    assert compared.litebot.databases > 100
    on_server = (compared.stock.on_server, compared.litebot.on_server)
    assert min(on_server) > 100 if suite.on_postgres else on_server == (0, 0)


def test_stock_passes(compared: Comparison) -> None:
    broken = compared.broken_on_stock()
    assert not broken, compared.explain(broken)


def test_same_outcomes_but_for_known_differences(compared: Comparison) -> None:
    unknown = compared.unknown_differences()
    assert not unknown, compared.explain(unknown)


def test_no_known_difference_is_stale(compared: Comparison, suite: Suite) -> None:
    stale = compared.stale()
    assert not stale, f"remove from {suite.known.name}:\n{compared.explain(stale)}"
