"""Creates a basedir, completely or not at all."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import subprocess
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import ExitStack
from contextlib import contextmanager
from contextlib import suppress
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from functools import partial
from pathlib import Path

from litebot.basedir import Basedir
from litebot.errors import BasedirError
from litebot.errors import LitebotError
from litebot.files import LOCK_FILE
from litebot.files import PRIVATE
from litebot.files import locked
from litebot.files import not_writable_by_others
from litebot.master.admin.create_tables import tables_made
from litebot.master.admin.join import copy
from litebot.master.admin.join import require_masters
from litebot.master.admin.join import settings_like
from litebot.master.admin.join import to_copy
from litebot.master.db.sqlite.commit_watermark import path_of
from litebot.master.db.sqlite.state_file import make_state_file
from litebot.process import reserve_port
from litebot.settings import Database
from litebot.settings import Settings
from litebot.settings import Web
from litebot.settings import Workers
from litebot.settings import load
from litebot.settings import render
from litebot.users import UserFile
from litebot.users import generate_password

TEMPLATE = Path(__file__).parents[2] / "template"
PORTS_TRIED = 50
STAGE = ".new"
ADMIN = "admin"
# Commands that change files lock the basedir by another file; a create runs some of them.
LOCK = ".create.lock"
# What an interrupted command may leave in a folder that is empty otherwise.
IGNORED = (STAGE, LOCK, LOCK_FILE)
# How long a create waits for another one: that may have tables to make on a distant server.
LOCK_TIMEOUT_S = 30.0


@dataclass
class Created:
    """What create() added, what was there and is kept, and the admin's password if it is new.

    The lists hold paths relative to the basedir; a database on a server is in one by its url.
    """

    settings: Settings
    added: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    password: str | None = None


@dataclass(frozen=True)
class Choices:
    """What can be chosen for a new basedir; None leaves the default in the file.

    `database_url` goes into litebot.toml; `config_file`, `log_size` and `log_count` go into
    buildbot.tac.  The log is rotated at `log_size` bytes (0: never), and `log_count` old ones are
    kept (0: all).  With `join` the database is that of other masters, whose configuration the new
    one must use.  If `like`, the basedir of one of them, is given, it is copied from there.
    """

    database_url: str | None = None
    config_file: str | None = None
    log_size: int | None = None
    log_count: int | None = None
    join: bool = False
    like: Path | None = None

    def tac(self) -> str:
        """Return the text of buildbot.tac."""
        text = (TEMPLATE / "buildbot.tac").read_text(encoding="utf-8")
        for name, value in (
            ("configfile", self.config_file),
            ("rotateLength", self.log_size),
            ("maxRotatedFiles", self.log_count),
        ):
            if value is not None:
                old = re.search(rf"^{name} = .*$", text, re.MULTILINE)
                assert old, name
                text = text.replace(old[0], f"{name} = {value or None!r}")
        return text


NO_CHOICE = Choices()


def create(basedir: Path, *, force: bool = False, choices: Choices = NO_CHOICE) -> Created:
    """Create a basedir with a master, its database and a sample project that it builds.

    A new basedir is created under a temporary name beside it, and renamed when it is complete; in
    an existing empty folder, under a temporary name inside.  With `force`, a folder that holds
    something gets what is missing, each part under a temporary name first; nothing in it is
    changed.

    Raises BasedirError if the target is not empty (without `force`) or holds a file that a choice
    would have to go into, MasterRunning if a master runs in it, StoreError if a server's database
    can't be used or is not empty, and LitebotError if git or the file system refuses.
    """
    basedir = basedir.absolute()
    if basedir.exists() and not basedir.is_dir():
        raise BasedirError(f"{basedir} is not a folder", "name another one")
    try:
        with not_writable_by_others():
            basedir.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LitebotError(
            f"{basedir} can't be made: {basedir.parent}: {error.strerror}"
        ) from error
    with ExitStack() as held:
        held.enter_context(not_writable_by_others())
        # A second create waits, and then finds what this one has made.
        if not basedir.is_dir():
            held.enter_context(locked(basedir.parent, f".{basedir.name}.lock", LOCK_TIMEOUT_S))
        if basedir.is_dir():
            Basedir(basedir).require_writable()
            held.enter_context(locked(basedir, LOCK, LOCK_TIMEOUT_S))
        return _create(basedir, force, choices, held)


def _create(basedir: Path, force: bool, choices: Choices, reserved: ExitStack) -> Created:
    """Do as `create`, under its locks; the ports of new settings are kept in `reserved`."""
    exists = basedir.is_dir()
    if exists and any(path.name not in IGNORED for path in basedir.iterdir()):
        if not force:
            raise BasedirError(
                f"{basedir} is not empty",
                f"name another folder, or add what is missing to this one: litebot create-master"
                f" --force {shlex.quote(str(basedir))}",
            )
        Basedir(basedir).refuse_owner("it has all it needs")
        _refuse_late(Basedir(basedir), choices)
        created = _complete(basedir, choices, reserved)
        with _on_server(basedir, created, choices):
            return created
    # An empty folder may be a mount point or the working directory of a shell, so it must not be
    # replaced.
    stage = basedir / STAGE if exists else basedir.with_name(f".{basedir.name}{STAGE}")
    try:
        shutil.rmtree(stage, ignore_errors=True)  # left by an interrupted create
        stage.mkdir()
        created = _complete(stage, choices, reserved, basedir.parent)
        moves = [(stage, basedir)]
        if exists:
            # With buildbot.tac the folder is a basedir, so that is moved last.
            names = sorted(path.name for path in stage.iterdir())
            names.sort(key="buildbot.tac".__eq__)
            moves = [(stage / name, basedir / name) for name in names]
        with ExitStack() as undo:
            # A server's tables are committed after the renames, and the commit can still fail.
            with _on_server(stage, created, choices):
                for here, there in moves:
                    os.rename(here, there)
                    undo.callback(os.rename, there, here)
            undo.pop_all()
    except OSError as error:
        raise LitebotError(f"{basedir} can't be made: {error.strerror}", None) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return created


def _refuse_late(files: Basedir, choices: Choices) -> None:
    """Raise BasedirError if a choice would have to go into a file that exists already."""
    option = "--join" if choices.join else "--database"
    late = [(files.settings_file, option, choices.database_url)]
    late += [
        (files.tac_file, option, None if value is None else str(value))
        for option, value in (
            ("--config", choices.config_file),
            ("--log-size", choices.log_size),
            ("--log-count", choices.log_count),
        )
    ]
    for path, option, value in late:
        if value is not None and path.exists():
            raise BasedirError(
                f"{path} is there already and is not changed, so {option} can't take effect",
                f"leave {option} out and edit the file",
            )


def lacking(basedir: Path, choices: Choices) -> list[str]:
    """Return what `create` with `force` would add to a folder with a database: relative paths."""
    with ExitStack() as reserved:
        return _complete(basedir, choices, reserved, dry_run=True).added


def _complete(
    basedir: Path,
    choices: Choices,
    reserved: ExitStack,
    beside: Path | None = None,
    *,
    dry_run: bool = False,
) -> Created:
    """Add the parts of a master that a folder lacks; with `dry_run` only list them.

    The ports of new settings are kept in `reserved`, and are others than those of the masters in
    the folder `beside`, by default the parent.
    """
    files = Basedir(basedir)
    other = Basedir(choices.like) if choices.like is not None else None
    if not files.settings_file.exists():
        taken = _ports_in(beside or basedir.parent)
        settings = _settings(choices.database_url, other, taken, reserved)
    else:
        settings = load(files.settings_file)
    created = Created(settings)

    def add(path: Path, make: Callable[[Path], None]) -> None:
        if path.exists():
            created.kept.append(str(path.relative_to(basedir)))
            return
        if dry_run:
            created.added.append(str(path.relative_to(basedir)))
            return
        temporary = path.with_name(f".{path.name}.new")
        _remove(temporary)
        try:
            make(temporary)
            os.rename(temporary, path)
        finally:
            _remove(temporary)
        created.added.append(str(path.relative_to(basedir)))

    def users(path: Path) -> None:
        password = generate_password()
        UserFile(path).add(ADMIN, password)
        created.password = password

    config = basedir / choices.config_file if choices.config_file else files.config_file
    if other is None:
        add(files.settings_file, lambda path: _write(path, render(settings), PRIVATE))
    else:
        add(files.settings_file, lambda path: settings_like(other, path, settings))
        for source in to_copy(other):
            target = config if source == other.config_file else basedir / source.name
            add(target, partial(copy, source))
    if choices.join:
        if not files.secrets.exists():
            add(files.secrets, lambda path: path.mkdir(mode=0o700))
        add(files.tac_file, lambda path: _write(path, choices.tac()))
        return created
    if not config.exists():
        # It is made before the master.cfg that builds it, which must not be left without it when a
        # create is interrupted.
        add(basedir / "project", _make_project)
    add(config, lambda path: _write(path, (TEMPLATE / "master.cfg").read_text(encoding="utf-8")))
    add(files.tac_file, lambda path: _write(path, choices.tac()))
    add(files.users_file, users)
    add(files.secrets, _make_secrets)
    state_file = settings.database.sqlite_path(basedir)
    if state_file is not None:
        if not state_file.exists() and not dry_run:
            path_of(state_file).unlink(missing_ok=True)  # it describes a former state file
        add(state_file, make_state_file)
    return created


def _settings(
    url: str | None, other: Basedir | None, taken: set[int], reserved: ExitStack
) -> Settings:
    """Return the settings of a new master, on free ports: another may be on this machine.

    Web and workers are as in the basedir `other`, if given.  A port of 0 stays 0.  See _free_port.
    """
    web, workers = Web(), Workers()
    first_web, first_workers = web.port, workers.port
    if other is not None:
        there = load(other.settings_file)
        web, workers = there.web, there.workers
        first_web, first_workers = web.port + 1, workers.port + 1
    free = partial(_free_port, taken, reserved)
    return Settings(
        database=Database(url or Database.url),
        web=replace(web, port=web.port and free(web.listen, first_web)),
        workers=replace(workers, port=workers.port and free(workers.listen, first_workers)),
    )


def _ports_in(folder: Path) -> set[int]:
    """Return the ports in litebot.toml of this user's masters in a folder, running or not."""
    ports = set[int]()
    with suppress(OSError):
        for path in folder.glob("*/litebot.toml"):
            with suppress(OSError, LitebotError):
                if path.is_file() and path.stat().st_uid == os.geteuid():
                    settings = load(path)
                    ports |= {settings.web.port, settings.workers.port}
    return ports


