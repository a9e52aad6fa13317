"""The keys of a project as fields of a form, and back; and what differs between two projects."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from litebot.errors import LitebotError
from litebot.master.pages.request import PageRequest
from litebot.projects.addresses import shown
from litebot.projects.definition import KEYS
from litebot.projects.definition import Project

# In which groups a form shows the keys; those in none come last.
GROUPS = (
    ("Repository", ("url", "branch", "branches", "tags", "pull_requests", "poll", "enabled")),
    ("Builds", ("steps", "workers", "timeout", "at_once", "replace")),
    ("Secrets", ("key", "host_key", "password", "secrets")),
    ("Telling", ("tell",)),
)
NOT_CHANGED = "(not changed)"
# They have the names of secrets in them, and addresses.
SECRETS = frozenset((*GROUPS[2][1], *GROUPS[3][1]))
# Lists whose entries have spaces in them: a field has one a line.
LINES = frozenset({"tell"})


@dataclass(frozen=True)
class Field:
    """A field of a form: its kind is "text", "number", "lines" or "box", its value is text."""

    key: str
    label: str
    doc: str
    kind: str
    value: str
    is_required: bool
    error: str = ""


def fields_of(
    values: Mapping[str, Any], faults: Mapping[str, LitebotError] | None = None
) -> dict[str, Field]:
    """Return the fields of all keys, with values and with what is wrong with them."""
    found = {}
    for key, known in KEYS.items():
        fault = (faults or {}).get(key)
        error = "" if fault is None else "\n".join(filter(None, (fault.what, fault.hint)))
        label, doc = known.metadata["label"], known.metadata["doc"]
        text = _written(key, values.get(key, known.default))
        is_required = key == "url" or known.default not in ("", ())
        found[key] = Field(key, label, doc, _kind(key), text, is_required, error)
    return found


def groups_of(fields: Mapping[str, Field]) -> list[tuple[str, list[Field]]]:
    """Return all fields in the groups of a form."""
    grouped = [key for _, keys in GROUPS for key in keys]
    others = ("More", tuple(key for key in fields if key not in grouped))
    found = [
        (title, [fields[key] for key in keys if key in fields]) for title, keys in (*GROUPS, others)
    ]
    return [(title, fields) for title, fields in found if fields]


def values_in(request: PageRequest) -> dict[str, Any]:
    """Return the values that a form has for keys of a project, as `from_values` takes them.

    A key whose field the form does not have is left out; for a box, a hidden field of its name says
    that the form has it.
    """
    return {key: _value(request, key) for key in KEYS if request.has(key)}


def _kind(key: str) -> str:
    default = KEYS[key].default
    if key == "steps" or key in LINES:
        return "lines"
    return {bool: "box", int: "number"}.get(type(default), "text")


def _value(request: PageRequest, key: str) -> Any:
    default, text = KEYS[key].default, request.value(key)
    if isinstance(default, bool):
        return text == "yes"
    if key in LINES:
        return tuple(filter(None, (" ".join(line.split()) for line in text.splitlines())))
    if isinstance(default, tuple):
        return tuple(filter(None, re.split(r"[\s,]+", text)))
    if isinstance(default, int):
        return int(text) if re.fullmatch(r"\s*[0-9]{1,9}\s*", text) else text
    return text if key == "steps" else text.strip()


def _written(key: str, value: Any) -> str:
    """Return a value as a field has it."""
    if isinstance(value, bool):
        return "yes" if value else ""
    joint = "\n" if key in LINES else ", "
    return joint.join(value) if isinstance(value, tuple | list) else str(value)


@dataclass(frozen=True)
class Difference:
    """A key in which projects differ; values are as people read them.

    `is_clash` says that both sides have changed it.
    """

    label: str
    before: str
    theirs: str
    mine: str = ""
    is_clash: bool = False


def hidden_keys(is_admin: bool) -> frozenset[str]:
    """Return the keys that a user does not see: who is no admin need not know names of secrets."""
    return frozenset() if is_admin else SECRETS


def shown_value(key: str, value: Any) -> str:
    """Return a value as people read it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return shown(value) if key == "url" else _written(key, value) or "(none)"


def changes(
    before: Project | None, after: Project | None, hidden: Collection[str] = ()
) -> list[Difference]:
    """Return what a version changes, but for some keys; nothing where it adds or removes."""
    if before is None or after is None:
        return []
    return [
        Difference(KEYS[key].metadata["label"], *_pair(key, old, new))
        for key, old, new in _both(before, after)
        if old != new and key not in hidden
    ]


def _both(one: Project, other: Project) -> Iterator[tuple[str, Any, Any]]:
    for key, value in one.values().items():
        yield key, value, getattr(other, key)


def _pair(key: str, old: Any, new: Any) -> tuple[str, str]:
    """Return two values; of steps only the lines that differ."""
    if key != "steps" or not old or not new:
        return shown_value(key, old), shown_value(key, new)
    lines = list(difflib.ndiff(old.splitlines(), new.splitlines()))
    return (
        "\n".join(line[2:] for line in lines if line.startswith("- ")) or "(nothing)",
        "\n".join(line[2:] for line in lines if line.startswith("+ ")) or "(nothing)",
    )


def clashes(base: Project, theirs: Project, mine: Mapping[str, Any]) -> list[Difference]:
    """Return what somebody else has saved since `base`, and what is to be saved now.

    Where both say the same, there is nothing to choose.
    """
    found = []
    for key, old, new in _both(base, theirs):
        ours = mine.get(key, old)
        if ours != new:
            label, is_clash = KEYS[key].metadata["label"], old not in (ours, new)
            before, theirs_now = _pair(key, old, ours if old == new else new)
            if old == new:
                theirs_now = NOT_CHANGED
            mine_now = NOT_CHANGED if ours == old else _pair(key, old, ours)[1]
            found.append(Difference(label, before, theirs_now, mine_now, is_clash))
    return found


def merged(base: Project, theirs: Project, mine: Mapping[str, Any]) -> dict[str, Any]:
    """Return their values, but mine where I have changed something."""
    return {
        key: mine[key] if key in mine and mine[key] != old else new
        for key, old, new in _both(base, theirs)
    }
