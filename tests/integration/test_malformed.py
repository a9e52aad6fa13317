"""What nobody can understand is answered 4xx and the reason, and leaves no trace."""

from __future__ import annotations

import copy
import json
import os
import random
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field
from http.server import BaseHTTPRequestHandler
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import urlencode

import pytest
import sqlalchemy as sa

from support.master import Master
from support.master import on_both
from support.visitor import Reply
from support.visitor import Visitor

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"

CONFIG = """
from buildbot.www.hooks.base import BaseHookHandler


class Own(BaseHookHandler):
    # Changes that are what the field "change" says in Python.
    def getChanges(self, request):
        return [eval(request.args[b"change"][0])], None


c["www"] = {
    "change_hook_dialects": {
        "base": True,
        "bitbucket": True,
        "bitbucketcloud": True,
        "bitbucketserver": True,
        "github": {"strict": False, "github_api_endpoint": "http://127.0.0.1:%d"},
        "gitlab": True,
        "gitorious": True,
        "own": {"custom_class": Own},
        "poller": True,
    }
}
c["change_source"] = []
"""

PERSON = {"name": "Ada", "email": "ada@example.org"}
COMMIT = {
    "id": "c0ffee",
    "message": "Ada was here",
    "timestamp": "2026-01-02T03:04:05Z",
    "url": "https://git.example.org/c0ffee",
    "author": PERSON,
}
SIDE = {"name": "r", "git_http_url": "https://git.example.org/r", "git_ssh_url": "git@r"}
REQUEST = {
    "iid": 7,
    "title": "Ada",
    "description": "d",
    "url": "https://git.example.org/7",
    "source_branch": "topic",
    "target_branch": "main",
    "source_project_id": 1,
    "target_project_id": 1,
    "source": SIDE,
    "target": SIDE,
    "last_commit": {"id": "c0ffee", "timestamp": "2026-01-02T03:04:05Z", "author": PERSON},
}
REF = {"type": "branch", "name": "main", "target": {"hash": "c0ffee"}}
PULL = {
    "id": 7,
    "link": "https://git.example.org/7",
    "fromRef": {"commit": {"hash": "c0ffee"}, "branch": {"name": "topic"}},
    "toRef": {"branch": {"name": "main"}},
}
CLOUD = {
    "actor": {"display_name": "Ada", "nickname": "ada"},
    "repository": {
        "scm": "git",
        "links": {"self": {"href": "https://api/r"}, "html": {"href": "https://r"}},
        "project": {"name": "p"},
    },
}
SERVER = {
    "actor": {"displayName": "Ada", "username": "ada"},
    "repository": {
        "scmId": "git",
        "links": {"self": [{"href": "https://r/browse"}]},
        "project": {"name": "p"},
    },
}
PUSHED = {"push": {"changes": [{"new": REF}]}}


@dataclass(frozen=True)
class Hook:
    """A dialect and a payload that it reads, in which every key is needed."""

    dialect: str
    payload: dict[str, Any]
    event: dict[str, str] = field(default_factory=dict)
    kind: str = JSON

    def request(self, text: bytes) -> tuple[str, bytes, dict[str, str]]:
        body = urlencode({"payload": text}).encode() if self.kind == FORM else text
        return f"/change_hook/{self.dialect}", body, {"Content_Type": self.kind, **self.event}