@contextmanager
def _on_server(basedir: Path, created: Created, choices: Choices) -> Iterator[None]:
    """Create the tables of a database on a server, and commit them if the `with` body succeeds.

    If litebot.toml was there before, the database that it names may be in use; it is then left as
    it is.  With `choices.join`, require the tables of other masters instead.
    """
    database = created.settings.database
    if database.sqlite_path(basedir) is not None:
        yield
        return
    if choices.join:
        require_masters(database.url, basedir)
        yield
        return
    is_new = Basedir(basedir).settings_file.name in created.added
    with tables_made(database.url, basedir, must_be_empty=is_new) as made:
        (created.added if made else created.kept).append(database.url)
        yield


def _make_secrets(path: Path) -> None:
    path.mkdir(mode=0o700)
    for name in ("worker-password", "webhook-secret"):
        _write(path / name, secrets.token_urlsafe(24) + "\n", PRIVATE)


def _make_project(path: Path) -> None:
    """Create a git repository with one commit: the package that the sample master.cfg builds."""
    shutil.copytree(TEMPLATE / "project", path, ignore=shutil.ignore_patterns("__pycache__"))
    _git(path, "init", "--quiet", "--initial-branch=main")
    _git(path, "config", "user.name", "litebot")
    _git(path, "config", "user.email", "litebot@localhost")
    _git(path, "add", ".")
    _git(path, "commit", "--quiet", "--no-gpg-sign", "--message", "A package with tests")


def _git(folder: Path, *arguments: str) -> None:
    # The user's own configuration (hooks, templates, signing) must not affect the sample.  Nor must
    # the repository of a hook that runs this command.
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    env |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    command = ["git", "-C", str(folder), *arguments]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, env=env)
    except FileNotFoundError:
        raise LitebotError(
            "git is not installed; the sample project and most builds need it", "apt install git"
        ) from None
    except subprocess.CalledProcessError as error:
        raise LitebotError(f"{' '.join(command)} failed: {error.stderr.strip()}") from error


def _free_port(taken: set[int], reserved: ExitStack, address: str, first: int) -> int:
    """Return the first free port from `first` on, so that a second master on a machine just works.

    Leaves out ports that are `taken`.  The port is kept from other creates until `reserved` is
    closed, when litebot.toml is in its place.  Returns `first` if none of PORTS_TRIED ports is
    free.
    """
    for port in range(first, first + PORTS_TRIED):
        if port in taken:
            continue
        if (reserving := reserve_port(address, port)) is not None:
            reserved.enter_context(reserving)
            return port
    return first


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(fd, "w", encoding="utf-8") as f:
        f.write(text)
        f.flush()
        os.fsync(fd)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
