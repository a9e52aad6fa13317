"""Commits that were on disk and that the state file lacks.

See litebot.master.db.sqlite.commit_watermark.
"""

from __future__ import annotations

from collections.abc import Iterator

from litebot.master.db.sqlite import commit_watermark
from litebot.master.recovery.question import Finding
from litebot.master.recovery.question import Scene

LOST = "lost commits"


def commits(scene: Scene) -> Iterator[Finding]:
    """Find whether the state file lacks commits, which a start would not notice otherwise.

    They can't be restored.  The commit watermark begins anew once this start has recorded the
    finding.
    """
    if scene.should_hold is None:
        return
    message = commit_watermark.missing(scene.should_hold, commit_watermark.content_of(scene.conn))
    if message is not None:
        yield Finding(LOST, 0, message)
