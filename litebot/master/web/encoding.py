"""JSON of the REST API and of events."""

from __future__ import annotations

import datetime
import json
from typing import Any

import orjson
from buildbot.util import toJson

from litebot.master.db.components.values import epoch_of

ORJSON_OPTIONS = (
    orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS
)


def encode(row: Any, indent: bool = False) -> bytes:
    """Encode a row as JSON in the way Buildbot does: with sorted keys, and times in seconds.

    NaN becomes null, as JSON has no NaN.  Strings with unpaired surrogates and integers beyond 64
    bits are left to the standard library, as orjson refuses them.
    """
    try:
        return orjson.dumps(
            row, _json_default, ORJSON_OPTIONS | (orjson.OPT_INDENT_2 if indent else 0)
        )
    except TypeError:
        return json.dumps(
            row, default=toJson, sort_keys=True, indent=2 if indent else None
        ).encode()


def _json_default(value: Any) -> Any:
    """Convert a value as Buildbot's toJson does, but times with a time zone faster."""
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        return epoch_of(value)
    return toJson(value)