HOOKS = {
    "github push": Hook(
        "github",
        {
            "ref": "refs/heads/main",
            "repository": {"name": "r", "html_url": "https://r", "full_name": "o/r"},
            "head_commit": {**COMMIT, "committer": PERSON},
            "commits": [{**COMMIT, "committer": PERSON}],
        },
        {"X_GitHub_Event": "push"},
    ),
    "github pull request": Hook(
        "github",
        {
            "action": "opened",
            "number": 7,
            "repository": {"full_name": "o/r", "html_url": "https://r"},
            "sender": {"login": "ada"},
            "pull_request": {
                "title": "Ada",
                "body": "b",
                "commits": 1,
                "created_at": "2026-01-02T03:04:05Z",
                "base": {"ref": "main", "repo": {"full_name": "o/r"}},
                "head": {"sha": "c0ffee"},
                "_links": {"html": {"href": "https://r/7"}},
            },
        },
        {"X_GitHub_Event": "pull_request"},
    ),
    "gitlab push": Hook(
        "gitlab",
        {
            "ref": "refs/heads/main",
            "user_name": "Ada",
            "repository": {"name": "r", "url": "https://r"},
            "commits": [COMMIT],
        },
        {"X_Gitlab_Event": "Push Hook"},
    ),
    "gitlab merge request": Hook(
        "gitlab",
        {"object_attributes": {**REQUEST, "state": "opened", "action": "open"}},
        {"X_Gitlab_Event": "merge_request"},
    ),
    "gitlab note": Hook(
        "gitlab",
        {"object_attributes": {"id": 1, "note": "Ada"}, "merge_request": REQUEST},
        {"X_Gitlab_Event": "note"},
    ),
    "bitbucket": Hook(
        "bitbucket",
        {
            "canon_url": "https://bitbucket.example.org",
            "repository": {"absolute_url": "/r/", "scm": "git"},
            "commits": [
                {
                    "raw_author": "Ada",
                    "message": "m",
                    "raw_node": "c0ffee",
                    "node": "c0",
                    "utctimestamp": "2026-01-02 03:04:05+00:00",
                    "branch": "main",
                    "files": [{"file": "f"}],
                }
            ],
        },
        kind=FORM,
    ),
    "bitbucket cloud push": Hook(
        "bitbucketcloud", {**CLOUD, **PUSHED}, {"X_Event_Key": "repo:push"}
    ),
    "bitbucket cloud pull request": Hook(
        "bitbucketcloud", {**CLOUD, "pullrequest": PULL}, {"X_Event_Key": "pullrequest:created"}
    ),
    "bitbucket server push": Hook(
        "bitbucketserver", {**SERVER, **PUSHED}, {"X_Event_Key": "repo:refs_changed"}
    ),
    "bitbucket server pull request": Hook(
        "bitbucketserver", {**SERVER, "pullrequest": PULL}, {"X_Event_Key": "pullrequest:created"}
    ),
    "gitorious": Hook(
        "gitorious",
        {
            "after": "c0ffee",
            "ref": "main",
            "project": {"name": "p"},
            "repository": {"name": "r", "url": "https://r", "owner": {"name": "Ada"}},
            "commits": [COMMIT],
        },
        kind=FORM,
    ),
}

# Keys that a dialect may do without.
OPTIONAL = {"head_commit", "html", "project", "toRef", "branch", "action", "url", "merge_request"}

WRONG: dict[type, list[Any]] = {
    str: [5, True, [], {}, ["x"], 1.5],
    int: ["x", [], {}, 1.5, 10**30],
    dict: [5, "x", [], True, [{}]],
    list: [5, "x", {}, True, [5], ["x"]],
}


OWN_MALFORMED = (
    *('{"files": "ab"}', '{"files": b"ab"}', '{"files": 5}', '{"files": {5}}'),
    *('{"files": (5 for _ in "a")}', '{"revision": 1.5}', '{"revision": True}', '{"author": 5}'),
)


@dataclass(frozen=True)
class Case:
    """A request that can't be understood, and what is wrong with it."""

    name: str
    path: str
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def send(self, visitor: Visitor) -> Reply:
        method = "GET" if self.body is None else "POST"
        return visitor.request(method, self.path, self.body, **self.headers)


Place = tuple[Any, ...]


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    """The way to each value in a payload, but for the payload itself."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, each in inner:
        yield (*at, key)
        if isinstance(each, (dict, list)):
            yield from places(each, (*at, key))


def changed(payload: Any, place: Place, *value: Any) -> Any:
    """A payload with another value at a place, or without one there."""
    payload = copy.deepcopy(payload)
    holder = payload
    for key in place[:-1]:
        holder = holder[key]
    if value:
        holder[place[-1]] = value[0]
    else:
        del holder[place[-1]]
    return payload


def at(payload: Any, place: Place) -> Any:
    for key in place:
        payload = payload[key]
    return payload


def texts(hook: Hook, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """JSON that a dialect can't read."""
    payload = hook.payload
    good = json.dumps(payload).encode()
    every = list(places(payload))
    leaves = [place for place in every if isinstance(at(payload, place), str)]
    needed = [p for p in every if isinstance(p[-1], str) and p[-1] not in OPTIONAL]
    needed = [p for p in needed if not OPTIONAL & set(p)]
    yield "empty", b""
    yield "truncated", good[: rng.randrange(1, len(good))]
    yield "no UTF-8", good.replace(b"main", b"m\xff\xfein").replace(b"Ada", b"\xff")
    yield "nested", b"[" * 100_000
    yield "nested objects", b'{"a":' * 100_000
    for root in ("[]", "null", "5", '"x"', "true", "[{}]", "NaN", "9" * 5000):
        yield f"root {root[:5]}", root.encode()
    for place in rng.sample(needed, min(len(needed), 6)):
        yield f"without {place}", json.dumps(changed(payload, place)).encode()
    for place in rng.sample(every, min(len(every), 10)):
        wrong = rng.choice(WRONG[type(at(payload, place))])
        yield f"{place} is {wrong!r}", json.dumps(changed(payload, place, wrong)).encode()
    for bad in ("a\0b", "\ud800"):
        place = rng.choice(leaves)
        yield f"{place} is {bad!r}", json.dumps(changed(payload, place, bad)).encode()
    for place in every:
        if place[-1] in {"timestamp", "utctimestamp", "created_at"} and place[0] != "head_commit":
            for bad in ("yesterday", "99999-99-99", ""):
                yield f"{place} is {bad!r}", json.dumps(changed(payload, place, bad)).encode()


