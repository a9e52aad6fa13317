"""What a repository or a build says does not keep the master from anything else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from typing import Any

from litebot.master.builds import suppressing
from support.commands import succeeded
from support.commands import wait_for
from support.master import Master
from support.timing import require_less

SPACES = 20_000
SHORT_S = 2


def compile_while_looking(master: Master, make: str, says: str) -> int:
    """Run a build that makes a file `suppressions`, and whose compiler says something.

    A visitor looks meanwhile.  Returns the build's id.
    """
    master.configure(
        f"""
        c["builders"].append(util.BuilderConfig(
            name="b", workernames=["local"], factory=util.BuildFactory([
                steps.ShellCommand(command={make!r}),
                steps.Compile(
                    name="compile", command={says!r}, suppressionFile="suppressions",
                    warningPattern=r"^(\\S+):(\\d+): warning: (.*)$",
                    warningExtractor=steps.WarningCountingShellCommand.warnExtractFromRegexpGroups,
                ),
            ])))
        c["schedulers"].append(schedulers.ForceScheduler(name="fb", builderNames=["b"]))
        """
    )
    master.start()
    succeeded(master.force("b", "--no-wait"))
    longest = 0.0

    def is_over() -> bool:
        nonlocal longest
        started = time.monotonic()
        builds = master.builds("b")
        longest = max(longest, time.monotonic() - started)
        return bool(builds and builds[0]["complete"])

    wait_for(is_over, "the build to end", 60)
    require_less(longest, 5)  # else the page did not answer
    buildid = master.builds("b")[0]["buildid"]
    assert isinstance(buildid, int)
    return buildid


def test_a_line_of_spaces_in_a_file_of_suppressions(master: Master) -> None:
    make = (
        f"python3 -c \"open('suppressions', 'w').write(' ' * {SPACES} + 'x\\n"
        "a.c : known : 3-5\\n')\""
    )
    says = (
        "echo \"make[1]: Entering directory 'src'\"; echo 'a.c:4: warning: known';"
        " echo 'a.c:9: warning: known'; python3 -c \"print('make' * 4000)\""
    )
    buildid = compile_while_looking(master, make, says)
    # The first is suppressed only in src/a.c, which the file does not name.
    props = master.rest(f"builds/{buildid}/properties")["properties"][0]
    assert props["warnings-count"][0] == 2


def test_a_suppression_that_takes_for_ever(master: Master) -> None:
    suppressions = "a.c : (a|a)*$\\nb.c : known : 3-5\\n"
    make = f"printf '{suppressions}' > suppressions"
    says = f"echo 'b.c:4: warning: known'; echo 'a.c:9: warning: {'a' * 60}!'"
    master.configure(
        f"""
        from litebot.master.builds import warnings
        warnings.SUPPRESSING_S = {SHORT_S}
        """
    )
    buildid = compile_while_looking(master, make, says)
    props = master.rest(f"builds/{buildid}/properties")["properties"][0]
    assert props["warnings-count"][0] == 1
    logs = {log["name"]: log for log in master.rest(f"builds/{buildid}/steps/2/logs")["logs"]}
    said = master.rest(f"logs/{logs['suppressions']['logid']}/contents")["logchunks"][0]["content"]
    assert "1 of 2 warnings are counted as if there were no suppressions" in said


def ask(*lines: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-S", suppressing.__file__],
        input="".join(json.dumps(line) + "\n" for line in lines),
        text=True,
        capture_output=True,
        check=False,
    )


def test_flags_are_those_of_the_configuration() -> None:
    pattern = re.compile("known", re.IGNORECASE)
    suppressions = [[None, [pattern.pattern, pattern.flags], None, None]]
    assert ask(suppressions, [None, 1, "KNOWN"], ["a", None, "new"]).stdout == "1\n0\n"


def test_what_is_no_regular_expression_is_named() -> None:
    found = ask([[None, ["(", 0], None, None]], ["a", 1, "x"])
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr.startswith("the suppression '(' is no regular expression: ")


def test_a_pattern_that_needs_much_memory_ends_only_its_process() -> None:
    found = ask([[None, ["a" * 300_000_000, 0], None, None]], ["a", 1, "x"])
    assert found.returncode == 1
    assert found.stderr.rstrip().endswith("MemoryError")
