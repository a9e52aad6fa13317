"""What the state file lacks of what was on disk; see litebot.master.tally."""

from __future__ import annotations

from collections.abc import Iterator

from litebot.master import schema
from litebot.master import tally
from litebot.master.recovery.question import Finding
from litebot.master.recovery.question import Scene

LOST = "lost commits"


def commits(scene: Scene) -> Iterator[Finding]:
    """Commits that a start would never miss."""
    message = tally.missing(scene.should_hold, tally.look(scene.conn))
    if message is not None:
        yield Finding(LOST, 0, message)


def go_on_from_there(scene: Scene, _finding: Finding) -> None:
    """Count on from where the count was, so that this is told once; nothing brings them back."""
    should = scene.should_hold
    if should is not None and should != tally.UNREADABLE:
        scene.conn.execute(
            schema.commits.update().values(database=should.database, count=should.commits)
        )