def hook_cases(rng: random.Random) -> Iterator[Case]:
    for name, hook in HOOKS.items():
        for what, text in texts(hook, rng):
            yield Case(f"{name}: {what}", *hook.request(text))
        path, body, headers = hook.request(json.dumps(hook.payload).encode())
        if hook.dialect in {"github", "bitbucketcloud", "bitbucketserver"}:
            yield Case(f"{name}: text", path, body, {**headers, "Content_Type": "text/plain"})
            event = next(iter(hook.event))
            yield Case(f"{name}: event", path, body, {**headers, event: "no-such:event"})
            yield Case(f"{name}: no event", path, body, {"Content_Type": JSON})
        if hook.kind == FORM:
            yield Case(f"{name}: JSON", path, json.dumps(hook.payload).encode(), headers | {})
    base = [
        ("nothing", b""),
        ("JSON", b'{"author": "Ada"}'),
        ("files no JSON", b"author=a&files=x"),
        ("files no list", b"author=a&files=5"),
        ("files of numbers", b"author=a&files=[5]"),
        ("files with NUL", b'author=a&files=["a\\u0000"]'),
        ("properties no object", b"author=a&properties=[1]"),
        ("properties no JSON", b"author=a&properties={"),
        ("properties nested", b"author=a&properties=" + b"[" * 100_000),
        ("properties NaN", b'author=a&properties={"a":NaN}'),
        ("properties half", b'author=a&properties={"a":"\\ud800"}'),
        ("when text", b"author=a&when=soon"),
        ("when infinite", b"author=a&when=inf"),
        ("when none", b"author=a&when=nan"),
        ("when huge", b"author=a&when=1e300"),
        ("author no UTF-8", b"author=%ff"),
        ("comments with NUL", b"author=a&comments=a%00b"),
        ("branch half", b"author=a&branch=%ed%a0%80"),
        ("only unknown", b"who_knows=1"),
    ]
    for what, body in base:
        yield Case(f"base: {what}", "/change_hook/base", body, {"Content_Type": FORM})
    yield Case("base: a text", "/change_hook/base", b"author=a", {"Content_Type": "text/plain"})
    yield Case("base: GET nothing", "/change_hook/base")
    yield Case("unknown dialect", "/change_hook/svnlook", b"author=a", {"Content_Type": FORM})
    yield Case("path no UTF-8", "/change_hook/%ff", b"author=%ff", {"Content_Type": FORM})
    for own in OWN_MALFORMED:
        body = urlencode({"change": own}).encode()
        yield Case(f"own: {own}", "/change_hook/own", body, {"Content_Type": FORM})
    for poller in (b"poller=none", b"poller=%ff", b"poller="):
        yield Case("poller", "/change_hook/poller", poller, {"Content_Type": FORM})


HUGE = "9" * 20
GETS = f"""
builders?limit=x builders?limit=-1 builders?limit={HUGE} builders?limit=1.5 builders?limit=
builders?offset=-1 builders?offset={HUGE} builders?field=nope builders?field= builders?order=
builders?order=nope builders?order=- builders?nope=1 builders?builderid__eq=x builders?%ff=1
builders?builderid={HUGE} builders?builderid__in=1&builderid__in={HUGE} builders?name=%ff
builders?name=%00 builders?name__nope=1 builders?nope__eq=1 builders?builderid__contains=1
builders?tags__lt=x builders/{HUGE} builds/{HUGE} builds/%ff builders/%ff/builds builders/b%00
builds?complete=maybe builds?property=%ff builds?started_at__gt=x builds?state_string=%ed%a0%80
builds?results={HUGE} builds?number=-{HUGE} builders/1/nope nope builders//1 builds/-1
logs/{HUGE}/contents logs/{HUGE}/raw masters/{HUGE} steps/{HUGE}/logs workers/{HUGE}
forceschedulers/%ff buildrequests?limit={HUGE} buildrequests/{HUGE} changes/{HUGE}
changes?when_timestamp__lt={HUGE} sourcestamps/{HUGE} schedulers/{HUGE} buildsets/{HUGE}
codebases/{HUGE} commits/{HUGE} builders/1/builds/{HUGE} builders/1?builderid=1 projects/{HUGE}
""".split()

