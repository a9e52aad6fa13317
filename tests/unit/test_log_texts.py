"""The text of a log in pieces: the same characters as all of its lines, however they are stored."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from buildbot.db import compression
from buildbot.db.logs import RawCompressor

from litebot.master.db.components.log_texts import PIECE_CHARS
from litebot.master.db.components.log_texts import WHOLE_BYTES
from litebot.master.db.components.log_texts import texts

COMPRESSORS = [RawCompressor, compression.GZipCompressor, compression.BZipCompressor]
LONG = "o" + "so long \N{EURO SIGN} " * 400_000
MEMORY_BYTES = 3 * WHOLE_BYTES
Chunk = tuple[int, int, bytes, Any]


def chunks_of(lines: list[str], sizes: list[int], compressor: Any) -> Iterator[Chunk]:
    start = 0
    for size in sizes:
        some = lines[start : start + size]
        yield start, start + size - 1, compressor.dumps("\n".join(some).encode()), compressor
        start += size
    assert start == len(lines)


@pytest.mark.parametrize("compressor", COMPRESSORS)
@pytest.mark.parametrize("strip", [False, True])
def test_all_lines_of_a_range(compressor: Any, strip: bool) -> None:
    chance = random.Random(17)
    lines = [f"o{'x' * chance.randrange(90)}\N{SNOWMAN}" for _ in range(3000)]
    lines[5], lines[100] = "", "o"
    chunks = list(chunks_of(lines, [1, 9, 90, 900, 2000], compressor))
    for first, last in [(0, 2999), (0, 2**62), (0, 0), (5, 5), (7, 2500), (100, 999), (2999, 4000)]:
        whole = "".join(f"{line}\n"[int(strip) :] for line in lines[first : last + 1])
        touched = [chunk for chunk in chunks if chunk[1] >= first and chunk[0] <= last]
        assert "".join(texts(touched, first, last, strip=strip)) == whole


@pytest.mark.parametrize("compressor", COMPRESSORS[1:])
@pytest.mark.parametrize("strip", [False, True])
def test_one_line_of_megabytes_comes_in_pieces(compressor: Any, strip: bool) -> None:
    lines = ["before", LONG, "", "after"]
    chunks = list(chunks_of(lines, [1, 1, 2], compressor))
    pieces = list(texts(chunks, 0, 3, strip=strip))
    assert "".join(pieces) == "".join(f"{line}\n"[int(strip) :] for line in lines)
    assert max(map(len, pieces)) <= WHOLE_BYTES + PIECE_CHARS


@pytest.mark.parametrize("strip", [False, True])
def test_lines_in_one_long_chunk(strip: bool) -> None:
    lines = ["o1", LONG, "", LONG, "o2", "", ""]
    chunks = list(chunks_of(lines, [len(lines)], compression.GZipCompressor))
    for first, last in [(0, 6), (1, 1), (2, 3), (3, 5), (6, 6)]:
        whole = "".join(f"{line}\n"[int(strip) :] for line in lines[first : last + 1])
        assert "".join(texts(chunks, first, last, strip=strip)) == whole


def test_a_chunk_that_is_cut_off_is_an_error() -> None:
    chunk = (0, 0, compression.GZipCompressor.dumps(LONG.encode())[:-9], compression.GZipCompressor)
    with pytest.raises(Exception, match="cut off"):
        list(texts([chunk], 0, 0, strip=False))
