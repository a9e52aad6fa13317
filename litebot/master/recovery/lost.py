"""What the state file lacks of what was on disk; see litebot.master.tally."""

from __future__ import annotations

from collections.abc import Iterator

from litebot.master import tally
from litebot.master.recovery.question import Finding
from litebot.master.recovery.question import Scene

LOST = "lost commits"


def commits(scene: Scene) -> Iterator[Finding]:
    """Commits that a start would never miss."""
    if scene.should_hold is None:
        return
    message = tally.missing(scene.should_hold, tally.look(scene.conn))
    if message is not None:
        yield Finding(LOST, 0, message)


def tell(_scene: Scene, _finding: Finding) -> None:
    """Nothing brings them back; the tally begins anew when this start has kept the finding."""
