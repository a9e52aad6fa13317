"""Loads master.cfg with Buildbot's loader, and adds what it leaves out from litebot.toml."""

from __future__ import annotations

import functools
import sys
import sysconfig
import traceback
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from buildbot.config.errors import ConfigErrors
from buildbot.config.errors import capture_config_errors
from buildbot.config.master import FileLoader
from buildbot.config.master import MasterConfig
from buildbot.config.master import loadConfigDict
from buildbot.interfaces import IConfigurator
from buildbot.www.auth import NoAuth

from litebot.basedir import Basedir
from litebot.errors import ConfigError
from litebot.errors import ProjectError
from litebot.errors import SettingsError
from litebot.master.builds.environment import StepEnvironment
from litebot.master.configuration import step_classes
from litebot.master.configuration.lines import Lines
from litebot.master.configuration.plain_secrets import learn_plain_secrets
from litebot.master.configuration.ports import EVERY_ADDRESS
from litebot.master.configuration.ports import address_of
from litebot.master.configuration.ports import endpoint
from litebot.master.configuration.specialize import specialize
from litebot.master.db.urls import configured_url
from litebot.master.db.urls import parsed
from litebot.master.db.urls import settings_url
from litebot.master.secrets.folder import FolderSecrets
from litebot.master.secrets.folder import unusable_files
from litebot.master.secrets.manager import learn_folder
from litebot.master.web import hook_secrets
from litebot.master.web.allowed_origins import origins
from litebot.master.web.auth import AdminIfLoggedIn
from litebot.master.web.auth import FileAuth
from litebot.master.web.auth import RolesFromUserFile
from litebot.master.web.auth import admins_act
from litebot.master.web.auth import lists_its_users
from litebot.projects.definition import Project
from litebot.settings import Settings
from litebot.settings import Web
from litebot.settings import load

# Modules in these folders do not belong to a configuration.
LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))
# Modules of Buildbot with change sources and schedulers that listen on a port of their own.
LISTENING = ("buildbot.changes.pb", "buildbot.schedulers.trysched")
PAGES = "litebot"
VIEWS = ("waterfall_view", "console_view", "grid_view")


class Configuration(MasterConfig):
    """Buildbot's, but valid before the first builder is there: projects may come later."""

    def check_single_master(self) -> None:
        """Check as Buildbot does, except that there may be no builders."""
        if self.builders:
            super().check_single_master()


class ConfigLoader(FileLoader):
    """Buildbot's `config_loader` for a litebot master; litebot.toml is read anew each time.

    `configFileName` is relative to the basedir, as in buildbot.tac.  `errors` are those of the
    last load, or None; `notes` are messages about it for the user.  `check` is called with the
    loaded settings and configuration, and may raise ConfigErrors.  `projects` returns those that
    are added to what master.cfg defines, and may raise LitebotError.
    """

    errors: ConfigErrors | None = None
    notes: tuple[str, ...] = ()

    def __init__(
        self,
        basedir: str,
        configFileName: str,
        check: Callable[[Settings, MasterConfig], None] | None = None,
        projects: Callable[[Settings], Sequence[Project]] | None = None,
    ) -> None:
        super().__init__(basedir, configFileName)
        step_classes.hold_weakly()
        self._check = check
        self._projects = projects
        self.files = Basedir(basedir)
        # All loads share one environment, since a LocalWorker outlives a reconfig.
        self._environment = StepEnvironment()

    def loadConfig(self) -> MasterConfig:
        """Return the whole configuration.  Raises ConfigErrors, each with file and line if known.

        Raises them also for litebot.toml.
        """
        return self.load_with(self._projects)

    def load_with(self, projects: Callable[[Settings], Sequence[Project]] | None) -> MasterConfig:
        """Return the configuration that there would be with these projects; see loadConfig."""
        self.errors = None
        try:
            return self._load(projects)
        except ConfigErrors as error:
            self.errors = error
            raise

    def _load(self, projects: Callable[[Settings], Sequence[Project]] | None) -> MasterConfig:
        filename = self.files.path / self.configFileName
        # They may be in the errors of the file.
        too_short = tuple(learn_folder(self.files.secrets))
        try:
            settings = load(self.files.settings_file)
        except SettingsError as error:
            raise ConfigErrors(error.what.splitlines()) from error
        try:
            with capture_config_errors(raise_on_error=True) as errors:
                # This object collects the errors of the file's statements; add the line to each.
                errors.addError = functools.partial(_add_with_line, errors, str(filename))
                config_dict = execute(filename, self.files.path)
                # Run them before fill(), so that what they set, such as an auth, counts as set.
                for configurator in config_dict.pop("configurators", []):
                    IConfigurator(configurator).configure(config_dict)
                config_dict = dict(config_dict)  # a copy, as it may be an imported module's
                filled = tuple(fill(config_dict, settings, self.files, filename))
                self.notes = too_short + filled
                if projects is not None and (found := _read(projects, settings)):
                    # It takes memory, and a master may have none.
                    from litebot.master.projects.building.configured import add_to

                    errors.errors += add_to(config_dict, found, str(filename), settings.mail)
        except ConfigErrors as raised:
            raise ConfigErrors(_unique(raised.errors)) from raised
        try:
            config = Configuration.loadFromDict(config_dict, str(filename))
        except ConfigErrors as raised:
            lines = Lines(filename)
            raise ConfigErrors(_unique([lines.add_to(each) for each in raised.errors])) from raised
        if self._check is not None:
            self._check(settings, config)
        self._environment.allow(settings.workers.environment)
        specialize(config, self._environment)
        learn_plain_secrets(config)
        return config


