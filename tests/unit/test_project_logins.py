"""Keys, host keys and secrets of projects, without a server."""

from __future__ import annotations

import base64
import io
import shlex
import struct
import textwrap
from pathlib import Path
from typing import Any

import pytest

from litebot.basedir import Basedir
from litebot.cli.project_logins import confirmed_host_key
from litebot.errors import LitebotError
from litebot.master.delivery.git_poller import GitFailed
from litebot.master.projects.logins import secret_files
from litebot.master.projects.logins.advice import advice
from litebot.master.projects.logins.checkout import Checkout
from litebot.master.projects.logins.deploy_keys import public_key
from litebot.master.projects.logins.git import Login
from litebot.master.projects.logins.host_keys import HostKey
from litebot.master.projects.logins.host_keys import OtherHostKey
from litebot.master.projects.logins.host_keys import compared
from litebot.master.projects.logins.ssh import ssh_command
from litebot.master.secrets.file_secret import FileSecret
from litebot.projects.definition import DefinitionError
from litebot.projects.definition import Project
from litebot.projects.definition import from_toml
from litebot.projects.definition import to_toml
from litebot.projects.logins import origin_of
from litebot.projects.logins import server_of
from litebot.projects.logins import user_in
from litebot.projects.ssh_keys import BEGIN
from litebot.projects.ssh_keys import END
from litebot.projects.ssh_keys import NoKey
from litebot.projects.ssh_keys import check_host_key
from litebot.projects.ssh_keys import fingerprint
from litebot.projects.ssh_keys import public_half


def packed(*strings: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(each)) + each for each in strings)


def private_key(cipher: bytes) -> str:
    """A file as ssh-keygen writes it, whose private part is none."""
    head = b"openssh-key-v1\0" + packed(cipher, b"none", b"") + struct.pack(">I", 1)
    encoded = base64.b64encode(head + packed(BLOB, b"not private")).decode()
    return "\n".join([BEGIN, *textwrap.wrap(encoded, 70), END, ""])


BLOB = packed(b"ssh-ed25519", bytes(range(32)))
PUBLIC = f"ssh-ed25519 {base64.b64encode(BLOB).decode()}"
# As `ssh-keygen -lf` prints it.
FINGERPRINT = "SHA256:ZkAslGjFiUHdGf/WUL8rQvkib4PTvQatUV0OUQSncCA"
OTHER = f"ssh-ed25519 {base64.b64encode(packed(b'ssh-ed25519', bytes(32))).decode()}"
PRIVATE, WITH_PASSPHRASE = private_key(b"none"), private_key(b"aes256-ctr")


@pytest.fixture
def files(tmp_path: Path) -> Basedir:
    """A basedir with the secrets `key`, `locked`, `token`, `lines`, `empty` and `open`."""
    made = Basedir(tmp_path)
    made.secrets.mkdir()
    texts = {"key": PRIVATE, "locked": WITH_PASSPHRASE, "token": "abcdefgh\n"}
    for name, text in {**texts, "lines": "abcd\nefgh\n", "empty": "\n", "open": "ijkl"}.items():
        (made.secrets / name).write_text(text, encoding="utf-8")
        (made.secrets / name).chmod(0o644 if name == "open" else 0o600)
    return made


def test_the_public_half_of_a_private_key() -> None:
    assert public_half(PRIVATE) == PUBLIC
    assert public_half(PRIVATE.strip()) == PUBLIC


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no private key"),
        ("ssh-ed25519 AAAA", "no private key"),
        (WITH_PASSPHRASE, "with a passphrase"),
        (PRIVATE.replace("\nb3B", "\nXXXX"), "damaged"),
        ("\n".join([*PRIVATE.splitlines()[:2], PRIVATE.splitlines()[-1]]), "damaged"),
        ("\n".join([PRIVATE.splitlines()[0], "%", PRIVATE.splitlines()[-1]]), "damaged"),
    ],
)
def test_what_is_no_private_key_is_named(text: str, said: str) -> None:
    with pytest.raises(NoKey, match=said):
        public_half(text)


