"""Workers that get builds while they answer, and wait after an exception only if it is theirs.

Buildbot gives a worker no build for 10 s and longer after each build that ended as EXCEPTION, such
as one whose configuration has a mistake.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

# The Build that ends in this task.
ending: ContextVar[Any] = ContextVar("ending", default=None)


class FairWorker:
    """Put before the class of each worker.

    `lost` says since when a worker is taken for lost because it did not answer, and how long:
    {"since": epoch seconds, "words": text}; or it is None.  `left_commands` are the ids of those
    that it may still run though its connection was lost.
    """

    lost: dict[str, Any] | None = None
    left_commands: tuple[str, ...] = ()

    def attached(self, conn: Any) -> Any:
        """Do as Buildbot does, and note that the worker is back."""
        self.lost = None
        return super().attached(conn)  # type: ignore[misc]

    def canStartBuild(self) -> bool:
        """Do as Buildbot does, but start nothing on a worker that does not answer."""
        conn: Any = self.conn  # type: ignore[attr-defined]
        if getattr(conn, "is_silent", False):
            return False
        return bool(super().canStartBuild())  # type: ignore[misc]

    def putInQuarantine(self) -> None:
        """Do as Buildbot does, unless a build ends whose exception is not the worker's fault."""
        build: Any = ending.get()
        # What goes on in the context of a build that has ended is not about this build.
        ends = build is not None and build in build.builder.building
        if not ends or build.workerforbuilder.worker is not self or build.is_workers_fault:
            super().putInQuarantine()  # type: ignore[misc]
