"""What the guides show is typed, in their order, and does what they say."""

from __future__ import annotations

import os
import re
import shutil
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from http.client import HTTPSConnection
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from litebot.settings import load
from litebot.settings import set_value
from support.commands import require
from support.commands import wait_for
from support.documents import guide
from support.documents import pages
from support.forges import TOKEN
from support.forges import forges
from support.mailbox import mailbox
from support.ports import free_ports
from support.repositories import Repository
from support.typed import page_of
from support.typed import run
from support.typed import run_all
from support.typed import stop
from support.typed import succeeds

if TYPE_CHECKING:
    from support.postgres import Postgres

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """An empty folder, in which masters of these names are stopped at the end."""
    yield tmp_path
    stop(tmp_path, "ci", "ci2", "stock", "copy")


@pytest.fixture
def created(folder: Path) -> Path:
    """A folder with a basedir ci that has not been started."""
    run("litebot create-master ci", folder)
    return folder


def add_to_config(folder: Path, text: str) -> None:
    with open(folder / "ci/master.cfg", "a", encoding="utf-8") as config:
        config.write(f"\n{text}\n")


def test_first_project(folder: Path) -> None:
    page = guide("first-project")
    said = run_all(page.commands("A master with a sample project"), folder)
    assert "password" in said[0]
    assert "OK" in said[2]
    wait_for(lambda: succeeds("litebot why 1 ci", folder), "the poller to see a change")

    repository = folder / "project.git"
    run("printf 'test:\\n\\tpython3 -m unittest\\n' > Makefile", folder / "ci/project")
    run("git add Makefile && git commit --quiet --message Test", folder / "ci/project")
    run(f"git clone --quiet --bare ci/project {repository}", folder)
    (config,) = page.section("Your repository", "python")
    address = "https://example.org/team/project.git"
    assert address in config.text
    text = config.text.replace(address, str(repository))
    (folder / "ci/master.cfg").write_text(text, encoding="utf-8")
    said = run_all(page.commands("Your repository"), folder)
    assert "OK" in said[-1]


def test_service(created: Path) -> None:
    page = guide("service")
    (janitor,) = page.section("Disk space", "python")
    run("litebot start ci", created)
    add_to_config(created, janitor.text)
    run_all(page.commands("Changing the configuration"), created)
    run_all(page.commands("Stopping"), created)
    run_all(page.commands("Disk space"), created)


def test_webhooks(created: Path) -> None:
    page = guide("webhooks")
    signed, *_ = page.section("Webhooks", "python")
    run("litebot start ci", created)
    add_to_config(created, signed.text)
    said = run_all(page.commands("Webhooks"), created)
    assert "lets anybody" not in "".join(said)

    (login,) = page.section("Who may call a hook", "python")
    add_to_config(created, login.text)
    (created / "ci/hooks.passwd").write_text("name:password\n", encoding="ascii")
    run("litebot restart ci", created)
    (command,) = page.commands("From a script")
    assert "http://127.0.0.1:8010/" in command
    command = command.replace("http://127.0.0.1:8010/", page_of(created))
    assert run(command, created) == "1 change found"
    again = run(command, created)
    assert again.startswith("no change stored")
    assert again in page.text
    assert not succeeds(command.replace(":password", ":wrong"), created)


def test_telling(created: Path) -> None:
    page = guide("telling")
    tool = Repository(created / "team/tool")
    token = created / "ci/secrets/GITHUB_TOKEN"
    token.touch(mode=0o600)
    token.write_text(TOKEN)
    with forges() as server, mailbox() as mails:
        set_value(created / "ci/litebot.toml", "mail.host", "127.0.0.1")
        set_value(created / "ci/litebot.toml", "mail.port", mails.port)
        run("litebot start ci", created)
        run(f"litebot project add --yes {tool.url} ci", created)
        run("litebot build tool ci", created)
        commands = page.commands("Telling others of results")
        address = {"github GITHUB_TOKEN": f"github GITHUB_TOKEN {server.url}"}
        run_all(commands, created, **address)
        (posted,) = server.posted
        assert posted.context == "litebot/tool (test)"
        assert mails.received[0].recipients == ["team@example.org"]


def test_workers(created: Path) -> None:
    page = guide("workers")
    port = load(created / "ci/litebot.toml").workers.port
    run("litebot start ci", created)
    (named,) = page.section("On another machine", "python")
    more = 'c["builders"][0].workernames = ["big"]'
    add_to_config(created, f"{named.text}\n{more}")
    commands = [c for c in page.commands("On another machine") if not c.startswith("pip")]
    password = (created / "ci/secrets/worker-password").read_text().strip()
    try:
        run_all(
            commands,
            created,
            **{"ci.example.org:9989": f"127.0.0.1:{port}", "PASSWORD": password},
        )
        assert "on worker big" in run("litebot build hello ci", created)
    finally:
        run("buildbot-worker stop worker", created)


def test_users(created: Path) -> None:
    page = guide("users")
    said = run_all(page.commands("Logins of litebot's own"), created)
    assert "ada" in said[2]
    assert "viewer" in said[2]


