"""Messages of Buildbot's as JSON: other masters' consumers get what one's own get."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from buildbot.util import UTC

from litebot.master.cluster.events import decode
from litebot.master.cluster.events import encode

NOON = datetime(2026, 11, 24, 12, 0, 0, 250_000, tzinfo=UTC)


@pytest.mark.parametrize(
    "message",
    [
        {"buildid": 1, "started_at": NOON, "complete_at": None, "properties": {}},
        {"steps": [{"urls": []}, {"hidden": False, "ratio": 0.1, "big": 2**63}]},
        {"text": "grün ☃ 𝄞 \0 \ud800 \\ \" '"},
        {"datetime": 17, "\0datetime": "text"},
        None,
        [],
    ],
)
def test_it_comes_out_as_it_went_in(message: Any) -> None:
    body = encode(message)
    assert decode(body) == message
    assert body.isascii()
    assert "\0" not in body


@pytest.mark.parametrize(
    ("message", "comes_out"),
    [
        # As it does from Buildbot's queue over the network.
        ({"value": (1, "Source"), 17: object()}, {"value": [1, "Source"], "17": None}),
        ({"bytes": "ü".encode() + b"\xff"}, {"bytes": "ü\N{REPLACEMENT CHARACTER}"}),
    ],
)
def test_what_json_has_no_word_for(message: Any, comes_out: Any) -> None:
    assert decode(encode(message)) == comes_out


def test_a_loop_is_refused() -> None:
    message: dict[str, Any] = {}
    message["itself"] = message
    with pytest.raises(ValueError, match="Circular"):
        encode(message)
