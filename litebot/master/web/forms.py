"""Forms in the bodies of requests: read with little memory, and only where somebody needs them.

Twisted reads the form of every POST, whatever it is for, on the reactor's thread and in copies that
are many times as large.
"""

from __future__ import annotations

import re
from email.parser import BytesHeaderParser
from urllib.parse import unquote_to_bytes

URL_ENCODED = b"application/x-www-form-urlencoded"
MULTIPART = b"multipart/form-data"
# A change has a dozen fields.
MOST_FIELDS = 1000
LONGEST_HEADERS = 4096  # of a field of a multipart form
# How much is unquoted at a time: each `%` of it takes about 60 bytes meanwhile.
PIECE_BYTES = 1 << 16

Form = dict[bytes, list[bytes]]


def kind_of(content_type: bytes | None) -> bytes | None:
    """Return which of the two kinds of forms a Content-Type names, or None."""
    kind = (content_type or b"").partition(b";")[0].strip().lower()
    return kind if kind in (URL_ENCODED, MULTIPART) else None


def parse(content_type: bytes, body: bytes) -> Form:
    """Return the values of a form by its names; raises ValueError, with the reason."""
    return _multipart(content_type, body) if kind_of(content_type) == MULTIPART else _plain(body)


def _plain(body: bytes) -> Form:
    _limit(body.count(b"&") + body.count(b";"))
    form: Form = {}
    for item in re.split(b"[&;]", body):
        name, is_field, value = item.partition(b"=")
        if is_field:
            form.setdefault(_unquoted(name), []).append(_unquoted(value))
    return form


def _unquoted(text: bytes) -> bytes:
    text = text.replace(b"+", b" ")
    if b"%" not in text:
        return text
    pieces, start = [], 0
    while start < len(text):
        end = start + PIECE_BYTES
        split = text.rfind(b"%", end - 2, end)  # a sequence that would be cut
        end = end if split < 0 else split
        pieces.append(unquote_to_bytes(text[start:end]))
        start = end
    return b"".join(pieces)


def _multipart(content_type: bytes, body: bytes) -> Form:
    """Read multipart/form-data.  Source: RFC 7578, and RFC 2046 section 5.1.1"""
    found = re.search(rb'boundary="?([^";\r\n]{1,70})"?', content_type, re.IGNORECASE)
    if found is None:
        raise ValueError("the form has no boundary in its content-type")
    delimiter = b"\r\n--" + found[1].strip()
    body = b"\r\n" + body
    _limit(body.count(delimiter))
    form: Form = {}
    for part in body.split(delimiter)[1:]:
        if part.startswith(b"--"):
            return form
        head, has_end, value = part.partition(b"\r\n\r\n")
        if not has_end or len(head) > LONGEST_HEADERS:
            break
        headers = BytesHeaderParser().parsebytes(head.lstrip(b"\r\n"))
        name = headers.get_param("name", header="content-disposition")
        if isinstance(name, str):
            form.setdefault(name.encode(errors="surrogateescape"), []).append(value)
    raise ValueError("the form is not multipart/form-data, or is cut off")


def _limit(fields: int) -> None:
    if fields > MOST_FIELDS:
        raise ValueError(f"the form has more than {MOST_FIELDS:,} fields")
