"""litebot.toml: the database, ports and limits of a master, as frozen dataclasses.

Each key has its default, its documentation and its check in one place, its dataclass field.  The
file that create-master writes, the errors of `load` and the edits of `set_value` all come from
there.
"""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field
from dataclasses import fields
from pathlib import Path
from typing import Any
from typing import TypeVar

from litebot import toml_lines
from litebot.errors import SettingsError
from litebot.files import PRIVATE
from litebot.files import locked
from litebot.files import replace_file
from litebot.settings import checks

# Importing tomlkit takes 60 ms and difflib 7 ms, so only the functions that need them do it.

Value = TypeVar("Value", str, int)


def _key(default: Value, doc: str, check: Callable[[Value], Value] | None = None) -> Value:
    """Return a field that is a key of litebot.toml; `doc` becomes the comment above the key."""
    made: Value = field(default=default, metadata={"doc": doc, "check": check})
    return made


class _Section:
    """A [section]; making one checks its fields and completes URLs."""

    def __post_init__(self) -> None:
        section = type(self).__name__.lower()
        for name in (f.name for f in fields(type(self))):  # type: ignore[arg-type]
            object.__setattr__(self, name, _checked(section, name, getattr(self, name)))


@dataclass(frozen=True)
class Database(_Section):
    """Where the master keeps its state."""

    url: str = _key(
        checks.DEFAULT_DATABASE,
        "sqlite:///FILE, relative to this directory (sqlite:////FILE is absolute), or\n"
        "postgresql://USER@HOST/NAME, with the password in ~/.pgpass or PGPASSWORD, not here.",
        checks.check_database_url,
    )
    durability: str = _key(
        "acknowledged",
        'What a power loss may lose from a SQLite file.  "acknowledged": nothing that the master\n'
        'has confirmed, such as a push or a click.  "commit": nothing at all, at the cost of an\n'
        'fsync at every step of a build.  "process": the last seconds.  A crash or kill -9 loses\n'
        "nothing.",
        checks.check_durability,
    )

    def sqlite_path(self, basedir: Path) -> Path | None:
        """Return the absolute path of the state file, or None if the database is not SQLite."""
        if not self.url.startswith(checks.SQLITE_PREFIX):
            return None
        return basedir.absolute() / self.url.removeprefix(checks.SQLITE_PREFIX)


@dataclass(frozen=True)
class Web(_Section):
    """The web page and its REST API."""

    listen: str = _key(
        "127.0.0.1",
        "The IP address to listen on: 127.0.0.1 for this machine only, 0.0.0.0 for every network.",
        checks.check_listen,
    )
    port: int = _key(8010, "The TCP port of the web page; 0 turns it off.", checks.check_port)
    url: str = _key(
        "",
        "The URL by which people reach the page, used for links and in mails, such as\n"
        '"https://ci.example.org/".  Empty: made from listen and port.',
        checks.check_web_url,
    )
    title: str = _key("", "The title of the page.  Empty: the name of this directory.")

    @property
    def public_url(self) -> str:
        """Return the URL for links, ending in "/".

        That is `url`, or one made from `listen` and `port` if `url` is empty.  Returns "" if there
        is neither a `url` nor a web server.
        """
        if self.url or not self.port:
            return self.url
        host = self.listen
        # 0.0.0.0 and :: mean every network; a browser can't open them.
        if host == "localhost" or ipaddress.ip_address(host).is_unspecified:
            host = "localhost"
        return f"http://[{host}]:{self.port}/" if ":" in host else f"http://{host}:{self.port}/"


@dataclass(frozen=True)
class Workers(_Section):
    """Where remote workers connect, and which environment the local ones get."""

    listen: str = _key(
        "127.0.0.1",
        "The IP address to listen on: 127.0.0.1 for this machine only, 0.0.0.0 for every network.",
        checks.check_listen,
    )
    port: int = _key(
        9989, "The TCP port for remote workers; 0: local workers only.", checks.check_port
    )
    environment: str = _key(
        "",
        "Variables of the master's environment that steps of a LocalWorker get besides PATH, HOME\n"
        'and the like, such as "JAVA_HOME CI_*".  Everybody who may read a log may see them.',
        checks.check_environment,
    )
    silence: int = _key(
        60,
        "How many seconds a worker may not answer before it is taken for lost and its builds are\n"
        "tried again.",
        checks.check_silence,
    )


@dataclass(frozen=True)
class Recovery(_Section):
    """What happens to the builds that were running when the master died."""

    max_attempts: int = _key(
        3,
        "How many times a build is started if the master dies each time while it runs.  Then its\n"
        "request ends as EXCEPTION, since the build itself may be what kills the master.",
        checks.check_attempts,
    )


@dataclass(frozen=True)
class Stop(_Section):
    """How the master stops."""

    grace: int = _key(
        0,
        "How many seconds a stop waits for running builds to end; those that still run then are\n"
        "interrupted, and retried after the next start.",
        checks.check_grace,
    )