def test_a_host_key_is_kept_without_its_comment() -> None:
    assert check_host_key("") == ""
    assert check_host_key(f"{PUBLIC} root@host") == PUBLIC
    assert fingerprint(PUBLIC) == FINGERPRINT
    project = Project("x", "ssh://git@h/x.git", host_key=f"{PUBLIC} root@host")
    assert from_toml("x", to_toml(project)) == project


@pytest.mark.parametrize(
    "text",
    [
        "ssh-ed25519",
        "ssh-ed25519 AAAA",
        "ssh-ed25519 %%%",
        PUBLIC.replace("ed25519", "rsa"),
        "AAAA",
    ],
)
def test_what_is_no_host_key_is_refused(text: str) -> None:
    with pytest.raises(DefinitionError, match="host_key"):
        Project("x", "ssh://git@h/x.git", host_key=text)


def test_what_an_address_says_of_its_server() -> None:
    addresses = {
        "ssh://git@Host:22/x": "host:22",
        "git@host:team/x.git": "host",
        "git@[::1]:x": "[::1]",
        "https://ada@host/x": "host",
        "/srv/x.git": "",
    }
    assert {address: server_of(address) for address in addresses} == addresses
    assert origin_of("https://ada@host:8443/a/b") == "https://host:8443"
    assert (user_in("https://ada@host/x"), user_in("https://host/x")) == ("ada", "git")
    assert user_in("https://ada%40example.org@host/x") == "ada@example.org"


def test_paths_stay_whole_in_a_command_of_ssh() -> None:
    words = shlex.split(ssh_command("/a b/%h/key", "/a b/%h/known"))
    assert words[words.index("-i") + 1] == "/a b/%%h/key"
    assert 'UserKnownHostsFile="/a b/%%h/known"' in words
    assert "StrictHostKeyChecking=yes" in words
    assert not any("KnownHosts" in word for word in shlex.split(ssh_command("key", None)))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"key": "absent"}, "there is no secret absent"),
        ({"key": "locked"}, "passphrase"),
        ({"key": "token"}, "no private key"),
        ({"password": "lines"}, "several lines"),
        ({"password": "empty"}, "is empty"),
        ({"password": "open"}, "others can read it"),
    ],
)
def test_a_secret_that_can_not_be_used_is_named(
    files: Basedir, keys: dict[str, str], said: str
) -> None:
    project = Project("x", "https://host/x.git", **keys)  # type: ignore[arg-type]
    with pytest.raises(LitebotError, match=said):
        secret_files.require(files, project)
    secret_files.require(files, project, before=project)


def test_the_remedy_for_a_lost_deploy_key_is_the_command_that_makes_one(files: Basedir) -> None:
    project = Project("x", "ssh://git@host/x.git", key="project-x-key")
    with pytest.raises(LitebotError) as raised:
        secret_files.require(files, project)
    assert raised.value.hint == f"litebot project key x {files.quoted}"


def test_the_page_gets_the_public_half_alone(files: Basedir) -> None:
    project = Project("x", "ssh://git@host/x.git", key="key")
    assert public_key(files, project) == f"{PUBLIC} litebot-x"
    assert public_key(files, Project("x", "ssh://git@host/x.git")) is None
    assert public_key(files, Project("x", "ssh://git@host/x.git", key="locked")) is None


def test_options_of_git_name_files_and_no_secret(files: Basedir, tmp_path: Path) -> None:
    https = Login(password="token").options(files, "https://ada@host/x.git", tmp_path)
    assert https[:2] == ["-c", "credential.helper="]
    assert https[3].startswith("credential.https://host.helper=!")
    ssh = Login("key", host_key=PUBLIC).options(files, "ssh://git@host/x.git", tmp_path)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "known_hosts").read_text() == f"* {PUBLIC}\n"
    shown = "".join([*https, *ssh])
    assert "abcdefgh" not in shown
    assert PRIVATE.splitlines()[2] not in shown
    assert Login(password="token").options(files, "/srv/x.git", tmp_path) == []


