"""How long something may take.

Other tests, and other users of the machine, run beside a test: what took too long is tried twice
more (`--only-rerun` in pyproject.toml).  What is slow by itself is so each time.
"""

from __future__ import annotations


class TookTooLong(AssertionError):
    """Something took longer than it may."""


def require_less(took_s: float, limit_s: float, what: str = "it") -> None:
    """Raise TookTooLong if `took_s` is not less than `limit_s`."""
    if took_s >= limit_s:
        raise TookTooLong(f"{what} took {took_s:.2f} s, which is not less than {limit_s} s")