def _read(
    projects: Callable[[Settings], Sequence[Project]], settings: Settings
) -> Sequence[Project]:
    try:
        return projects(settings)
    except ProjectError as error:
        raise ConfigErrors(error.what.splitlines()) from error


def execute(filename: Path, folder: Path) -> dict[str, Any]:
    """Run a configuration file of a basedir and return what it defines.

    Raises ConfigErrors, with the line of an error that the file does not report itself.
    """
    try:
        return loadConfigDict(str(folder), str(filename))[1]
    except SystemExit as end:
        line = _line_of(end, str(filename))
        raise ConfigErrors([f"{filename}:{line}: it calls sys.exit: {end}"]) from end
    except ConfigErrors as raised:
        cause = raised.__context__
        if cause is None or isinstance(cause, ConfigErrors):
            raise
        line = _line_of(cause, str(filename))
        what = f"{type(cause).__name__}: {cause}{_place_beside(cause, str(filename))}"
        raise ConfigErrors([f"{filename}:{line}: {what}"]) from cause


def _line_of(error: BaseException, filename: str) -> int:
    if isinstance(error, SyntaxError) and error.filename == filename:
        return error.lineno or 0
    frames = traceback.extract_tb(error.__traceback__)
    return next((f.lineno or 0 for f in reversed(frames) if f.filename == filename), 0)


def _place_beside(error: BaseException, filename: str) -> str:
    """Return, for a message, the place in a module of the user's where an error was raised.

    Returns "" if the error was raised in the configuration file itself.
    """
    if isinstance(error, SyntaxError):
        return ""  # its message has the place
    places = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((*LIBRARIES, "<"))
    ]
    if not places or places[-1].filename == filename:
        return ""
    return f" (at {places[-1].filename}:{places[-1].lineno})"


def _add_with_line(errors: ConfigErrors, filename: str, message: str) -> None:
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename != filename:
        frame = frame.f_back  # type: ignore[assignment]
    errors.errors.append(f"{filename}:{frame.f_lineno}: {message}" if frame else message)


def _unique(messages: list[str]) -> list[str]:
    return list(dict.fromkeys(messages))


CACHES = ("BuildsetProperties", "Changes", "chdicts", "ssdicts")
CACHED = 500


def fill(
    config: dict[str, Any], settings: Settings, files: Basedir, filename: Path
) -> Iterator[str]:
    """Add to `config` what master.cfg leaves out; what it sets stays as it is.

    Yields notes on what the user may not expect, such as a change hook that is open to anybody.
    Raises ConfigErrors if its database is not that of litebot.toml.
    """
    _agree_on_database(config, settings, files, filename)
    config.setdefault("buildbotNetUsageData", None)
    # By default, Buildbot's cache of changes has ten entries and the other three have one each, so
    # that a page of twenty changes would read twenty sourcestamps each time.
    if not config.keys() & {"buildCacheSize", "changeCacheSize"}:  # their older names
        config.setdefault("caches", dict.fromkeys(CACHES, CACHED))
    config.setdefault("title", settings.web.title or files.path.name)
    if files.secrets.is_dir() and "secretsProviders" not in config:
        config["secretsProviders"] = [FolderSecrets(dirname=str(files.secrets))]
        yield from unusable_files(files.secrets)
    www = config.get("www", {})
    if not isinstance(www, dict):
        what = f"c['www'] is a {type(www).__name__}; it must be a dict"
        raise ConfigErrors([Lines(filename).add_to(what)])
    www = config["www"] = dict(www)  # a copy, as it may be an imported module's
    yield from _fill_ports(config, www, settings, files)
    address = address_of(www.get("port"))
    url = settings.web.url or _url_of(address)
    if url and "buildbotURL" not in config:
        config["buildbotURL"] = url
        if not settings.web.url and address and address[0] in EVERY_ADDRESS:
            yield (
                f"{files.settings_file}: the page listens on every network and [web] url is empty,"
                f" so links in mails lead to {url}, and the page answers under IP addresses and"
                " this machine's own name alone"
            )
    if "buildbotURL" in config:
        config.setdefault("titleURL", config["buildbotURL"])
        www.setdefault("allowed_origins", origins(str(config["buildbotURL"])))
    www.setdefault("avatar_methods", [])  # Buildbot's default sends browsers to gravatar.com
    # The plugin of litebot's own pages comes beside what master.cfg lists, which may be older.
    plugins = www.get("plugins", {view: {} for view in VIEWS})
    www["plugins"] = {PAGES: {}, **plugins} if isinstance(plugins, dict) else plugins
    yield from _fill_auth(www, files, filename)
    if open_hooks := list(hook_secrets.require_secrets(www)):
        yield from map(Lines(filename).add_to, open_hooks)


