"""The content of logs in the data API, read in pieces of bounded size.

Source: buildbot/data/logchunks.py, whose endpoints these keep.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any
from typing import ClassVar

from buildbot.data import base
from buildbot.data import logchunks
from buildbot.db.logs import LogModel


class LogChunkEndpoint(logchunks.LogChunkEndpoint):
    """Buildbot's, whose content can also be read in pieces."""

    pathPatterns: ClassVar[list[str]] = logchunks.LogChunkEndpoint.pathPatterns
    rootLinkName = logchunks.LogChunkEndpoint.rootLinkName

    async def get_texts(
        self, spec: Any, kwargs: dict[str, Any]
    ) -> tuple[dict[str, Any], AsyncGenerator[str, None]] | None:
        """Do as get, but return the row with an empty content, and pieces of the content."""
        retriever = base.NestedBuildDataRetriever(self.master, kwargs)
        logid = await retriever.get_log_id()
        if logid is None:
            return None
        first = int(spec.offset or 0)
        if spec.limit is not None:
            last = first + int(spec.limit) - 1
        else:
            log = await retriever.get_log_dict()
            if log is None:
                return None
            last = max(0, log.num_lines - 1)
        spec.removePagination()
        if first > last:
            return None
        row = {"logid": logid, "firstline": first, "content": ""}
        return row, self.master.db.logs.iter_texts(logid, first, last)


class _Raw(logchunks.LogChunkEndpointBase):
    """A mixin with many lines in each piece, where Buildbot has one."""

    async def get_log_lines(self, log_dict: LogModel, log_prefix: str) -> AsyncGenerator[str, None]:
        """Yield the lines as Buildbot does, but many at once."""
        if log_prefix:
            yield log_prefix
        strip = log_dict.type == "s"
        async for text in self.master.db.logs.iter_texts(log_dict.id, strip=strip):
            yield text


class RawLogChunkEndpoint(_Raw, logchunks.RawLogChunkEndpoint):
    """Buildbot's, in pieces."""

    pathPatterns: ClassVar[list[str]] = logchunks.RawLogChunkEndpoint.pathPatterns


class RawInlineLogChunkEndpoint(_Raw, logchunks.RawInlineLogChunkEndpoint):
    """Buildbot's, in pieces."""

    pathPatterns: ClassVar[list[str]] = logchunks.RawInlineLogChunkEndpoint.pathPatterns


class LogChunk(logchunks.LogChunk):
    """Buildbot's, with these endpoints."""

    endpoints: ClassVar[list[Any]] = [
        LogChunkEndpoint,
        RawLogChunkEndpoint,
        RawInlineLogChunkEndpoint,
    ]
