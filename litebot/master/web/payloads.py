"""The payloads of change hooks: which keys Buildbot's dialects read, and of which types.

Buildbot reads payloads without checking them: a number can become an author, and a missing key ends
in a traceback.
Source: buildbot/www/hooks/
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from typing import NoReturn

from buildbot.util import bytes2unicode

from litebot.store.sql import LARGEST
from litebot.store.sql import SMALLEST


@dataclass(frozen=True)
class OrNull:
    """A shape that may also be null."""

    shape: Any


# A shape is a type, a tuple of types, a list with the shape of all its items, or a dict with the
# shapes of an object's keys.  A key that ends in "?" may be missing.
TEXT = str
PERSON = {"name": TEXT, "email": OrNull(TEXT)}
FILES = {"added?": OrNull([TEXT]), "modified?": OrNull([TEXT]), "removed?": OrNull([TEXT])}
COMMIT = {
    "id": TEXT,
    "message": TEXT,
    "timestamp": TEXT,
    "url": TEXT,
    "author": PERSON,
    "distinct?": bool,
    **FILES,
}

GITHUB_PUSH = {
    "ref": TEXT,
    "repository": {"name": TEXT, "html_url": TEXT, "full_name": TEXT},
    "commits": [{**COMMIT, "committer": PERSON}],
    # For a new branch this is the only commit that Buildbot reads.
    "head_commit?": OrNull(
        {
            "id?": TEXT,
            "message?": TEXT,
            "timestamp?": TEXT,
            "url?": TEXT,
            "author?": PERSON,
            "committer?": PERSON,
            **FILES,
        }
    ),
}
GITHUB_PULL_REQUEST = {
    "action?": TEXT,
    "number": int,
    "repository": {"full_name": TEXT, "html_url": TEXT},
    "sender": {"login": TEXT},
    "pull_request": {
        "title": TEXT,
        "body": OrNull(TEXT),
        "commits": int,
        "created_at": TEXT,
        "base": {"ref": TEXT, "repo": {"full_name": TEXT}},
        "head": {"sha": TEXT},
        "_links": {"html": {"href": TEXT}},
    },
}

GITLAB_PUSH = {
    "ref": TEXT,
    "user_name": OrNull(TEXT),
    "repository": {"name": TEXT, "url": TEXT},
    "commits": [COMMIT],
}
GITLAB_MERGE_SIDE = {"name": TEXT, "git_http_url": TEXT, "git_ssh_url": TEXT}
GITLAB_MERGE_ATTRIBUTES = {
    "iid": int,
    "title": TEXT,
    "description": OrNull(TEXT),
    "url?": TEXT,
    "source_branch": TEXT,
    "target_branch": TEXT,
    "source_project_id": int,
    "target_project_id": int,
    "source": GITLAB_MERGE_SIDE,
    "target": GITLAB_MERGE_SIDE,
    "last_commit": {"id": TEXT, "timestamp": TEXT, "author": PERSON},
}
GITLAB_MERGE_REQUEST = {
    "object_attributes": {**GITLAB_MERGE_ATTRIBUTES, "state": TEXT, "action?": TEXT},
}
GITLAB_NOTE = {
    "object_attributes": {"id": int, "note": TEXT},
    "merge_request?": GITLAB_MERGE_ATTRIBUTES,
}

BITBUCKET = {
    "canon_url": TEXT,
    "repository": {"absolute_url": TEXT, "scm": TEXT},
    "commits": [
        {
            "raw_author": TEXT,
            "message": TEXT,
            "raw_node": TEXT,
            "node": TEXT,
            "utctimestamp": TEXT,
            "branch": OrNull(TEXT),
            "files": [{"file": TEXT}],
        }
    ],
}

OPTIONAL_REF = OrNull({"type": TEXT, "name": TEXT, "target": {"hash": TEXT}})
PUSH_CHANGES = {"changes": [{"new": OPTIONAL_REF, "old?": OPTIONAL_REF}]}
PULL_REQUEST_SIDE = {"branch?": {"name": TEXT}, "commit?": {"hash": TEXT}}
PULL_REQUEST = {
    "id": (int, str),
    "link": TEXT,
    "fromRef": PULL_REQUEST_SIDE,
    "toRef?": PULL_REQUEST_SIDE,
}
LINK = {"href": TEXT}

BITBUCKET_CLOUD = {
    "actor": {"display_name": TEXT, "nickname": TEXT},
    "repository": {
        "scm": TEXT,
        "links": {"self": LINK, "html?": LINK},
        "project?": {"name": TEXT},
    },
}
BITBUCKET_SERVER = {
    "actor": {"displayName": TEXT, "username": TEXT},
    "repository": {"scmId": TEXT, "links": {"self": [LINK]}, "project": {"name": TEXT}},
}

GITORIOUS = {
    "after": TEXT,
    "ref": TEXT,
    "project": {"name": TEXT},
    "repository": {"name": TEXT, "url": TEXT, "owner": {"name": TEXT}},
    "commits": [
        {"id": TEXT, "message": TEXT, "timestamp": TEXT, "url": TEXT, "author": PERSON},
    ],
}

PULL_REQUEST_EVENTS = tuple(
    f"pullrequest:{event}" for event in ("created", "updated", "fulfilled", "rejected")
)
BITBUCKET_CLOUD_PULL_REQUEST = {**BITBUCKET_CLOUD, "pullrequest": PULL_REQUEST}
BITBUCKET_SERVER_PUSH = {**BITBUCKET_SERVER, "push": PUSH_CHANGES}
BITBUCKET_SERVER_PULL_REQUEST = {**BITBUCKET_SERVER, "pullrequest": PULL_REQUEST}

# By dialect and event.  The event is None for a dialect without events.
SHAPES: dict[str, dict[str | None, Any]] = {
    "github": {"push": GITHUB_PUSH, "pull_request": GITHUB_PULL_REQUEST},
    "gitlab": {
        **dict.fromkeys(("push", "tag_push", "Push Hook"), GITLAB_PUSH),
        "merge_request": GITLAB_MERGE_REQUEST,
        "note": GITLAB_NOTE,
    },
    "bitbucketcloud": {
        "repo:push": {**BITBUCKET_CLOUD, "push": PUSH_CHANGES},
        **dict.fromkeys(PULL_REQUEST_EVENTS, BITBUCKET_CLOUD_PULL_REQUEST),
    },
    "bitbucketserver": {
        **dict.fromkeys(("repo:push", "repo:refs_changed"), BITBUCKET_SERVER_PUSH),
        **dict.fromkeys(PULL_REQUEST_EVENTS, BITBUCKET_SERVER_PULL_REQUEST),
    },
    "bitbucket": {None: BITBUCKET},
    "gitorious": {None: GITORIOUS},
}
EVENT_HEADERS = {
    "github": b"X-GitHub-Event",
    "gitlab": b"X-Gitlab-Event",
    "bitbucketcloud": b"X-Event-Key",
    "bitbucketserver": b"X-Event-Key",
}


def check(dialect: str, request: Any) -> None:
    """Raise ValueError, with the reason, if a dialect of Buildbot's can't read this request."""
    shapes = SHAPES.get(dialect)
    if shapes is None:
        return
    text = _json_of(dialect, request)
    if text is None:
        return  # the dialect refuses the content type itself
    payload = json.loads(text.decode("utf-8"), parse_constant=_refuse_constant)
    if not isinstance(payload, dict):
        _refuse("the payload", payload, "an object")
    header = EVENT_HEADERS.get(dialect)
    event = bytes2unicode(request.getHeader(header)) if header else None
    if dialect == "gitlab":
        event = payload.get("object_kind", event)
    if event is not None and not isinstance(event, str):
        _refuse("object_kind", event, "a string")
    if event in shapes and not payload.get("deleted"):
        check_shape(shapes[event], payload)


def _json_of(dialect: str, request: Any) -> bytes | None:
    """Return the JSON of a request, or None for a content type that the dialect refuses."""
    kind = bytes2unicode(request.getHeader(b"Content-Type")) or ""
    is_form = kind.startswith("application/x-www-form-urlencoded")
    if dialect in {"bitbucket", "gitorious"} or (dialect == "github" and is_form):
        if not request.args.get(b"payload"):
            raise ValueError("the form has no field 'payload' with the JSON")
        return bytes(request.args[b"payload"][0])
    if dialect != "gitlab" and not kind.startswith("application/json"):
        return None
    text: bytes = request.content.read()
    request.content.seek(0)
    return text


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")


def _refuse(where: str, value: Any, wanted: str) -> NoReturn:
    if value is None:
        found = "null"
    elif isinstance(value, (dict, list)):
        found = "an object" if isinstance(value, dict) else "a list"
    else:
        found = TYPE_NAMES.get(type(value), "a number")
    raise ValueError(f"{where} is {found}; it must be {wanted}")


TYPE_NAMES = {str: "a string", int: "a whole number", bool: "true or false"}


def check_shape(shape: Any, value: Any, where: str = "") -> None:
    """Raise ValueError if a JSON value does not have this shape; `where` names the value."""
    if isinstance(shape, OrNull):
        if value is not None:
            check_shape(shape.shape, value, where)
    elif isinstance(shape, list):
        if not isinstance(value, list):
            _refuse(where, value, "a list")
        for index, each in enumerate(value):
            check_shape(shape[0], each, f"{where}[{index}]")
    elif isinstance(shape, dict):
        if not isinstance(value, dict):
            _refuse(where, value, "an object")
        for key, inner in shape.items():
            name = key.removesuffix("?")
            at = f"{where}.{name}" if where else name
            if name in value:
                check_shape(inner, value[name], at)
            elif name == key:
                raise ValueError(f"{at} is missing")
    else:
        kinds = shape if isinstance(shape, tuple) else (shape,)
        if type(value) not in kinds:  # isinstance would take true for a number
            _refuse(where, value, " or ".join(TYPE_NAMES[kind] for kind in kinds))
        if isinstance(value, str):
            check_text(where, value)
        elif not SMALLEST <= value <= LARGEST:
            raise ValueError(f"{where} must be a number that fits in 64 bits")


def check_text(where: str, text: str) -> None:
    """Raise ValueError if no database can store a text; `where` names it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where} has half of a surrogate pair, which is no character") from error
    if "\0" in text:
        raise ValueError(f"{where} has a NUL character")
