"""What tests share."""

import pytest

# What they assert is shown as it is in a test.
pytest.register_assert_rewrite(
    *(f"support.{name}" for name in ("commands", "killed", "master", "several", "worlds"))
)
