"""Fixtures of the tests of what others may do."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that others may read; pytest's are closed to them."""
    with tempfile.TemporaryDirectory(prefix="litebot-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
