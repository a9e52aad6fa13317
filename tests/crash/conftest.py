"""Fixtures of masters that tests kill."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support.killed import Victim
from support.killed import copy_of
from support.master import Master


@pytest.fixture
def victim(created: Master, watch: Callable[[Master], Master], tmp_path: Path) -> Victim:
    """A new master that is not started yet; a test writes its configuration."""
    victim = copy_of(created, tmp_path / "ci")
    watch(victim)
    return victim
