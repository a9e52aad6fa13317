"""Tells the readers of a build what kept a step from its work."""

from __future__ import annotations

from typing import Any

from buildbot.process.results import FAILURE

from litebot.errors import LitebotError


async def fail(step: Any, error: LitebotError) -> int:
    """Log an error and its remedy, show it as the result of a step, and return FAILURE."""
    lines = [error.what, *([f"Try: {error.hint}"] if error.hint else [])]
    await step.addCompleteLog("problem", "\n".join(lines) + "\n")
    step.descriptionDone = [error.what.splitlines()[0]]
    return FAILURE