CALL = {"jsonrpc": "2.0", "id": 1, "method": "force", "params": {"builderid": 1}}
BODIES: list[Any] = [
    *([], [1], None, 1, "x", {}, {**CALL, "params": []}, {**CALL, "params": None}),
    *({**CALL, "method": 5}, {**CALL, "method": "nope"}, {**CALL, "method": "a\0"}),
    *({**CALL, "id": {}}, {**CALL, "id": 1.5}, {**CALL, "jsonrpc": "1.0"}, {**CALL, "jsonrpc": 2}),
]
PARAMS: list[tuple[str, str, list[Any]]] = [
    (
        "forceschedulers/force",
        "force",
        [
            *({"builderid": "x"}, {"builderid": {}}, {"builderid": 99}, {"builderid": int(HUGE)}),
            *({"builderid": HUGE}, {"builderNames": 5}, {"builderNames": ["no"]}, {"self": 1}),
            *({"reason": {}}, {"reason": "\0"}, {"reason": "\ud800"}, {"reason": [[]]}),
            *({"branch": {}}, {"priority": "x"}, {"priority": int(HUGE)}, {"priority": {}}),
            *({"priority": None}, {"priority": HUGE}, {"owner": {}}, {"revision": [{}]}),
        ],
    ),
    ("builds/1", "stop", [{"reason": {}}, {"reason": 5}, {"reason": "\0"}]),
    ("builds/99", "stop", [{}]),
    ("builds/99", "rebuild", [{}]),
    (f"builds/{HUGE}", "rebuild", [{}]),
    ("builds/%ff", "stop", [{}]),
    ("buildrequests/1", "cancel", [{"reason": []}]),
    ("buildrequests/1", "stop", [{}]),
    ("buildrequests/99", "cancel", [{}]),
    (
        "buildrequests/1",
        "set_priority",
        [{}, {"priority": "x"}, {"priority": 1.5}, {"priority": int(HUGE)}, {"priority": True}],
    ),
    ("schedulers/1", "enable", [{}, {"enabled": "x"}, {"enabled": 5}, {"enabled": None}]),
    ("schedulers/99", "enable", [{"enabled": True}]),
    ("workers/1", "pause", [{"reason": {}}]),
    ("workers/99", "pause", [{}]),
    ("builders/1", "force", [{}]),
    ("changes", "add", [{}]),
    ("nope", "force", [{}]),
]


def rest_cases(rng: random.Random) -> Iterator[Case]:
    for path in GETS:
        yield Case(f"GET {path[:60]}", f"/api/v2/{path}")
    path, kind = "/api/v2/forceschedulers/force", {"Content_Type": JSON}
    good = json.dumps(CALL).encode()
    texts = [b"", b"\xff", good[: rng.randrange(1, len(good))], b"[" * 100_000, b"9" * 5000]
    for text in [*texts, b'{"a":' * 100_000, *(json.dumps(body).encode() for body in BODIES)]:
        yield Case(f"POST {text[:60]!r}", path, text, kind)
    for bad in ("text/plain", FORM, "\xe9"):
        yield Case(f"POST as {bad}", path, good, {"Content_Type": bad})
    for path, method, every in PARAMS:
        for params in every:
            call = json.dumps({**CALL, "method": method, "params": params}).encode()
            yield Case(f"{method} {path} {params!r:.60}", f"/api/v2/{path}", call, kind)


class NotFound(BaseHTTPRequestHandler):
    """GitHub's API, of a repository that is private."""

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def seed() -> int:
    return int(os.environ.get("LITEBOT_MALFORMED_SEED") or secrets.randbelow(10**6))


@pytest.fixture(scope="module")
def running(module_master: Master) -> Iterator[Master]:
    """A master with every dialect, and one finished build."""
    with ThreadingHTTPServer(("127.0.0.1", 0), NotFound) as github:
        threading.Thread(target=github.serve_forever, daemon=True).start()
        module_master.configure(CONFIG % github.server_port)
        module_master.start()
        assert module_master.force("hello").returncode == 0
        yield module_master
        github.shutdown()


