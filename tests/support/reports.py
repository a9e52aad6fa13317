"""A plugin of pytest: shows masters' logs with failed tests, and what tests have measured."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Generator
from functools import partial

import pytest

from support.master import watched

MEASURED = "measured"  # the name of a property of test reports
LOG_TAIL_LINES = 60


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the end of the masters' logs with a test that fails."""
    report = yield
    if report.failed:
        for master in watched:
            lines = master.log.splitlines()[-LOG_TAIL_LINES:]
            report.sections.append((f"{master.basedir}/twistd.log", "\n".join(lines)))
    return report


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """A function that shows a figure at the end of the run."""
    return partial(record_property, MEASURED)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what tests have measured, also in other processes."""
    reports = terminalreporter.getreports("passed")
    lines = [
        f"{report.nodeid}: {what}"
        for report in reports
        for name, what in report.user_properties
        if name == MEASURED
    ]
    if lines:
        terminalreporter.section("measured")
        for line in lines:
            terminalreporter.line(line)