def test_advice_fits_the_address(files: Basedir) -> None:
    ssh = advice(files, "x", "git@host:x", Login("key"), "")
    assert ssh is not None
    assert ssh.endswith(f"{PUBLIC} litebot-x")
    https = advice(files, "x", "https://host/x", Login(), "HTTP 401")
    assert https is not None
    assert https.endswith("--password project-x-token")
    assert advice(files, "x", "/srv/x.git", Login(), "") is None
    away = "fatal: unable to access 'https://host/x/': Failed to connect to host port 443"
    assert advice(files, "x", "https://host/x", Login(), away) is None
    refused = "fatal: unable to access 'https://host/x/': The requested URL returned error: 403"
    assert advice(files, "x", "https://host/x", Login(), refused) == https


def test_equal_secrets_make_no_reconfig() -> None:
    assert FileSecret("a") == FileSecret("a") != FileSecret("b")


def test_what_ssh_says_is_in_the_error_of_a_poll() -> None:
    said = "git@h: Permission denied (publickey).\r\nfatal: Could not read it.\n\nPlease\n"
    failed = str(GitFailed("ls-remote", "git@h:x", 128, said))
    assert failed.endswith("git@h: Permission denied (publickey). fatal: Could not read it.")


def test_a_checkout_asks_the_address_that_is_polled() -> None:
    step = Checkout(repourl="git@host:team/x.git")
    step.setup_repourl()
    assert step.repourl == "git@host:team/x.git"


SHOWN = HostKey("host", PUBLIC, FINGERPRINT)
FILE = Path("/home/ada/.ssh/known_hosts")


@pytest.mark.parametrize(
    ("lines", "known_in"),
    [
        ([], None),
        (["# Host host found: line 1", f"host {PUBLIC} comment"], str(FILE)),
        ([f"|1|hash= {OTHER}", f"|1|hash= {PUBLIC}"], str(FILE)),
        (["host ecdsa-sha2-nistp256 AAAA"], None),
        ([f"@cert-authority host {OTHER}"], None),
    ],
)
def test_a_host_key_is_compared_with_known_ones(lines: list[str], known_in: str | None) -> None:
    assert compared(SHOWN, FILE, lines).known_in == known_in


@pytest.mark.parametrize("lines", [[f"host {OTHER}"], [f"host {PUBLIC}", f"@revoked * {PUBLIC}"]])
def test_a_host_key_that_differs_from_the_known_one_is_refused(lines: list[str]) -> None:
    with pytest.raises(OtherHostKey, match=FINGERPRINT) as raised:
        compared(SHOWN, FILE, lines)
    assert raised.value.hint is not None
    assert raised.value.hint.endswith(f"ssh-keygen -R host -f {FILE}")


def test_a_host_key_is_taken_if_somebody_trusts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    shown = {"host": "github.com", "key": PUBLIC, "fingerprint": FINGERPRINT, "known_in": None}

    def trusted(known_in: str | None = None, **how: Any) -> str:
        how = {"yes": False, "fingerprint": None, **how}
        answer = {**shown, "known_in": known_in}
        monkeypatch.setattr("litebot.cli.project_logins.ask", lambda *_, **__: answer)
        return confirmed_host_key(Basedir("ci"), "git@github.com:x", **how)

    assert trusted(str(FILE)) == trusted(yes=True) == trusted(fingerprint=FINGERPRINT) == PUBLIC
    with pytest.raises(LitebotError, match="nobody to confirm") as raised:
        trusted()
    assert raised.value.hint is not None
    assert "docs.github.com" in raised.value.hint
    for known_in in (None, str(FILE)):
        with pytest.raises(LitebotError, match="not SHA256:other"):
            trusted(known_in, yes=True, fingerprint="SHA256:other")
