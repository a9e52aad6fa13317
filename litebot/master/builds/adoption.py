"""Puts litebot's classes before those of a build's steps."""

from __future__ import annotations

from typing import Any

from litebot.master.builds.guarding import GuardedStep
from litebot.master.limits import words
from litebot.master.runtime.subclasses import put_before

TRANSFER = "buildbot.steps.transfer."
WARNINGS = "buildbot.steps.shell.WarningCountingShellCommand"


def adopt(step: Any) -> None:
    """Have a step that was made, and not rendered yet, end surely, and refuse what is dangerous
    or takes long.

    The classes of refusals are imported when the first step needs them, as are Buildbot's.
    """
    put_before(step, GuardedStep)
    bases = type(step).__mro__
    names = {f"{getattr(base, '__module__', '')}.{base.__name__}" for base in bases}
    ours: type | None = None
    if any(name.startswith(words.SOURCES) for name in names):
        from litebot.master.builds import sources

        is_source = f"{words.SOURCES}base.Source" in names
        ours = sources.CheckedSource if is_source else sources.CheckedStep
    elif any(name.startswith(TRANSFER) for name in names):
        from litebot.master.builds import transfers

        ours = next((transfers.CLASSES[n] for n in names if n in transfers.CLASSES), None)
    elif WARNINGS in names:
        from litebot.master.builds import warnings

        ours = warnings.BoundedWarnings
    if ours is not None:
        configured = dict(vars(step))
        put_before(step, ours)
        step.configured = configured
