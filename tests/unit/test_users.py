"""The users file: who gets in, who doesn't, and that a refused change loses nothing.

scrypt as we write it takes 50 ms, so most lines here are made with its smallest parameters.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
import re
import resource
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from litebot.errors import LitebotError
from litebot.users import ALPHABET
from litebot.users import User
from litebot.users import UserFile
from litebot.users import generate_password

ADA = User("ada", "admin")
BOB = User("bob", "viewer")


def line(user: User, password: str, n: int = 2, r: int = 1, p: int = 1) -> str:
    key = hashlib.scrypt(password.encode(), salt=b"salt", n=n, r=r, p=p, dklen=32)
    salt_b64, key_b64 = (base64.b64encode(part).decode() for part in (b"salt", key))
    return f"{user.name}:{user.role}:scrypt${n}${r}${p}${salt_b64}${key_b64}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "users"


@pytest.fixture
def users(path: Path) -> UserFile:
    """Ada, the only admin, and Bob."""
    write(path, line(ADA, "ada's secret") + line(BOB, "bob's secret"))
    return UserFile(path)


def write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)


def test_users_come_and_go(path: Path) -> None:
    users = UserFile(path)
    assert users.names() == []
    users.add("ada", "ada's secret")
    users.add("bob", "bob's secret", "viewer")
    assert users.names() == [ADA, BOB]
    assert users.verify("bob", "bob's secret") == BOB
    assert users.verify("bob", "ada's secret") is None
    users.set_password("bob", "another secret: ä")
    assert users.verify("bob", "another secret: ä") == BOB
    assert users.verify("bob", "bob's secret") is None
    users.remove("bob")
    assert users.verify("bob", "another secret: ä") is None
    assert users.names() == [ADA]
    assert os.listdir(path.parent) == ["users"]


def test_what_is_written(path: Path) -> None:
    old_umask = os.umask(0)
    try:
        UserFile(path).add("a.B_c@d-9", "secret: 8")
        UserFile(path).add("two", "secret: 8")
    finally:
        os.umask(old_umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first, second = path.read_text().splitlines()
    name, role, stored = first.split(":")
    assert (name, role) == ("a.B_c@d-9", "admin")
    kind, n, r, p, salt, key = stored.split("$")
    assert (kind, n, r, p) == ("scrypt", "16384", "8", "1")
    assert len(base64.b64decode(salt)) == 16
    assert base64.b64decode(key) == hashlib.scrypt(
        b"secret: 8", salt=base64.b64decode(salt), n=16384, r=8, p=1, dklen=32
    )
    assert salt not in second


def test_parameters_come_from_the_line(path: Path) -> None:
    # RFC 7914, section 12, third vector; the first 32 of its 64 bytes.
    key = bytes.fromhex("fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162")
    write(path, f"ada:admin:scrypt$1024$8$16$TmFDbA==${base64.b64encode(key).decode()}\n")
    assert UserFile(path).verify("ada", "password") == ADA


def test_an_unknown_name_costs_as_much(users: UserFile) -> None:
    def cpu_s(name: str) -> float:  # not by the clock, which a busy machine makes unsteady
        begin = time.thread_time()
        assert users.verify(name, "no such password") is None
        return time.thread_time() - begin

    write(users.path, line(ADA, "x", n=16384, r=8))
    assert cpu_s("eve") > 0.3 * cpu_s("ada")


def test_changes_by_others_are_seen(users: UserFile) -> None:
    assert users.verify("bob", "bob's secret") == BOB
    UserFile(users.path).remove("bob")
    assert users.verify("bob", "bob's secret") is None
    users.path.unlink()
    assert users.names() == []


def test_changes_at_the_same_time_are_all_kept(users: UserFile) -> None:
    everyone = [f"user{number}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: UserFile(users.path).add(name, "password"), everyone))
    assert {user.name for user in users.names()} == {"ada", "bob", *everyone}


@pytest.mark.parametrize(
    ("method", "arguments", "what", "hint"),
    [
        ("add", ("bob", "long enough"), "user 'bob' exists already in", "litebot user passwd bob"),
        ("add", ("", "long enough"), "user name '' can't be used; it must be 1 to 64 of", None),
        ("add", ("a" * 65, "long enough"), "user name 'aaaaa", None),
        ("add", ("a:b", "long enough"), "user name 'a:b' can't be used", None),
        ("add", ("eve\n", "long enough"), r"user name 'eve\\n' can't be used", None),
        ("add", ("é", "long enough"), "user name 'é' can't be used", None),
        ("add", ("eve", "long enough", "root"), "role 'root' is unknown; .* admin or view", None),
        ("add", ("eve", ""), "the password of user 'eve' is empty", None),
        ("add", ("eve", "hunter2"), "the password of user 'eve' has 7 characters; .* 8", None),
        ("set_password", ("bob", ""), "the password of user 'bob' is empty", None),
        ("set_password", ("bob", "hunter2"), "the password of user 'bob' has 7 characters", None),
        ("set_password", ("eve", "long enough"), "no user 'eve' in .*; known: ada, bob", "litebot"),
        ("remove", ("eve",), "no user 'eve' in .*users; known: ada, bob", "litebot user list"),
        ("remove", ("ada",), "user 'ada' is the last admin in", "litebot user remove --force ada"),
    ],
)
def test_refused_changes_change_nothing(
    users: UserFile, method: str, arguments: tuple[str, ...], what: str, hint: str | None
) -> None:
    before = users.path.read_text(), users.path.stat()
    with pytest.raises(LitebotError, match=f"^{what}") as caught:
        getattr(users, method)(*arguments)
    assert (caught.value.hint or "").startswith(hint or "")
    assert (caught.value.hint is None) == (hint is None)
    assert "hunter2" not in f"{caught.value.what} {caught.value.hint}"
    assert (users.path.read_text(), users.path.stat()) == before
    assert os.listdir(users.path.parent) == ["users"]


def test_who_could_not_be_written_does_not_get_in(users: UserFile) -> None:
    before = users.path.read_text()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))  # as a full disk, for root as well
    try:
        with pytest.raises(LitebotError, match="users can't be written: File too large"):
            users.add("eve", "long enough")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert users.path.read_text() == before
    assert users.names() == [ADA, BOB]


def test_the_last_admin_goes_by_force_or_after_another_came(users: UserFile) -> None:
    write(users.path, users.path.read_text() + line(User("eve", "admin"), "x"))
    users.remove("ada")
    users.remove("eve", force=True)
    assert users.names() == [BOB]


def test_a_change_keeps_the_lines_of_the_others(users: UserFile) -> None:
    write(users.path, "\n" + users.path.read_text())
    users.remove("bob")
    assert users.path.read_text() == line(ADA, "ada's secret")


GOOD = line(ADA, "x").strip()
KEY = GOOD.rpartition("$")[2]


@pytest.mark.parametrize(
    ("second", "what"),
    [
        ("eve", "malformed; it must be name:role:scrypt"),
        ("# a comment", "malformed"),
        (f"eve:admin:bcrypt$2$1$1$c2FsdA==${KEY}", "malformed"),
        (f"eve:admin:scrypt$two$1$1$c2FsdA==${KEY}", "malformed"),
        (f"eve:admin:scrypt$3$1$1$c2FsdA==${KEY}", "malformed"),
        (f"eve:admin:scrypt$0$1$1$c2FsdA==${KEY}", "malformed"),
        (f"eve:admin:scrypt$2$0$1$c2FsdA==${KEY}", "malformed"),
        (f"eve:admin:scrypt$2$1$-1$c2FsdA==${KEY}", "malformed"),
        (f"eve:admin:scrypt$1073741824$8$1$c2FsdA==${KEY}", "malformed"),
        (f"eve:admin:scrypt$2$1$1$${KEY}", "malformed"),
        (f"eve:admin:scrypt$2$1$1$c2FsdA==${KEY[:-2]}", "malformed"),
        (f"eve:admin:scrypt$2$1$1$c2FsdA==$é{KEY}", "malformed"),
        (f"eve:admin:scrypt$2$1$1$c2FsdA==$!{KEY}", "malformed"),
        (f"eve:root:scrypt$2$1$1$c2FsdA==${KEY}", "bad name or role; a name is"),
        (f"e ve:admin:scrypt$2$1$1$c2FsdA==${KEY}", "bad name or role"),
        (GOOD, "user 'ada' is listed twice"),
    ],
)
def test_a_malformed_line_is_named_and_its_hash_is_not_shown(
    path: Path, second: str, what: str
) -> None:
    write(path, f"{GOOD}\n{second}\n")
    with pytest.raises(LitebotError, match=f"^{re.escape(str(path))}:2: {what}") as caught:
        UserFile(path).verify("ada", "x")
    with pytest.raises(LitebotError, match=":2: "):
        UserFile(path).add("bob", "long enough")
    assert KEY[:8] not in f"{caught.value.what} {caught.value.hint} {caught.value.__context__!r}"
    assert path.read_text() == f"{GOOD}\n{second}\n"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_file_that_others_can_open_is_refused(path: Path, mode: int) -> None:
    write(path, line(ADA, "ada's secret"))
    path.chmod(mode)
    with pytest.raises(LitebotError, match=f"users has mode {mode:04o}; it holds pass") as caught:
        UserFile(path).verify("ada", "ada's secret")
    assert caught.value.hint == f"chmod 600 {path}"


def test_a_file_that_cannot_be_read(path: Path) -> None:
    path.mkdir()
    with pytest.raises(LitebotError, match="users can't be read: Is a directory"):
        UserFile(path).names()


def test_generated_passwords() -> None:
    passwords = {generate_password() for _ in range(200)}
    assert len(passwords) == 200
    for password in passwords:
        assert re.fullmatch("[a-z2-9]{4}(-[a-z2-9]{4}){4}", password)
    used = set("".join(passwords)) - {"-"}
    assert used == set(ALPHABET)
    assert 20 * math.log2(len(used)) >= 95
