"""What a repository or a build says does not keep the master from anything else."""

from __future__ import annotations

import time

from support.commands import succeeded
from support.commands import wait_for
from support.master import Master
from support.timing import require_less

SPACES = 20_000


def test_a_line_of_spaces_in_a_file_of_suppressions(master: Master) -> None:
    make = (
        f"python3 -c \"open('suppressions', 'w').write(' ' * {SPACES} + 'x\\n"
        "a.c : known : 3-5\\n')\""
    )
    says = (
        "echo \"make[1]: Entering directory 'src'\"; echo 'a.c:4: warning: known';"
        " echo 'a.c:9: warning: known'; python3 -c \"print('make' * 4000)\""
    )
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
    # The first is suppressed only in src/a.c, which the file does not name.
    props = master.rest(f"builds/{buildid}/properties")["properties"][0]
    assert props["warnings-count"][0] == 2