def test_what_guides_put_into_a_configuration_is_good(created: Path) -> None:
    config = created / "ci/master.cfg"
    before = config.read_text(encoding="utf-8")
    shown = [
        block
        for page in pages()
        if page.path.parent.name == "guide"
        for block in page.blocks
        if block.language == "python" and "BuildmasterConfig" not in block.text
    ]
    assert len(shown) > 4
    # GitHubAuth imports it, and does not use it before somebody logs in.
    (created / "ci/requests.py").touch()
    for block in shown:
        config.write_text(f"{before}\n{block.text}", encoding="utf-8")
        for name in re.findall(r'util\.Secret\("(.+?)"\)', block.text):
            (created / "ci/secrets" / name).touch(mode=0o600)
        run("litebot check-config ci", created)


def test_backup(created: Path) -> None:
    page = guide("backup")
    basedir = created / "ci"
    run("litebot start ci && litebot build hello ci", created)
    (copy,) = page.commands("While the master runs")
    run(copy, basedir)
    run_all(page.commands("While the master is stopped"), created)
    assert (created / "backup.sqlite").stat().st_size > 100_000
    # An older one is there, and a build is lost with it.
    shutil.move(basedir / "backup.sqlite", created / "backup.sqlite")
    run("litebot build hello ci", created)
    said = run_all(page.commands("Restoring"), created)
    assert re.search(r"lacks .*build 2", said[-1])
    run("litebot check ci", created)


@pytest.fixture
def database(postgres: Postgres) -> str:
    """The url of a new, empty database."""
    return postgres.url(postgres.new_database())


SHOWN_DATABASE = "postgresql://ci@db.example.org/ci"


def on(database: str) -> dict[str, str]:
    return {SHOWN_DATABASE: f"'{database}'"}


def test_postgres_from_the_beginning(folder: Path, database: str) -> None:
    page = guide("postgres")
    run_all(page.commands("Beginning on Postgres"), folder, **on(database))
    run("litebot build hello ci", folder)
    run_all(page.commands("Moving back"), folder)
    assert (folder / "ci/state.sqlite").exists()
    assert "SUCCESS" in run("litebot build hello ci", folder)


def test_postgres_later(created: Path, database: str) -> None:
    run("litebot start ci && litebot build hello ci", created)
    run_all(guide("postgres").commands("Moving there"), created, **on(database))
    assert list((created / "ci").glob("state.sqlite.moved-*"))
    assert database in run("litebot status ci", created)


def test_several_masters(folder: Path, database: str) -> None:
    run(f"litebot create-master --database '{database}' ci", folder)
    run("litebot start ci", folder)
    like, join = [
        guide("several-masters").section("A second master")[number].lines for number in (0, 1)
    ]
    run_all(like, folder)
    assert str(folder / "ci2") in run("litebot status ci", folder)
    (folder / "elsewhere").mkdir()
    (said,) = run_all(join, folder / "elsewhere", **on(database))
    assert "master.cfg" in said


STOCK = """
from buildbot.plugins import steps, util, worker, schedulers
c = BuildmasterConfig = {}
c["workers"] = [worker.LocalWorker("local")]
c["schedulers"] = [schedulers.ForceScheduler(name="force", builderNames=["b"])]
factory = util.BuildFactory([steps.ShellCommand(command=["true"])])
c["builders"] = [util.BuilderConfig(name="b", workernames=["local"], factory=factory)]
c["www"] = {"port": "tcp:%d:interface=127.0.0.1"}
c["db"] = {"db_url": "sqlite:///state.sqlite"}
"""


def test_upgrade_from_stock_buildbot(folder: Path) -> None:
    run("buildbot create-master stock", folder)
    (port,) = free_ports(1)
    (folder / "stock/master.cfg").write_text(STOCK % port, encoding="utf-8")
    replaced = {"/srv/buildbot/master": "stock"}
    said = run_all(guide("upgrade").commands("From stock Buildbot"), folder, **replaced)
    assert "password" in said[0]
    assert (folder / "stock/buildbot.tac.stock").exists()
    run("litebot build b stock", folder)


def test_upgrade_from_an_older_litebot(created: Path) -> None:
    commands = guide("upgrade").commands("From an older litebot")
    run("litebot start ci", created)
    run_all([c for c in commands if not c.startswith("pip")], created)


MIME_TYPES = "/etc/nginx/mime.types"


