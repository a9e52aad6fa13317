"""The text of a log in pieces of bounded size, even where a chunk has one line of many megabytes.

A chunk has up to 64 KiB of text, or one longer line that can be compressed to that.  What is
compressed with gzip, bzip2 or zstd is then decompressed a piece at a time.
"""

from __future__ import annotations

import bz2
import codecs
import zlib
from collections.abc import Iterator
from itertools import chain
from typing import Any

from buildbot.db.compression import BZipCompressor
from buildbot.db.compression import GZipCompressor
from buildbot.db.compression import ZStdCompressor

# The most characters in a piece.
PIECE_CHARS = 128 * 1024
# Chunks of up to this size are decompressed at once; they are shorter unless they have one line.
WHOLE_BYTES = 256 * 1024


def texts(
    chunks: list[tuple[int, int, bytes, Any]], first_line: int, last_line: int, *, strip: bool
) -> Iterator[str]:
    """Yield the text of the lines in this range, in pieces.

    Each chunk is the number of its first and of its last line, its content, and its compressor.
    `strip` leaves out the first character of each line, which is the stream of a "s" log.
    """
    gathered: list[str] = []
    size = 0
    for start, end, content, compressor in chunks:
        wanted = range(max(0, first_line - start), min(end, last_line) - start + 1)
        is_whole = wanted == range(end - start + 1)
        for text in _of_chunk(content, compressor, wanted, is_whole=is_whole, strip=strip):
            gathered.append(text)
            size += len(text)
            if size >= PIECE_CHARS:
                yield "".join(gathered)
                gathered, size = [], 0
    if gathered:
        yield "".join(gathered)


def _of_chunk(
    content: bytes, compressor: Any, wanted: range, *, is_whole: bool, strip: bool
) -> Iterator[str]:
    parts = _decompressed(content, compressor)
    first = next(parts, b"")
    second = next(parts, None)
    if second is not None:
        yield from _of_long_chunk(chain((first, second), parts), wanted, strip=strip)
        return
    text = first.decode()
    if is_whole and not strip:
        yield f"{text}\n"
        return
    lines = text.split("\n")[wanted.start : wanted.stop]
    # A line without a stream has nothing but its newline, which Buildbot leaves out then, too.
    yield "".join([f"{line}\n"[1:] if strip else f"{line}\n" for line in lines])


def _of_long_chunk(parts: Iterator[bytes], wanted: range, *, strip: bool) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    number, at_start = 0, strip  # the line that goes on, and whether to leave out what comes next
    for part in parts:
        found = []
        for index, text in enumerate(decoder.decode(part).split("\n")):
            if index:
                if number in wanted and not at_start:
                    found.append("\n")
                number, at_start = number + 1, strip
            if text:
                if number in wanted:
                    found.append(text[1:] if at_start else text)
                at_start = False
        yield "".join(found)
    if number in wanted and not at_start:
        yield "\n"


def _decompressed(content: bytes, compressor: Any) -> Iterator[bytes]:
    """Yield the text in parts of up to WHOLE_BYTES, if the compressor can do that."""
    if compressor is GZipCompressor:
        yield from _inflated(content)
    elif compressor is BZipCompressor:
        machine = bz2.BZ2Decompressor()
        while not machine.eof:
            yield machine.decompress(content, WHOLE_BYTES)
            content = b""
    elif compressor is ZStdCompressor:
        import zstandard

        with zstandard.ZstdDecompressor().stream_reader(content) as reader:
            while part := reader.read(WHOLE_BYTES):
                yield part
    else:
        yield compressor.read(content)


def _inflated(content: bytes) -> Iterator[bytes]:
    machine = zlib.decompressobj()
    while not machine.eof:
        part = machine.decompress(content, WHOLE_BYTES)
        content = machine.unconsumed_tail
        if not part and not content and not machine.eof:
            raise zlib.error("the chunk of a log is cut off")
        yield part
