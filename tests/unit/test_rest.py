"""What the REST API makes JSON of: the same values as Buildbot's."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from buildbot.util import UTC
from buildbot.util import toJson
from hypothesis import example
from hypothesis import given
from hypothesis import strategies as st

from litebot.master.web.encoding import encode
from litebot.master.web.rest import body_of

TEXTS = st.text(st.characters(codec=None))  # a file name that is no UTF-8 has lone surrogates
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
TIMES = st.datetimes(timezones=st.just(UTC), min_value=datetime.datetime(1970, 1, 1))
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS | TIMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
ROWS = st.dictionaries(TEXTS, VALUES, max_size=4)


def buildbots(value: Any) -> Any:
    return json.loads(json.dumps(value, default=toJson, sort_keys=True))


# A time that no float tells from the next second.
FAR = datetime.datetime(6326, 1, 1, 0, 0, 0, 999_985, UTC)


@given(row=ROWS, indent=st.booleans())
@example(row={"complete_at": FAR}, indent=False)
def test_a_row_says_what_buildbots_says(row: dict[str, Any], indent: bool) -> None:
    assert json.loads(encode(row, indent)) == buildbots(row)


@given(rows=st.lists(ROWS, max_size=3), indent=st.booleans())
def test_an_answer_is_one_document(rows: list[dict[str, Any]], indent: bool) -> None:
    body = body_of("builds", rows, {"total": len(rows)}, indent)
    assert json.loads(body) == {"builds": buildbots(rows), "meta": {"total": len(rows)}}


def test_keys_are_in_order_and_a_reader_has_lines() -> None:
    row = {"b": 1, "a": {"d": [], "c": None}}
    assert encode(row, indent=False) == b'{"a":{"c":null,"d":[]},"b":1}'
    assert encode(row, indent=True).count(b"\n") == 6


@pytest.mark.parametrize("value", [2**64, -(2**70), "\udcff", object(), {1: "a"}])
def test_what_the_fast_encoder_refuses(value: Any) -> None:
    assert json.loads(encode({"a": value}, indent=False)) == buildbots({"a": value})


def test_what_is_no_number_is_nothing() -> None:
    # Buildbot answers NaN, which is no JSON.
    assert encode({"a": float("nan"), "b": (1, 2)}, indent=False) == b'{"a":null,"b":[1,2]}'