class Nginx:
    """nginx with the configuration that the guide shows, before a master's page."""

    def __init__(self, folder: Path, page: str) -> None:
        (self.port,) = free_ports(1)
        self._folder = folder
        (site,) = guide("proxy").section("nginx", "nginx")
        (robots,) = guide("proxy").section("What a crawl costs", "nginx")
        shown = site.text.replace("ssl;\n", f"ssl;\n{robots.text}", 1)
        certificate = folder / "certificate.pem"
        run(
            "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=ci.example.org"
            f" -keyout key.pem -out {certificate}",
            folder,
        )
        for what, value in {
            "http://127.0.0.1:8010": page.rstrip("/"),
            "listen 443 ssl": f"listen 127.0.0.1:{self.port} ssl",
            "/etc/ssl/ci.example.org/fullchain.pem": str(certificate),
            "/etc/ssl/ci.example.org/privkey.pem": str(folder / "key.pem"),
            "/var/cache/nginx/litebot": str(folder / "cache"),
        }.items():
            assert what in shown, what
            shown = shown.replace(what, value)
        # Where its own would be is for root alone.
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
        # Root's nginx works as another user, who can't look into a folder of pytest's.
        user = "user root;" if os.geteuid() == 0 else ""
        self._settings = folder / "nginx.conf"
        self._settings.write_text(
            f"{user} pid {folder}/pid; error_log {folder}/error.log; daemon off;"
            f" events {{}} http {{ include {MIME_TYPES}; access_log off; {paths}\n{shown}\n}}",
            encoding="utf-8",
        )

    def __enter__(self) -> Nginx:
        self._process = subprocess.Popen(
            ["nginx", "-e", self._folder / "error.log", "-c", self._settings, "-p", self._folder],
            stderr=subprocess.DEVNULL,
        )
        wait_for(self._answers, "nginx to answer")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    def _answers(self) -> bool:
        assert self._process.poll() is None, (self._folder / "error.log").read_text()
        try:
            return self.get("/")[0] == 200
        except OSError:
            return False

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """The status, the headers and the first bytes of an answer."""
        context = ssl.create_default_context(cafile=self._folder / "certificate.pem")
        context.check_hostname = False
        connection = HTTPSConnection("127.0.0.1", self.port, timeout=10, context=context)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET", path, headers={"Host": f"ci.example.org:{self.port}", **named})
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        first = answer.read1(100)
        connection.close()
        return answer.status, found, first


def test_proxy(created: Path) -> None:
    require(shutil.which("nginx"), "there is no nginx: apt install nginx")
    run("litebot start ci", created)
    page = page_of(created)
    set_value(created / "ci/litebot.toml", "web.url", "https://ci.example.org/")
    run("litebot reconfig ci", created)
    with Nginx(created, page) as nginx:

        def cached(path: str, **headers: str) -> str:
            status, found, _ = nginx.get(path, **headers)
            assert status == 200, (path, headers)
            return found["x-cache"]

        builders = "/api/v2/builders"
        json = {"Accept": "application/json"}
        assert [cached(builders) for _ in range(2)] == ["MISS", "HIT"]
        assert [cached(builders, **json) for _ in range(2)] == ["MISS", "HIT"]
        assert nginx.get(builders, **json)[1]["content-type"].startswith("application/json")
        assert cached(builders, Cookie="a=b; __Host-TWISTED_SESSION_443=x") == "BYPASS"
        assert cached(builders, Sec_Fetch_Site="same-origin") == "BYPASS"

        # Who is logged in leaves no answer to others; a page in a browser does.
        workers = "/api/v2/workers"
        assert cached(workers, Cookie="a=b; __Host-TWISTED_SESSION_443=x") == "BYPASS"
        assert cached(workers) == "MISS"
        masters = "/api/v2/masters"
        assert cached(masters, Sec_Fetch_Site="same-origin") == "BYPASS"
        assert cached(masters) == "HIT"

        status, found, first = nginx.get("/robots.txt")
        assert (status, found["content-type"].partition(";")[0]) == (200, "text/plain")
        assert b"Disallow: /api/" in first

        ours = f"https://ci.example.org:{nginx.port}"
        upgrade = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==",
            "Sec_WebSocket_Version": "13",
        }
        assert nginx.get("/ws", **upgrade, Origin=ours)[0] == 101
        assert nginx.get("/ws", **upgrade, Origin="https://example.com")[0] == 403
        status, found, first = nginx.get("/sse/listen/builds/*/new")
        assert (status, found["content-type"]) == (200, "text/event-stream")
        assert first.startswith(b"event: handshake")

        (script,) = re.findall(rb'src="\.(/assets/.+?\.js)"', urllib.request.urlopen(page).read())
        packed = nginx.get(script.decode(), Accept_Encoding="gzip")[1]
        assert packed["content-encoding"] == "gzip"
        assert "immutable" in packed["cache-control"]


def test_projects(created: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = guide("projects")
    (file,) = page.section("What a build does", "toml")
    repository = Repository(created / "tool", file.text, Makefile="all:\ntest:\n\techo tested\n")
    config = created / "gitconfig"
    address = "https://example.org/team/tool.git"
    config.write_text(f'[url "{repository.url}"]\ninsteadOf = {address}\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    set_value(created / "ci/litebot.toml", "workers.environment", "GIT_CONFIG_GLOBAL")
    run("litebot start ci", created)
    said = run_all(page.commands("Adding one"), created)
    assert "tool" in said[-1]
    for heading in ("What the settings decide", "Secrets", "In version control"):
        run_all(page.commands(heading), created)
    said = run_all(page.commands("When it is built"), created)
    assert "change_hook/project/tool" in said[0]
    (folder,) = page.section("In version control", "toml")
    assert "projects" in folder.text
