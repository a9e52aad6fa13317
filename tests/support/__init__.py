"""What tests share."""

import pytest

# Failed assertions in these modules show their values, as in a test.
pytest.register_assert_rewrite(
    *(f"support.{name}" for name in ("commands", "killed", "master", "several", "worlds"))
)
