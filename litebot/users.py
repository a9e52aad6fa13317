"""The users who may log in on the web page: the file `users` of a basedir.

Each line is one user, `name:role:scrypt$N$r$p$salt$hash`, with salt and hash in base64.  A line has
its own parameters of scrypt (RFC 7914), so that old passwords still work when they are raised here.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import secrets
import shlex
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from litebot.errors import LitebotError
from litebot.files import PRIVATE
from litebot.files import locked
from litebot.files import refuse_unwritable
from litebot.files import replace_file

ROLES = ("admin", "viewer")
PASSWORD_MIN = 8  # characters

# With these, each guess of a password takes 16 MiB and about 50 ms, as Percival's paper on scrypt
# recommends for logins.
SCRYPT_N, SCRYPT_R, SCRYPT_P = 2**14, 8, 1
SALT_BYTES, KEY_BYTES = 16, 32
# The limits for a line of the file: a damaged line must not use up all memory.
MAX_BYTES, MAX_P = 2**28, 16

# Without l, 1, i, o and 0.  One of 31 characters has log2(31) = 4.95 bits, and 20 have 99 bits.
ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"

_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")


@dataclass(frozen=True)
class User:
    """A user.  An "admin" may force, stop, cancel and pause builds; a "viewer" may only look."""

    name: str
    role: str


@dataclass(frozen=True)
class _Hash:
    n: int
    r: int
    p: int
    salt: bytes
    key: bytes

    def matches(self, password: str) -> bool:
        key = _scrypt(password, self.n, self.r, self.p, self.salt)
        return hmac.compare_digest(key, self.key)

    def __str__(self) -> str:
        salt, key = (base64.b64encode(part).decode() for part in (self.salt, self.key))
        return f"scrypt${self.n}${self.r}${self.p}${salt}${key}"

    def __repr__(self) -> str:
        return "_Hash(...)"  # so that no traceback or log shows the hash


_Users = dict[str, tuple[User, _Hash]]

# verify() compares the password of an unknown name with it, which takes as long as for a known one.
_NOBODY = _Hash(SCRYPT_N, SCRYPT_R, SCRYPT_P, bytes(SALT_BYTES), bytes(KEY_BYTES))


def generate_password() -> str:
    """Return a random password of 99 bits, easy to read out and type: xxxx-xxxx-xxxx-xxxx-xxxx."""
    return "-".join("".join(secrets.choice(ALPHABET) for _ in range(4)) for _ in range(5))


class UserFile:
    """The users in one file; a file that does not exist has none.

    Every method reads the file again if it has changed.  It raises LitebotError if the file can't
    be read, has a malformed line, or can be read by anybody but its owner.  Changes are made under
    a lock and replace the file in one step; a refused change leaves it as it was.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._basedir = shlex.quote(str(path.parent))
        self._cached: tuple[tuple[int, int, int], _Users] | None = None

    def names(self) -> list[User]:
        """Return the users, in the order of the file."""
        return [user for user, _ in self._read().values()]

    def fingerprint(self, name: str) -> str | None:
        """Return a text that changes with the user's password, or None for an unknown name.

        A session keeps it to show that it began with the current password.  It reveals nothing
        about the password.
        """
        user, stored = self._read().get(name, (None, _NOBODY))
        return hashlib.sha256(str(stored).encode()).hexdigest()[:32] if user else None

    def add(self, name: str, password: str, role: str = "admin") -> None:
        """Add a user.  Refuses a name that exists, a bad name or role, and a short password."""
        if not _NAME.fullmatch(name):
            raise LitebotError(
                f"user name {name!r} can't be used; it must be 1 to 64 of A-Z a-z 0-9 . _ @ -"
            )
        if role not in ROLES:
            raise LitebotError(f"role {role!r} is unknown; it must be {' or '.join(ROLES)}")
        _check_password(name, password)

        def change(users: _Users) -> None:
            if name in users:
                raise LitebotError(
                    f"user {name!r} exists already in {self.path}",
                    f"litebot user passwd {name} {self._basedir}",
                )
            users[name] = (User(name, role), _hash(password))

        self._change(change)

    def set_password(self, name: str, password: str) -> None:
        """Change the password of a user.  Refuses an unknown name and a short password."""
        _check_password(name, password)

        def change(users: _Users) -> None:
            user, _ = self._find(users, name)
            users[name] = (user, _hash(password))

        self._change(change)

    def remove(self, name: str, *, force: bool = False, dry_run: bool = False) -> list[User]:
        """Remove a user; returns the users who are left.

        Refuses the last admin unless `force`, as nobody could act any more.  With `dry_run` the
        file stays as it is.
        """

        def change(users: _Users) -> None:
            user, _ = self._find(users, name)
            admins = [other for other, _ in users.values() if other.role == "admin"]
            if admins == [user] and not force:
                raise LitebotError(
                    f"user {name!r} is the last admin in {self.path}; nobody could force or stop "
                    "builds on the web page",
                    f"litebot user remove --force {name} {self._basedir}",
                )
            del users[name]

        return self._change(change, dry_run=dry_run)

    def verify(self, name: str, password: str) -> User | None:
        """Return the user if the password is right, else None.

        Takes about 50 ms, also for an unknown name, so that the time does not reveal which names
        exist.  Call it in another thread than the reactor's; several threads may call it at once.
        """
        user, stored = self._read().get(name, (None, _NOBODY))
        return user if stored.matches(password) else None

    def _find(self, users: _Users, name: str) -> tuple[User, _Hash]:
        if name not in users:
            raise LitebotError(
                f"no user {name!r} in {self.path}; known: {', '.join(users) or 'none'}",
                f"litebot user list {self._basedir}",
            )
        return users[name]

    def _change(self, change: Callable[[_Users], None], *, dry_run: bool = False) -> list[User]:
        """Change the file; returns the users who are then in it."""
        with locked(self.path.parent):
            users = dict(self._read())
            change(users)
            left = [user for user, _ in users.values()]
            if dry_run:
                refuse_unwritable(self.path)
                return left
            lines = [f"{user.name}:{user.role}:{stored}\n" for user, stored in users.values()]
            replace_file(self.path, "".join(lines), new_mode=PRIVATE)
        return left

    def _read(self) -> _Users:
        # verify() runs in several threads, so _cached is read once and replaced as a whole.
        cached = self._cached
        try:
            if cached and cached[0] == _signature(self.path.stat()):
                return cached[1]
            with open(self.path, "rb") as file:
                status = os.fstat(file.fileno())
                data = file.read()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise LitebotError(
                f"{self.path} can't be read: {error.strerror}",
                f"ls -l {shlex.quote(str(self.path))}",
            ) from error
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077:
            raise LitebotError(
                f"{self.path} has mode {mode:04o}; it holds password hashes, which only its owner "
                "may read",
                f"chmod 600 {shlex.quote(str(self.path))}",
            )
        users = self._parse(data.decode("ascii", "replace"))
        self._cached = (_signature(status), users)
        return users

    def _parse(self, text: str) -> _Users:
        users: _Users = {}
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            # The error does not show the line, as it has a hash or part of one.
            place = f"{self.path}:{number}"
            try:
                name, role, stored = line.strip().split(":")
                entry = (User(name, role), _parse_hash(stored))
            except ValueError:
                raise LitebotError(
                    f"{place}: malformed; it must be name:role:scrypt$N$r$p$salt$hash",
                    f"delete line {number}, then add the user again: litebot user add NAME"
                    f" {self._basedir}",
                ) from None
            if not _NAME.fullmatch(name) or role not in ROLES:
                raise LitebotError(
                    f"{place}: bad name or role; a name is 1 to 64 of A-Z a-z 0-9 . _ @ -, "
                    f"a role {' or '.join(ROLES)}"
                )
            if name in users:
                raise LitebotError(f"{place}: user {name!r} is listed twice", "delete one line")
            users[name] = entry
        return users