@dataclass(frozen=True)
class Limits(_Section):
    """What visitors, hooks and workers may take of the master before they are refused."""

    body_mb: int = _key(
        8,
        "The largest body of a request to the page or its REST API, in MB (of 1,000,000 bytes).",
        checks.check_limit,
    )
    hook_body_mb: int = _key(25, "The same for change hooks.", checks.check_limit)
    connections: int = _key(
        512, "How many connections the page has at the same time, in all.", checks.check_limit
    )
    connections_per_address: int = _key(
        256,
        "The same from one address.  Behind a proxy all visitors have the proxy's address.",
        checks.check_limit,
    )
    request_seconds: int = _key(
        60,
        "By then a request has to be complete; for its headers there are 15 seconds at most.",
        checks.check_limit,
    )
    idle_seconds: int = _key(
        60, "How long a connection may stay open without a request.", checks.check_limit
    )
    answer_seconds: int = _key(
        60,
        "How long a visitor may take nothing of an answer before the connection is closed.",
        checks.check_limit,
    )
    reads: int = _key(
        2,
        "How many long answers (lists without a limit, whole logs) are read at the same time; the\n"
        "others wait.",
        checks.check_limit,
    )
    subscriptions: int = _key(
        256, "How many subscriptions to events one page may have.", checks.check_limit
    )
    worker_logins: int = _key(
        64,
        "How many connections to the port for workers may be open for more than a second that\n"
        "have not logged in.",
        checks.check_limit,
    )
    login_seconds: int = _key(15, "How long a worker may take to log in.", checks.check_limit)
    upload_mb: int = _key(
        20_000,
        "The largest upload of a step that has no maxsize, packed and unpacked, in MB.",
        checks.check_limit,
    )
    upload_files: int = _key(
        100_000,
        "How many files and folders one upload of a directory may have.",
        checks.check_limit,
    )


@dataclass(frozen=True)
class Projects(_Section):
    """Where the projects are that need no master.cfg."""

    directory: str = _key(
        "",
        "A folder with a file NAME.toml for each, relative to this directory; what they say is\n"
        "read at a start and at `litebot reconfig`.  Empty: the page and the commands decide, and\n"
        "the database keeps them.",
    )


@dataclass(frozen=True)
class Mail(_Section):
    """Where the mails of projects go out."""

    sender: str = _key(
        "",
        "The address that mails come from.  Empty: litebot@ and the name of this machine.",
        checks.check_mail_address,
    )
    host: str = _key("localhost", "The mail server.", checks.check_host)
    port: int = _key(25, "Its TCP port.", checks.check_mail_port)
    tls: str = _key(
        "none",
        '"starttls": the connection must become encrypted (mostly port 587).  "tls": it is from\n'
        'the start (465).  "none": it is not, which is for a server on this machine.',
        checks.check_tls,
    )
    user: str = _key("", "Who logs in there.  Empty: nobody.")
    password: str = _key(
        "", "The name of the file in the folder secrets with the password.", checks.check_secret
    )


@dataclass(frozen=True)
class Settings:
    """All settings of litebot.toml; `settings.database.url` alone chooses the database."""

    database: Database = field(default_factory=Database)
    web: Web = field(default_factory=Web)
    workers: Workers = field(default_factory=Workers)
    recovery: Recovery = field(default_factory=Recovery)
    stop: Stop = field(default_factory=Stop)
    limits: Limits = field(default_factory=Limits)
    projects: Projects = field(default_factory=Projects)
    mail: Mail = field(default_factory=Mail)


SECTIONS: dict[str, type[Database | Web | Workers | Recovery | Stop | Limits | Projects | Mail]] = {
    "database": Database,
    "web": Web,
    "workers": Workers,
    "recovery": Recovery,
    "stop": Stop,
    "limits": Limits,
    "projects": Projects,
    "mail": Mail,
}

HEADER = """\
# litebot.toml: the database, ports and limits of this master.  What it builds is in master.cfg.
# Read when the master starts and at `litebot reconfig`; a change under [database] needs a restart.
# A key that is missing has its default.
"""


def render(settings: Settings) -> str:
    """Return a litebot.toml with every key, its value, and its documentation as a comment."""
    lines = [HEADER]
    for name, section in SECTIONS.items():
        lines += [f"[{name}]", f"# {section.__doc__}", ""]
        for key in fields(section):
            lines += [f"# {line}" for line in key.metadata["doc"].split("\n")]
            lines += [f"{key.name} = {_toml(getattr(getattr(settings, name), key.name))}", ""]
    return "\n".join(lines)


def load(path: Path) -> Settings:
    """Read a litebot.toml; if it does not exist, return the defaults.

    Raises SettingsError with all errors of the file, each on a line of `what` as PATH:LINE: ...
    """
    text = _read(path)
    return Settings() if text is None else _parse(text, path)