def _fill_ports(
    config: dict[str, Any], www: dict[str, Any], settings: Settings, files: Basedir
) -> Iterator[str]:
    """Add the ports of litebot.toml, but none that master.cfg uses for something else."""
    workers, web = settings.workers, settings.web
    if "protocols" not in config:
        taken = _user_of_port(workers.port, config, [www.get("port")])
        if workers.port and taken is None:
            pb = {"port": endpoint(workers.listen, workers.port)}
            config["protocols"] = {"pb": pb}
        else:
            config["protocols"] = {"null": {}}
        if taken is not None:
            yield _note_of_port("workers", workers.port, taken, files)
    if web.port and "port" not in www:
        protocols = config["protocols"]
        options = protocols.values() if isinstance(protocols, dict) else ()
        ports = [each.get("port") for each in options if isinstance(each, dict)]
        taken = _user_of_port(web.port, config, ports)
        if taken is None:
            www["port"] = endpoint(web.listen, web.port)
        else:
            yield _note_of_port("web", web.port, taken, files)


def _user_of_port(number: int, config: dict[str, Any], ports: list[Any]) -> str | None:
    """Return what listens on a port by master.cfg: one of `ports`, a change source, a scheduler."""
    used = list(ports)
    for key in ("change_source", "schedulers"):
        parts = config.get(key) or []
        for part in parts if isinstance(parts, list | tuple) else [parts]:
            modules = {base.__module__ for base in type(part).__mro__}
            if modules.isdisjoint(LISTENING):
                continue  # its port is that of a server which it asks
            arguments = getattr(part, "_config_kwargs", {})
            used.append(getattr(part, "port", None) or arguments.get("port"))
    for port in used:
        address = address_of(port)
        if number and address is not None and address[1] == number:
            return str(port)
    return None


def _note_of_port(section: str, number: int, taken: str, files: Basedir) -> str:
    return (
        f"{files.settings_file}: [{section}] port = {number} is not listened on, as master.cfg"
        f" uses {taken!r} for something else; set another port there"
    )


def _url_of(address: tuple[str, int] | None) -> str:
    """Return the URL of a page that listens on this address and port, or "" without a port."""
    return Web(*address).public_url if address and address[1] else ""


def _fill_auth(www: dict[str, Any], files: Basedir, filename: Path) -> Iterator[str]:
    if "auth" not in www:
        www["auth"] = FileAuth(files.users_file)
        www.setdefault("authz", admins_act(RolesFromUserFile(files.users_file)))
    elif isinstance(www["auth"], NoAuth) or "authz" in www:
        return
    elif lists_its_users(www["auth"]):
        www["authz"] = admins_act(AdminIfLoggedIn())
    else:
        www["authz"] = admins_act()
        yield (
            f"{filename}: the auth {type(www['auth']).__name__} lets in people whom master.cfg does"
            " not name, and without an authz none of them is an admin: nobody can force or stop"
            ' builds on the page; name them in c["www"]: "authz":'
            ' util.Authz(allowRules=[util.AnyControlEndpointMatcher(role="admin")],'
            ' roleMatchers=[util.RolesFromEmails(admin=["ada@example.org"])])'
        )


def _agree_on_database(
    config: dict[str, Any], settings: Settings, files: Basedir, filename: Path
) -> None:
    ours = settings.database.url
    try:
        theirs = configured_url(config)
        found = settings_url(ours if theirs is None else theirs, files.path)
    except ConfigError as error:
        remedy = f"remove it: {files.settings_file} says under [database] where the state is kept"
        what = f"c['db']: {error.what}; {remedy}"
        raise ConfigErrors([Lines(filename).add_to(what)]) from error
    if found != settings_url(ours, files.path):
        shown = parsed(theirs).render_as_string(hide_password=True)
        disagreement = (
            f"the database is {shown!r} here and {ours!r} under [database]"
            f" in {files.settings_file}; remove c['db'] or make them the same"
        )
        raise ConfigErrors([Lines(filename).add_to(disagreement)])
    config.pop("db_url", None)
    config["db"] = {**(config.get("db") or {}), "db_url": ours}
