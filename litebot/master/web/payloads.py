"""What a change hook may be sent: the keys that Buildbot's dialects read, and their types.

Buildbot's read them as they come, so that a number becomes an author and a missing key a traceback.
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
class Maybe:
    """A shape, or null."""

    shape: Any


# A shape is a type or a tuple of them, a list of one shape, or the keys of an object, of which one
# with "?" may be missing.
TEXT = str
PERSON = {"name": TEXT, "email": Maybe(TEXT)}
FILES = {"added?": Maybe([TEXT]), "modified?": Maybe([TEXT]), "removed?": Maybe([TEXT])}
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
    # Of a new branch it is the only commit that is read.
    "head_commit?": Maybe(
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
        "body": Maybe(TEXT),
        "commits": int,
        "created_at": TEXT,
        "base": {"ref": TEXT, "repo": {"full_name": TEXT}},
        "head": {"sha": TEXT},
        "_links": {"html": {"href": TEXT}},
    },
}

GITLAB_PUSH = {
    "ref": TEXT,
    "user_name": Maybe(TEXT),
    "repository": {"name": TEXT, "url": TEXT},
    "commits": [COMMIT],
}
GITLAB_SIDE = {"name": TEXT, "git_http_url": TEXT, "git_ssh_url": TEXT}
GITLAB_REQUEST = {
    "iid": int,
    "title": TEXT,
    "description": Maybe(TEXT),
    "url?": TEXT,
    "source_branch": TEXT,
    "target_branch": TEXT,
    "source_project_id": int,
    "target_project_id": int,
    "source": GITLAB_SIDE,
    "target": GITLAB_SIDE,
    "last_commit": {"id": TEXT, "timestamp": TEXT, "author": PERSON},
}
GITLAB_MERGE_REQUEST = {
    "object_attributes": {**GITLAB_REQUEST, "state": TEXT, "action?": TEXT},
}
GITLAB_NOTE = {
    "object_attributes": {"id": int, "note": TEXT},
    "merge_request?": GITLAB_REQUEST,
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
            "branch": Maybe(TEXT),
            "files": [{"file": TEXT}],
        }
    ],
}

REF = Maybe({"type": TEXT, "name": TEXT, "target": {"hash": TEXT}})
PUSHED = {"changes": [{"new": REF, "old?": REF}]}
SIDE = {"branch?": {"name": TEXT}, "commit?": {"hash": TEXT}}
REQUEST = {"id": (int, str), "link": TEXT, "fromRef": SIDE, "toRef?": SIDE}
LINK = {"href": TEXT}

CLOUD = {
    "actor": {"display_name": TEXT, "nickname": TEXT},
    "repository": {
        "scm": TEXT,
        "links": {"self": LINK, "html?": LINK},
        "project?": {"name": TEXT},
    },
}
SERVER = {
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

REQUEST_EVENTS = tuple(
    f"pullrequest:{event}" for event in ("created", "updated", "fulfilled", "rejected")
)
CLOUD_REQUEST = {**CLOUD, "pullrequest": REQUEST}
SERVER_PUSH = {**SERVER, "push": PUSHED}
SERVER_REQUEST = {**SERVER, "pullrequest": REQUEST}

# By dialect and event; where there are no events, None.
SHAPES: dict[str, dict[str | None, Any]] = {
    "github": {"push": GITHUB_PUSH, "pull_request": GITHUB_PULL_REQUEST},
    "gitlab": {
        **dict.fromkeys(("push", "tag_push", "Push Hook"), GITLAB_PUSH),
        "merge_request": GITLAB_MERGE_REQUEST,
        "note": GITLAB_NOTE,
    },
    "bitbucketcloud": {
        "repo:push": {**CLOUD, "push": PUSHED},
        **dict.fromkeys(REQUEST_EVENTS, CLOUD_REQUEST),
    },
    "bitbucketserver": {
        **dict.fromkeys(("repo:push", "repo:refs_changed"), SERVER_PUSH),
        **dict.fromkeys(REQUEST_EVENTS, SERVER_REQUEST),
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
    """Raise ValueError, with the reason, where a dialect of Buildbot's can't read this request."""
    shapes = SHAPES.get(dialect)
    if shapes is None:
        return
    text = _text(dialect, request)
    if text is None:
        return  # the dialect says so
    payload = json.loads(text.decode("utf-8"), parse_constant=_no_number)
    if not isinstance(payload, dict):
        _refuse("the payload", payload, "an object")
    header = EVENT_HEADERS.get(dialect)
    event = bytes2unicode(request.getHeader(header)) if header else None
    if dialect == "gitlab":
        event = payload.get("object_kind", event)
    if event is not None and not isinstance(event, str):
        _refuse("object_kind", event, "a text")
    if event in shapes and not payload.get("deleted"):
        check_shape(shapes[event], payload)


def _text(dialect: str, request: Any) -> bytes | None:
    """The JSON as it was sent, or None for a content type that the dialect does not take."""
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


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


def _refuse(where: str, value: Any, wanted: str) -> NoReturn:
    if value is None:
        found = "null"
    elif isinstance(value, (dict, list)):
        found = "an object" if isinstance(value, dict) else "a list"
    else:
        found = KIND_NAMES.get(type(value), "a number")
    raise ValueError(f"{where} is {found}, and must be {wanted}")


KIND_NAMES = {str: "a text", int: "a whole number", bool: "true or false"}


def check_shape(shape: Any, value: Any, where: str = "") -> None:
    """Raise ValueError where a value of JSON has another shape; `where` names it."""
    if isinstance(shape, Maybe):
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
        if type(value) not in kinds:  # and not isinstance: true is no number
            _refuse(where, value, " or ".join(KIND_NAMES[kind] for kind in kinds))
        if isinstance(value, str):
            check_text(where, value)
        elif not SMALLEST <= value <= LARGEST:
            raise ValueError(f"{where} is too large a number")


def check_text(where: str, text: str) -> None:
    """Raise ValueError where no database takes a text."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where} has a character that is half of one") from error
    if "\0" in text:
        raise ValueError(f"{where} has a NUL character")
