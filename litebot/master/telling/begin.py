"""The event that a project's build begins to run its steps.

When Buildbot says that a build is new, neither its revision nor its cell of the matrix is known.
"""

from __future__ import annotations

from typing import Any

BEGUN = "begun"
# The property with the environment of a build's cell; absent without a matrix.
CELL = "matrix"


async def announce(build: Any) -> None:
    """Say that the steps of a build are known and run next."""
    # For those that read its properties.
    await build.master.data.updates.setBuildProperties(build.buildid, build)
    found = await build.master.data.get(("builds", build.buildid))
    build.master.mq.produce(("builds", str(build.buildid), BEGUN), found)
