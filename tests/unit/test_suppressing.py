"""Which warnings are suppressed: as Buildbot would decide."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from buildbot.steps.shell import WarningCountingShellCommand
from hypothesis import given
from hypothesis import strategies as st

from litebot.master.builds import suppressing

FILES = st.sampled_from([None, "", "a.c", "src/a.c", "b.c"])
TEXTS = st.sampled_from(["", "known", "unknown", "KNOWN"])
NUMBERS = st.none() | st.integers(0, 4)
PATTERNS = st.sampled_from([None, "a", "a.c$", "known", "^known", "[ab]"])
SUPPRESSIONS = st.lists(st.tuples(PATTERNS, PATTERNS, NUMBERS, NUMBERS), max_size=3)


@given(SUPPRESSIONS, FILES, NUMBERS, TEXTS)
def test_a_warning_is_suppressed_as_by_buildbot(
    suppressions: list[Any], file: str | None, number: int | None, text: str
) -> None:
    warnings: list[str] = []
    step: Any = SimpleNamespace(
        suppressions=[],
        directoryStack=[],
        warnCount=0,
        warningExtractor=lambda *_: (file, number, text),
    )
    WarningCountingShellCommand.addSuppression(step, suppressions)
    WarningCountingShellCommand.maybeAddWarning(step, warnings, "line", None)
    found = suppressing.is_suppressed(step.suppressions, file, number, text)
    assert found == (warnings == [])