def set_value(path: Path, key: str, value: str | int) -> None:
    """Set one key, such as "web.port", in the file at `path`; its comments and its mode stay.

    The new text is checked and then replaces the file in one step, so the file is never half
    written.  A file that does not exist is made, with all keys.  Raises SettingsError if the key is
    unknown, the value is refused, or another line of the file is wrong, and LitebotError if the
    file can't be written.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    section, _, name = key.partition(".")
    if section not in SECTIONS or not name:
        every = [f"{s}.{f.name}" for s, cls in SECTIONS.items() for f in fields(cls)]
        raise SettingsError(f"unknown setting {key!r}", _suggestion(key, every, "settings"))
    checked = _checked(section, name, value)
    with locked(path.parent):
        text = _read(path)
        text = render(Settings()) if text is None else text
        if not isinstance(_load_toml(text, path).get(section, {}), dict):
            _parse(text, path)
        try:
            document: Any = tomlkit.parse(text)
            document.setdefault(section, tomlkit.table())[name] = checked
            edited = tomlkit.dumps(document)
        except TOMLKitError as error:
            raise SettingsError(
                f"{path}: litebot can't set {key} in this file: {error}",
                f"edit the file by hand: {name} = {_toml(checked)} under [{section}]",
            ) from error
        _parse(edited, path)
        replace_file(path, edited, new_mode=PRIVATE)


def _read(path: Path) -> str | None:
    """Return the text of a file with its line ends unchanged, or None if it does not exist."""
    data = b""
    try:
        data = path.read_bytes()
        return data.decode()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SettingsError(
            f"{path} can't be read: {error.strerror}", f"ls -ld {shlex.quote(str(path))}"
        ) from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SettingsError(
            f"{path}:{line}: byte 0x{data[error.start]:02x} is not UTF-8",
            "save the file as UTF-8 in your editor",
        ) from error


def _load_toml(text: str, path: Path) -> dict[str, Any]:
    try:
        return toml_lines.load(text)
    except toml_lines.TomlError as error:
        raise SettingsError(
            f"{path}:{error.line}: {error.message}",
            'a string needs quotes, listen = "127.0.0.1"; a number has none, port = 8010',
        ) from error


def _parse(text: str, path: Path) -> Settings:
    faults: dict[tuple[str, ...], SettingsError] = {}
    sections: dict[str, dict[str, Any]] = {}
    for name, table in _load_toml(text, path).items():
        if name not in SECTIONS:
            faults[name,] = _unknown_section(name, table)
        elif not isinstance(table, dict):
            faults[name,] = SettingsError(
                f"{name} is {_shown(table)}; it must be a section", f"put its keys under [{name}]"
            )
        else:
            sections[name] = table
    for name, table in sections.items():
        for key, value in table.items():
            try:
                _checked(name, key, value)
            except SettingsError as fault:
                faults[name, key] = fault
    if not faults:
        made: dict[str, Any] = {n: SECTIONS[n](**table) for n, table in sections.items()}
        return Settings(**made)
    lines = toml_lines.find_lines(text)
    found = sorted(((lines[place], fault) for place, fault in faults.items()), key=lambda f: f[0])
    hints = [
        fault.hint if len(found) == 1 else f"line {line}: {fault.hint}"
        for line, fault in found
        if fault.hint
    ]
    raise SettingsError(
        "\n".join(f"{path}:{line}: {fault.what}" for line, fault in found),
        "\n".join(hints) or None,
    )


def _checked(section: str, key: str, value: object) -> object:
    """Return the value as the field stores it.  Raises SettingsError, without the line."""
    known = {f.name: f for f in fields(SECTIONS[section])}
    if key not in known:
        raise SettingsError(
            f"unknown key {key!r} in [{section}]", _suggestion(key, list(known), "keys")
        )
    default, check = known[key].default, known[key].metadata["check"]
    name = f"{section}.{key}"
    if type(value) is not type(default):  # isinstance would take true for 1
        need = "a whole number" if isinstance(default, int) else "a string in quotes"
        raise SettingsError(
            f"{name} is {_shown(value)}; it must be {need}", f"{key} = {_toml(default)}"
        )
    if isinstance(value, str) and not value.isprintable():
        raise SettingsError(f"{name} must be one line of printable characters")
    try:
        taken: object = check(value) if check else value
    except checks.CheckError as error:
        shown = error.shown or repr(value)
        raise SettingsError(f"{name} is {shown}; {error.need}", error.hint) from None
    return taken


def _unknown_section(name: str, table: object) -> SettingsError:
    if isinstance(table, (dict, list)):
        return SettingsError(
            f"unknown section [{name}]", _suggestion(name, list(SECTIONS), "sections")
        )
    homes = [s for s, cls in SECTIONS.items() if name in {f.name for f in fields(cls)}]
    return SettingsError(
        f"key {name!r} is not in a [section]",
        "put it under " + " or ".join(f"[{home}]" for home in homes or SECTIONS),
    )


def _suggestion(name: str, known: list[str], kind: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    return (
        f"{f'did you mean {near[0]!r}? ' if near else ''}known {kind}: {', '.join(sorted(known))}"
    )


def _shown(value: object) -> str:
    # The contents of a table or an array are not shown: they may be a URL with a password.
    if isinstance(value, dict):
        return "a table"
    return "an array" if isinstance(value, list) else repr(value)


def _toml(value: object) -> str:
    """Return a checked value as TOML; its strings are printable, so no other escapes are needed."""
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)