def stored(master: Master) -> dict[str, int]:
    """How many rows there are of what a request may leave behind."""
    tables = (
        *("changes", "change_files", "change_properties", "sourcestamps", "users", "patches"),
        *("buildsets", "buildrequests", "builds", "litebot_deliveries"),
    )
    with master.connection() as conn:
        count = "SELECT count(*) FROM {}"
        return {t: conn.execute(sa.text(count.format(t))).scalar_one() for t in tables}


def refused(master: Master, visitor: Visitor, cases: list[Case], seed: int) -> None:
    """Send them all; each is answered with a reason, and nothing else happens."""
    print(f"{len(cases)} requests, LITEBOT_MALFORMED_SEED={seed}")
    before, logged = stored(master), len(master.log)
    wrong = []
    for case in cases:
        reply = case.send(visitor)
        if not 400 <= reply.status < 500 or not reply.body.decode().strip():
            wrong.append(f"{case.name}: {reply.status} {reply.body[:100]!r}")
    assert "\n".join(wrong) == ""
    assert stored(master) == before
    assert "Traceback" not in master.log[logged:]
    assert "Unhandled" not in master.log[logged:]


@on_both
def test_malformed_hooks_are_refused(running: Master, seed: int) -> None:
    cases = list(hook_cases(random.Random(seed)))
    assert len(cases) >= 200
    refused(running, running.visitor(), cases, seed)


@on_both
def test_malformed_calls_of_the_rest_api_are_refused(running: Master, seed: int) -> None:
    cases = list(rest_cases(random.Random(seed)))
    assert len(cases) >= 100
    refused(running, running.login(), cases, seed)


@pytest.mark.parametrize("name", HOOKS)
def test_what_a_hook_reads_is_taken(running: Master, name: str) -> None:
    hook = HOOKS[name]
    before = stored(running)["changes"]
    path, body, headers = hook.request(json.dumps(hook.payload).encode())
    reply = running.visitor().request("POST", path, body, **headers)
    assert (reply.status, reply.body) == (200, b"1 change found")
    assert stored(running)["changes"] == before + 1


@pytest.mark.parametrize("form", ["author=Ada", "branch=main&when=1767225600", "revision=7"])
def test_a_plain_hook_takes_a_change_that_says_something(running: Master, form: str) -> None:
    before = stored(running)["changes"]
    reply = running.visitor().request("POST", "/change_hook/base", form, Content_Type=FORM)
    assert (reply.status, reply.body) == (200, b"1 change found")
    assert stored(running)["changes"] == before + 1


@on_both
@pytest.mark.parametrize(
    "files", ['["a", "b"]', '("a", "b")', '{"a", b"b"}', '{"a": 1, "b": 2}', '(x for x in "ab")']
)
def test_a_class_of_ones_own_may_give_any_iterable_as_files(running: Master, files: str) -> None:
    change = given_by_own(running, f'{{"author": "Ada", "files": {files}}}')
    assert sorted(change["files"]) == ["a", "b"]


@on_both
def test_a_class_of_ones_own_may_give_a_number_as_revision(running: Master) -> None:
    assert given_by_own(running, '{"author": "Ada", "revision": 1234}')["revision"] == "1234"


def given_by_own(master: Master, change: str) -> dict[str, Any]:
    """A change as it is stored, of a class that gives this Python expression."""
    body = urlencode({"change": change}).encode()
    reply = master.visitor().request("POST", "/change_hook/own", body, Content_Type=FORM)
    assert (reply.status, reply.body) == (200, b"1 change found")
    (last,) = master.rest("changes", order="-changeid", limit=1)["changes"]
    found: dict[str, Any] = last
    return found


@on_both
def test_what_the_rest_api_knows_is_done(running: Master) -> None:
    admin = running.login()
    (request,) = running.rest("buildrequests", limit=1)["buildrequests"]
    path = f"buildrequests/{request['buildrequestid']}"
    assert admin.control(path, "set_priority", priority=5).status == 200
    for enabled in (False, True):
        assert admin.control("schedulers/1", "enable", enabled=enabled).status == 200
    for action in ("pause", "unpause"):
        assert admin.control("workers/1", action, reason="a test").status == 200
    queries = [
        "builders?name__contains=h",
        "builds?order=-number&limit=1",
        "builds?builderid__gt=0",
        "buildrequests?limit=1",
    ]
    for query in queries:
        assert running.visitor().request("GET", f"/api/v2/{query}").status == 200
    before = stored(running)["buildsets"]
    call = admin.control("forceschedulers/force", "force", builderid=1, reason="Ada")
    assert call.status == 200
    assert stored(running)["buildsets"] == before + 1
