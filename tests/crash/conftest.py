"""Fixtures for tests that kill a master."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support.commands import wait_for
from support.killed import Victim
from support.killed import copy_of
from support.master import Master
from support.sources import POLLER
from support.sources import Repository
from support.sources import reached


@pytest.fixture
def victim(created: Master, watch: Callable[[Master], Master], tmp_path: Path) -> Victim:
    """A new master that is not started yet; a test writes its configuration."""
    victim = copy_of(created, tmp_path / "ci")
    watch(victim)
    return victim


@pytest.fixture
def repository(victim: Victim) -> Repository:
    """A git repository that the poller of the running victim has polled once."""
    repository = Repository(victim)
    victim.write_config(POLLER)
    victim.start()
    wait_for(lambda: reached(victim), "the poller's first look")
    return repository
