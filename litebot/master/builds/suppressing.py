"""Decides which warnings of a step are suppressed.

This is run as a process of its own, by its path and without anything else of litebot: the patterns
come from a file in a repository, and one may take for ever.  Its memory and its processor time are
limited; who starts it limits its time further.

Reads JSON from stdin, one value a line.  First the suppressions, a list of
[file, text, start, end], where the first two are null or [pattern, flags], and the others null or
numbers of lines.  Then the warnings, each [file, number, text], where file and number may be null.
Writes to stdout for each warning, in this order and as soon as it is decided, a line: 1 if it is
suppressed, else 0.

Exits with 1 and a sentence on stderr if a pattern is no regular expression.
Source: WarningCountingShellCommand.maybeAddWarning in buildbot/steps/shell.py
"""

from __future__ import annotations

import json
import re
import resource
import sys

MOST_BYTES = 1 << 30
MOST_CPU_S = 60  # if who started it is gone

Suppression = tuple[re.Pattern[str] | None, re.Pattern[str] | None, int | None, int | None]


def compiled(pattern: tuple[str, int] | None) -> re.Pattern[str] | None:
    """Return a pattern that can be used; exit if it is no regular expression."""
    if pattern is None:
        return None
    try:
        return re.compile(*pattern)
    except (re.error, RecursionError, OverflowError) as error:
        sys.exit(f"the suppression {pattern[0][:200]!r} is no regular expression: {error}")


def is_suppressed(
    suppressions: list[Suppression], file: str | None, number: int | None, text: str
) -> bool:
    """Return whether one of the suppressions fits a warning."""
    for file_pattern, text_pattern, start, end in suppressions:
        if file is not None and file_pattern is not None and not file_pattern.match(file):
            continue
        if text_pattern is not None and not text_pattern.search(text):
            continue
        if start is None or end is None or (number is not None and start <= number <= end):
            return True
    return False


def main() -> None:
    """Read, and write, what is said above."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_CPU_S, MOST_CPU_S))
    suppressions = [
        (compiled(file), compiled(text), start, end)
        for file, text, start, end in json.loads(sys.stdin.readline())
    ]
    for line in sys.stdin:
        print(int(is_suppressed(suppressions, *json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
