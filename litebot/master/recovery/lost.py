"""What the state file lacks of what was on disk; see litebot.master.db.sqlite.commit_watermark."""

from __future__ import annotations

from collections.abc import Iterator

from litebot.master.db.sqlite import commit_watermark
from litebot.master.recovery.question import Finding
from litebot.master.recovery.question import Scene

LOST = "lost commits"


def commits(scene: Scene) -> Iterator[Finding]:
    """Commits that a start would never miss.

    Nothing brings them back; the tally begins anew when this start has kept the finding.
    """
    if scene.should_hold is None:
        return
    message = commit_watermark.missing(scene.should_hold, commit_watermark.content_of(scene.conn))
    if message is not None:
        yield Finding(LOST, 0, message)
