"""Secrets appear in no log, property, event, answer or file, however they are written."""

from __future__ import annotations

import base64
import http.client
import json
import pprint
import random
import re
import secrets
import shlex
import urllib.parse
from collections.abc import Callable
from collections.abc import Iterator

import pytest

from litebot.master.secrets.lines import mask_lines
from litebot.master.secrets.masker import Masker
from litebot.master.secrets.masker import mask_urls
from litebot.store.connection import connect
from support.commands import run
from support.commands import succeeded
from support.commands import wait_for
from support.master import Master

TOKEN = "tok-" + secrets.token_urlsafe(18)
AWKWARD = """it's "5" \\o/ $x & y<z> `é` 100%;+/?"""
KEY = "-----BEGIN KEY-----\n" + "\n".join(secrets.token_urlsafe(48) for _ in range(4)) + "\nab=="
VALUES = {"token": TOKEN, "awkward": AWKWARD, "key": KEY}

SPELLINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "in a shell": shlex.quote,
    "in a shell, by hand": lambda v: "'" + v.replace("'", "'\\''") + "'",
    "by printf %q": lambda v: re.sub(r"([^\w@%+=:,./-])", r"\\\1", v, flags=re.ASCII),
    "in double quotes": lambda v: re.sub(r'([$`"\\])', r"\\\1", v),
    "as JSON": json.dumps,
    "as JSON in UTF-8": lambda v: json.dumps(v, ensure_ascii=False),
    "as JSON in JSON": lambda v: json.dumps(json.dumps({"k": v})),
    "by repr": repr,
    "by repr in a list": lambda v: repr([v, "'"]),
    "by ascii": ascii,
    "as bytes": lambda v: repr(v.encode()),
    "by pprint": lambda v: pprint.pformat({"NAME_OF_A_VARIABLE": f"{'x' * 40} {v} end"}),
    "in a URL": lambda v: urllib.parse.quote(v, safe=""),
    "in a path": urllib.parse.quote,
    "in a form": urllib.parse.quote_plus,
    "in lower case hex of a URL": lambda v: re.sub(
        "%..", lambda m: m[0].lower(), urllib.parse.quote(v, safe="")
    ),
    "in hex": lambda v: v.encode().hex(),
    "in base64": lambda v: base64.b64encode(v.encode()).decode(),
    "of basic auth": lambda v: base64.b64encode(f"user:{v}".encode()).decode(),
    "of another user": lambda v: base64.b64encode(f"users:{v}\n".encode()).decode(),
    "of a third user": lambda v: base64.b64encode(f"user12:{v} x".encode()).decode(),
    "in base64 of URLs": lambda v: base64.urlsafe_b64encode(v.encode()).decode(),
    "in base64 of lines": lambda v: base64.encodebytes(v.encode()).decode(),
}


def common(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginning."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)


@pytest.fixture
def knowing() -> Masker:
    masker = Masker()
    for name, value in VALUES.items():
        masker.learn(name, value)
    return masker


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_each_spelling_is_masked(knowing: Masker, name: str, spelling: str) -> None:
    spelled = SPELLINGS[spelling](VALUES[name])
    masked = knowing.mask(f"before {spelled} after")
    assert f"<{name}>" in masked
    assert masked.startswith("before ")
    assert masked.endswith(" after")
    # What the spelling of another value has, too, is no secret; nothing else is left in part.
    other = SPELLINGS[spelling]("Z" * 8)
    begin = common(spelled, other)
    end = len(spelled) - common(spelled[::-1], other[::-1])
    for at in range(begin, end - 8):
        piece = spelled[at : at + 8]
        if not re.search("KEY|----|LS0tL|S0tL|tLS|2d2d|xxx|\n +$|^ +'?$", piece):
            assert piece not in masked


def test_what_is_no_secret_stays(knowing: Masker) -> None:
    text = "make: *** [all] Error 2, see https://example.org/?a=b&c=d 0123456789abcdef\n" * 50
    assert knowing.mask(text) is text


def test_a_short_value_is_not_masked() -> None:
    masker = Masker()
    masker.learn("short", "abc")
    assert masker.mask("abcdef") == "abcdef"


def test_the_properties_that_buildbot_sets_stay() -> None:
    masker = Masker()
    masker.learn("account", "deploy")
    given = {"buildername": ("deploy-all", "Builder"), "user": ("deploy", "SetProperty")}
    assert masker.mask_properties(given) == {
        "buildername": ("deploy-all", "Builder"),
        "user": ("<account>", "SetProperty"),
    }


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("git clone https://ci:hunter2@host/x.git", "git clone https://ci:<password>@host/x.git"),
        ("https://ci:<token>@host", "https://ci:<token>@host"),
        ("https://0123456789abcdef0123@host", "https://<password>@host"),
        ("https://abcdef:x-oauth-basic@host", "https://<password>:x-oauth-basic@host"),
        ("ssh://git@host/x.git", "ssh://git@host/x.git"),
        ("postgresql://u:p%40ss@/db?host=x", "postgresql://u:<password>@/db?host=x"),
        ("http://host/a?mail=a@b", "http://host/a?mail=a@b"),
        ("https://host:8010/@x", "https://host:8010/@x"),
    ],
)
def test_passwords_in_urls_are_masked(text: str, masked: str) -> None:
    assert mask_urls(text) == masked