def _signature(status: os.stat_result) -> tuple[int, int, int]:
    return (status.st_mtime_ns, status.st_size, status.st_ino)


def _check_password(name: str, password: str) -> None:
    if not password:
        raise LitebotError(f"the password of user {name!r} is empty")
    if len(password) < PASSWORD_MIN:
        raise LitebotError(
            f"the password of user {name!r} has {len(password)} characters; it must have at least "
            f"{PASSWORD_MIN}"
        )


def _scrypt(password: str, n: int, r: int, p: int, salt: bytes) -> bytes:
    return hashlib.scrypt(
        # A password from a terminal with another encoding may have surrogates, and is still valid.
        password.encode("utf-8", "surrogatepass"),
        salt=salt,
        n=n,
        r=r,
        p=p,
        # OpenSSL allows 32 MiB by default and counts n, p and 2 (EVP_PBE_scrypt(3)).
        maxmem=128 * r * (n + p + 2),
        dklen=KEY_BYTES,
    )


def _hash(password: str) -> _Hash:
    salt = secrets.token_bytes(SALT_BYTES)
    key = _scrypt(password, SCRYPT_N, SCRYPT_R, SCRYPT_P, salt)
    return _Hash(SCRYPT_N, SCRYPT_R, SCRYPT_P, salt, key)


def _parse_hash(stored: str) -> _Hash:
    """Raise ValueError unless `stored` is a hash that `_scrypt` can compare with."""
    kind, n, r, p, salt, key = stored.split("$")
    if kind != "scrypt":
        raise ValueError(kind)
    decoded = (base64.b64decode(part, validate=True) for part in (salt, key))
    made = _Hash(int(n), int(r), int(p), *decoded)
    power_of_two = made.n > 1 and made.n & (made.n - 1) == 0
    in_bounds = made.r > 0 and 128 * made.n * made.r <= MAX_BYTES and 0 < made.p <= MAX_P
    if not (power_of_two and in_bounds and made.salt and len(made.key) == KEY_BYTES):
        raise ValueError("parameters")
    return made
