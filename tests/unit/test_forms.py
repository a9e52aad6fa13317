"""Forms are read as Twisted reads them, with limits."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.web import http

from litebot.master.web import forms

PLAIN = b"application/x-www-form-urlencoded"
MULTIPART = b"multipart/form-data; boundary=xyz"

PIECES = st.sampled_from(
    [b"a", b"b", b"=", b"&", b";", b"+", b"%41", b"%e4", b"%", b"%zz", b"\xff"]
)


@given(st.lists(PIECES, max_size=30))
def test_a_form_is_read_as_twisted_reads_it(pieces: list[bytes]) -> None:
    body = b"".join(pieces)
    parse: Any = http.parse_qs
    assert forms.parse(PLAIN, body) == parse(body, 1)


@pytest.mark.parametrize("shift", range(4))
def test_a_value_is_unquoted_in_pieces(shift: int) -> None:
    count = forms.PIECE_BYTES
    body = b"a=" + b"x" * shift + b"%e4%" * count + b"+"
    assert forms.parse(PLAIN, body) == {b"a": [b"x" * shift + b"\xe4%" * count + b" "]}


def part(head: bytes, value: bytes) -> bytes:
    return b"--xyz\r\nContent-Disposition: form-data; " + head + b"\r\n\r\n" + value + b"\r\n"


def test_a_multipart_form() -> None:
    body = (
        b"ignored\r\n"
        + part(b'name="a"', b"1\r\n\r\n--xy")
        + part(b'name="a"; filename="f"\r\nContent-Type: text/plain', b"\xff")
        + part(b"name=b", b"")
        + b"--xyz--\r\nignored"
    )
    assert forms.parse(MULTIPART, body) == {b"a": [b"1\r\n\r\n--xy", b"\xff"], b"b": [b""]}


@pytest.mark.parametrize(
    ("kind", "body", "reason"),
    [
        (PLAIN, b"a=1&" * 2000, "more than 1,000 fields"),
        (MULTIPART, 2000 * part(b"name=a", b"") + b"--xyz--", "more than 1,000 fields"),
        (MULTIPART, part(b"name=a", b""), "cut off"),
        (MULTIPART, b"x", "cut off"),
        (MULTIPART, part(b"name=a; x=" + b"y" * 5000, b"") + b"--xyz--", "cut off"),
        (b"multipart/form-data", b"x", "no boundary"),
    ],
)
def test_a_form_that_is_refused(kind: bytes, body: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        forms.parse(kind, body)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (None, None),
        (b"text/plain", None),
        (b"Application/X-WWW-Form-URLencoded; charset=utf-8", PLAIN),
        (b"multipart/form-data", forms.MULTIPART),
    ],
)
def test_kinds(kind: bytes | None, expected: bytes | None) -> None:
    assert forms.kind_of(kind) == expected