@pytest.mark.parametrize("has_streams", [True, False])
def test_a_secret_is_masked_where_a_line_was_cut_in_it(knowing: Masker, has_streams: bool) -> None:
    chance = random.Random(4)
    stream = "o" if has_streams else ""
    for before in (4095, 4096, 4096 - len(TOKEN) // 2, 4094 - len(TOKEN)):
        long = "x" * before + TOKEN * 300 + " end"
        cut = [long[at : at + 4096] for at in range(0, len(long), 4096)]
        content = "".join(f"{stream}{line}\n" for line in cut)
        ends = [m.end() for m in re.finditer("\n", content)]
        at, stored, held = 0, "", ""
        for end in sorted({*chance.sample(ends, 1), ends[-1]}):
            masked, held = mask_lines(knowing, held + content[at:end], has_streams=has_streams)
            stored, at = stored + masked, end
        stored += held
        assert stored.count("\n") == len(cut)
        joined = stored.replace(f"\n{stream}", "")
        assert TOKEN not in joined
        assert " end" in joined
        for length in (8, len(TOKEN) // 2):
            assert TOKEN[:length] not in joined
            assert TOKEN[-length:] not in joined


CONFIG = '''
import base64, json, shlex, urllib.parse

ECHO = """
import base64, json, os, pprint, shlex, sys, urllib.parse
for name in ("TOKEN", "AWKWARD", "KEY"):
    value = os.environ[name]
    print(value)
    print(shlex.quote(value), json.dumps(value), repr(value), value.encode())
    print(urllib.parse.quote(value, safe=""), base64.b64encode(b"user:" + value.encode()).decode())
    print(value, file=sys.stderr)
    print("x" * 4090 + value.splitlines()[-1] * 200)
    pprint.pprint(dict(os.environ))
    sys.stdout.flush()
print("all was printed")
"""

secret_env = {name.upper(): util.Secret(name) for name in ("token", "awkward", "key")}

class Sets(steps.BuildStep):
    name = "sets"
    renderables = ["value"]
    def __init__(self, value, **kwargs):
        super().__init__(**kwargs)
        self.value = value
    async def run(self):
        self.setProperty("taken", {"deep": [self.value, "x" + self.value]}, "Sets")
        await self.addURL("link", "https://u:hunter2-in-a-url@example.org/?t=" + self.value)
        self.descriptionDone = ["it", "is", self.value]
        log = await self.addLog("plain")
        log.addStdout("in a log of its own: " + json.dumps(self.value) + "\\n")
        await log.finish()
        from twisted.python import log as twisted_log
        twisted_log.msg("by a step: " + repr(self.value))
        try:
            raise ValueError("https://u:hunter2-in-a-url@example.org/ and " + self.value)
        except ValueError:
            twisted_log.err(None, "a failure of a step")
        await self.master.data.updates.setBuildData(
            self.build.buildid, "data", self.value.encode(), "Sets"
        )
        return util.SUCCESS

class Fails(steps.BuildStep):
    name = "fails"
    async def run(self):
        raise ValueError("a step failed with " + TOKEN)

TOKEN = open(os.path.join(basedir, "secrets", "token")).read()
print("printed by master.cfg: " + TOKEN)
c["builders"].append(util.BuilderConfig(
    name="b",
    workernames=["local"],
    factory=util.BuildFactory([
        steps.ShellCommand(command=[sys.executable, "-c", ECHO], env=secret_env),
        steps.ShellCommand(
            command=["echo", util.Interpolate("a=%(secret:awkward)s"), util.Secret("key")]
        ),
        steps.ShellCommand(command=["echo", ("obfuscated", "hidden-in-a-command", "XXXX")]),
        steps.SetPropertyFromCommand(
            command="printf %s \\"$AWKWARD\\"", property="printed", env=secret_env
        ),
        Sets(util.Secret("token")), Sets(util.Secret("awkward")), Sets(util.Secret("key")),
        steps.Trigger(
            schedulerNames=["t"],
            waitForFinish=True,
            set_properties={"passed": util.Secret("token")},
        ),
    ]),
))
# An exception takes a worker away for a while.
c["workers"].append(worker.LocalWorker("other"))
c["builders"].append(util.BuilderConfig(
    name="broken", workernames=["other"], factory=util.BuildFactory([Fails()])
))
c["builders"].append(util.BuilderConfig(
    name="child",
    workernames=["local"],
    factory=util.BuildFactory([steps.ShellCommand(
        command=[sys.executable, "-c", "import os; print(len(os.environ['P']), os.environ['P'])"],
        env={"P": util.Property("passed")},
    )]),
))
c["schedulers"] += [
    schedulers.ForceScheduler(name="force-b", builderNames=["b"]),
    schedulers.ForceScheduler(name="force-broken", builderNames=["broken"]),
    schedulers.Triggerable(name="t", builderNames=["child"]),
]
c["www"] = {"change_hook_dialects": {"gitlab": {"secret": util.Secret("token")}, "base": True}}
'''


@pytest.fixture(scope="module")
def built(module_master: Master) -> Master:
    """A master whose builds have done with secrets what they should not."""
    for name, value in VALUES.items():
        path = module_master.basedir / "secrets" / name
        path.write_text(value, encoding="utf-8")
        path.chmod(0o600)
    module_master.configure(CONFIG)
    module_master.start()
    done = module_master.force("b")
    assert "all was printed" in done.stdout, done.stdout + done.stderr
    check_clean(done.stdout, "litebot build")
    check_clean(module_master.force("broken").stdout, "litebot build")
    return module_master


def leaks(text: str) -> list[str]:
    """What of the secrets is in a text, in whatever spelling."""
    found = [word for word in ("hunter2-in-a-url", "hidden-in-a-command") if word in text]
    for name, value in VALUES.items():
        lines = [line for line in value.splitlines() if not line.startswith("---")]
        for line in [value, *(line for line in lines if len(line) > 8)]:
            for spelling, spell in SPELLINGS.items():
                spelled = spell(line)
                bare = spelled[2:-2].strip("'\"") if len(spelled) > 12 else spelled
                if len(bare) >= 8 and spelling != "by pprint" and bare in text:
                    found.append(f"{name} {spelling}")
    return found


def check_clean(text: str, where: str) -> None:
    found = leaks(text)
    if found:
        at = max(text.find(TOKEN), 0)
        pytest.fail(f"{where} has {found}: ...{text[max(at - 200, 0) : at + 200]}", pytrace=False)


def rest_paths(master: Master) -> Iterator[str]:
    yield from ("builds?property=*", "buildrequests?property=*", "buildsets", "steps", "changes")
    for build in master.rest("builds")["builds"]:
        path = f"builds/{build['buildid']}"
        yield from (path, f"{path}/properties", f"{path}/property_list", f"{path}/steps")
        yield f"{path}?property=*"
        yield f"{path}/data"
        for step in master.rest(f"{path}/steps")["steps"]:
            for log in master.rest(f"steps/{step['stepid']}/logs")["logs"]:
                yield from (f"logs/{log['logid']}/contents", f"logs/{log['logid']}/raw")
    for buildset in master.rest("buildsets")["buildsets"]:
        yield f"buildsets/{buildset['bsid']}/properties"


def test_no_answer_has_a_secret(built: Master) -> None:
    visitor = built.visitor()
    for path in rest_paths(built):
        reply = visitor.request("GET", f"/api/v2/{path}")
        text = reply.body.decode()
        check_clean(text, path)
        check_clean(json.dumps(text), path)
        if "application/json" in (reply.headers["content-type"] or ""):
            check_clean(repr(json.loads(text)), path)
    check_clean(built.run("status", "--json").stdout, "status")


def test_no_file_has_a_secret(built: Master) -> None:
    # A buildset keeps what its builds need, for nobody but them.
    passed = built.rows(
        "SELECT property_value FROM buildset_properties WHERE property_name='passed'"
    )
    assert TOKEN in passed[0][0]
    built.stop()
    built.execute("DELETE FROM buildset_properties")
    handle = connect(built.state_file)
    handle.execute("VACUUM")  # what is deleted stays in free pages
    handle.close()
    for path in built.basedir.rglob("*"):
        apart = {"secrets", "workers", "master.cfg"}
        if path.is_file() and not {*path.relative_to(built.basedir).parts} & apart:
            check_clean(path.read_bytes().decode(errors="replace"), str(path))
    for query in (
        "SELECT content, compressed FROM logchunks",
        "SELECT value FROM build_data",
        "SELECT value, '' FROM build_properties",
        "SELECT state_string, urls_json FROM steps",
    ):
        for row in built.rows(query):
            check_clean(repr(row), query)
    assert "printed by master.cfg: <token>" in built.log
    assert "a step failed with <token>" in built.log
    built.start()


def test_a_build_goes_on_with_the_real_values(built: Master) -> None:
    child = built.builds("child")[0]
    assert f"{len(TOKEN)} <token>" in built.log_text(child["buildid"], "shell")


def test_no_event_has_a_secret(built: Master) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", built.ports[0], timeout=20)
    connection.request("GET", "/sse/listen/*/*/*")
    with connection.getresponse() as response:
        response.readline()
        before = len(built.builds("b"))
        succeeded(built.run("build", "--no-wait", "b"))
        built.finished_build("b", before + 1)
        seen = ""
        while "it is <key>" not in seen:
            seen += response.readline().decode()
    connection.close()
    check_clean(seen, "events")


def test_http_log_has_no_tokens(built: Master) -> None:
    visitor = built.visitor()
    for query in (
        f"token={urllib.parse.quote(TOKEN)}",
        "secret=planted-in-a-query",
        "a=b&private_token=planted-in-a-query&c=d",
        "access%5Ftoken=planted-in-a-query",
    ):
        visitor.request("POST", f"/change_hook/base?{query}", Referer=f"http://x/?{query}")
    visitor.request("GET", "/auth/login?code=planted-in-a-query&state=x")
    visitor.request("GET", "/api/v2/builds?limit=1&order=-buildid")
    log = built.basedir / "http.log"
    wait_for(lambda: "order=-buildid" in log.read_text(), "the last request")
    text = log.read_text()
    assert "planted-in-a-query" not in text
    assert "secret=<password>" in text
    assert "/api/v2/builds?limit=1&order=-buildid" in text
    check_clean(text, "http.log")


def test_ps_shows_no_secret_afterwards(built: Master) -> None:
    check_clean(succeeded(run("ps", "axeww")).stdout, "ps")


def test_a_short_secret_is_told(master: Master) -> None:
    path = master.basedir / "secrets" / "pin"
    path.write_text("123\n")
    path.chmod(0o600)
    said = succeeded(master.run("check-config")).stderr
    assert f"note: the secret {path} has fewer than 4 characters" in said


def test_a_secret_in_an_error_of_the_configuration_is_masked(master: Master) -> None:
    path = master.basedir / "secrets" / "token"
    path.write_text(TOKEN)
    path.chmod(0o600)
    master.start()
    master.configure(
        f"from twisted.python import log\n"
        f"log.msg('while loading', {json.dumps(TOKEN)})\n"
        f"raise ValueError({json.dumps(TOKEN)})\n"
    )
    assert master.run("reconfig").returncode == 1
    assert "while loading <token>" in master.log
    check_clean(master.log, "twistd.log")
