"""Mistakes in a configuration: each is shown with its line, and a start changes nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support.commands import litebot
from support.commands import run
from support.commands import succeeded
from support.master import Master
from support.refusals import refused
from support.refusals import refuses_to_start
from support.refusals import set_line

pytestmark = pytest.mark.usefixtures("real_commands")


FAULTS = [
    ("c['title'] = 'unfinished", "SyntaxError: unterminated string literal"),
    ("c['title'] = undefined_name", "NameError: name 'undefined_name' is not defined"),
    (
        "c['builders'].append(util.BuilderConfig(name='b', factory=factory))",
        "builder 'b': at least one workername is required",
    ),
    ("c['builders'][0].workernames = ['absent']", "builder 'hello' uses unknown workers 'absent'"),
]


@pytest.mark.parametrize(("line", "error"), FAULTS, ids=["syntax", "name", "builder", "worker"])
def test_an_error_in_master_cfg_is_shown_with_its_line(
    master: Master, line: str, error: str
) -> None:
    master.configure(line)
    config = master.basedir / "master.cfg"
    place = config.read_text(encoding="utf-8").splitlines().index(line) + 1
    refused(master.run("check-config"), f"{config}:{place}: {error}", code=3)
    refuses_to_start(
        master, f"{config}:{place}: {error}", f"Try: litebot check-config {master.basedir}"
    )


# Each with what it says, and with a part of the line that it is about.
LATE_FAULTS = [
    (
        """
     for each in ("b", "d"):
         c["builders"].append(
             util.BuilderConfig(
                 name=f"of-{each}",
                 workernames=["local"], factory=factory))
     """,
        " have no schedulers to drive them",
        'name=f"of-{each}"',
    ),
    (
        """
     c["builders"].append(
         util.BuilderConfig("b", workernames=["local"], factory=factory))  # the builder
     b = "b"
     """,
        "builder(s) b have no schedulers to drive them",
        "# the builder",
    ),
    (
        """
     c["builders"] += [
         util.BuilderConfig(name="hello", workernames=["local"], factory=factory),  # twice
     ]
     """,
        "'hello'",
        "# twice",
    ),
    (
        """
     c["schedulers"] += [
         schedulers.ForceScheduler(name="f", builderNames=["hello"]),
         schedulers.ForceScheduler("f", builderNames=["hello"]),  # the second
     ]
     """,
        "scheduler name 'f' used multiple times",
        "# the second",
    ),
    ("c['workers'] = []", "no workers are configured", "c['workers'] = []"),
    ("c['builders'] = 1", "c['builders'] must be a list", "c['builders'] = 1"),
    ("c['www'] = {\n 'port': 1,\n 'prot': 2}", "unknown www configuration parameter", "'prot': 2"),
    ("c['wwww'] = {}", "wwww", "c['wwww']"),
    ("c['www'] = []", "c['www'] is a list", "c['www'] = []"),
    ("c['caches'] = {'Builds': 0}", "'Builds' cache size must be at least 1", "c['caches']"),
    ("c['workers'].append(worker.Worker('a b', 'p'))", "'a b'", "Worker('a b'"),
]


@pytest.mark.parametrize(("text", "error", "at"), LATE_FAULTS, ids=[f[1] for f in LATE_FAULTS])
def test_an_error_of_the_whole_has_the_line_of_its_object(
    master: Master, text: str, error: str, at: str
) -> None:
    master.configure(text)
    config = master.basedir / "master.cfg"
    lines = config.read_text(encoding="utf-8").splitlines()
    (number,) = (n for n, line in enumerate(lines, 1) if at in line)
    done = master.run("check-config")
    refused(done, error, code=3)
    assert f"{config}:{number}: " in done.stderr, done.stderr


def test_an_object_of_a_module_has_its_line_there(master: Master) -> None:
    module = master.basedir / "builders_of_ours.py"
    module.write_text(
        "from buildbot.plugins import util\n\n\n"
        "def make(factory):\n"
        "    return util.BuilderConfig('theirs', workernames=['local'], factory=factory)\n",
        encoding="utf-8",
    )
    master.configure(
        "import builders_of_ours\nc['builders'].append(builders_of_ours.make(factory))"
    )
    refused(master.run("check-config"), f"{module}:5: builder(s) theirs have no", code=3)


def test_all_errors_of_master_cfg_are_shown(master: Master) -> None:
    master.configure(
        """
        c["builders"].append(util.BuilderConfig(name="one", factory=factory))
        c["builders"].append(util.BuilderConfig(name="two", factory=factory))
        """
    )
    done = master.run("check-config")
    refused(done, "builder 'one': at least one", "builder 'two': at least one", code=3)


def test_an_error_in_a_module_of_the_configuration(master: Master, tmp_path: Path) -> None:
    module = master.basedir / "steps_of_ours.py"
    module.write_text("import re\n\n\ndef make():\n    re.compile('(')\n", encoding="utf-8")
    master.configure("import steps_of_ours\nsteps_of_ours.make()")
    said = (f"{master.basedir}/master.cfg:", f"(at {module}:5)")
    refused(master.run("check-config"), *said, code=3)
    refuses_to_start(master, *said)

    stock = tmp_path / "stock"
    succeeded(run(Path(sys.executable).with_name("buildbot"), "create-master", stock))
    (stock / "master.cfg").write_text("import nowhere\n", encoding="utf-8")
    done = litebot("upgrade-master", stock)
    refused(done, f"{stock}/master.cfg:1: ModuleNotFoundError: No module named 'nowhere'")
    assert "Traceback" not in done.stderr


def test_a_missing_master_cfg(master: Master) -> None:
    (master.basedir / "master.cfg").unlink()
    refused(
        master.run("check-config"),
        f"{master.basedir}/master.cfg does not exist",
        f"Try: litebot create-master --force {master.basedir}",
    )


@pytest.mark.parametrize(
    ("old", "new", "error", "remedy"),
    [
        ('listen = "127.0.0.1"', 'lisen = "127.0.0.1"', "unknown key 'lisen'", "'listen'"),
        ('listen = "127.0.0.1"', 'listen = "ci.lan"', "web.listen is 'ci.lan'", "0.0.0.0"),
        ('durability = "acknowledged"', "durability = 7", "database.durability is 7", '"acknow'),
        ("[web]", "[wed]", "unknown section [wed]", "'web'"),
        ('title = ""', 'title = "', "not TOML", "quotes"),
    ],
)
def test_an_error_in_litebot_toml_is_shown_with_its_line(
    master: Master, old: str, new: str, error: str, remedy: str
) -> None:
    settings = master.basedir / "litebot.toml"
    place = set_line(settings, old, new)
    refuses_to_start(master, f"{settings}:{place}: {error}", remedy)


def test_check_config_looks_at_litebot_toml_too(master: Master) -> None:
    settings = master.basedir / "litebot.toml"
    place = set_line(settings, 'durability = "acknowledged"', 'durability = "perhaps"')
    done = master.run("check-config")
    refused(done, f"{settings}:{place}: database.durability is 'perhaps'", code=3)


def test_two_databases(master: Master) -> None:
    master.configure("c['db'] = {'db_url': 'sqlite:///other.sqlite'}")
    said = (
        f"{master.basedir}/master.cfg",
        "the database is 'sqlite:///other.sqlite' here",
        "'sqlite:///state.sqlite'",
        f"[database] in {master.basedir}/litebot.toml",
        "remove c['db'] or make them the same",
    )
    refuses_to_start(master, *said)
    refused(master.run("check-config"), *said, code=3)
    assert not (master.basedir / "other.sqlite").exists()


@pytest.mark.parametrize(
    "line",
    [
        "c['db'] = {'db_url': 'sqlite:///state.sqlite'}",
        "c['db_url'] = 'sqlite:///%(basedir)s/state.sqlite?serialize_access=1'",
    ],
)
def test_the_same_database_twice_is_none_of_them(master: Master, line: str) -> None:
    master.configure(line)
    succeeded(master.run("check-config"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("c['db_url'] = 'nonsense'", "c['db']: 'nonsense' is not the url of a database"),
        ("c['db'] = 'sqlite:///state.sqlite'", "c['db']: it is a str; it must be a dict"),
        ("c['db'] = {'db_url': 'mysql://ci:secret@db/ci'}", "c['db']: litebot keeps its state in"),
        ("c['www'] = None", "c['www'] is a NoneType; it must be a dict"),
    ],
)
def test_what_buildbot_would_answer_with_a_traceback(master: Master, line: str, said: str) -> None:
    master.configure(line)
    done = master.run("check-config")
    path = master.basedir / "master.cfg"
    number = path.read_text(encoding="utf-8").splitlines().index(line) + 1
    refused(done, f"{path}:{number}: {said}", code=3)
    assert "secret" not in done.stderr


def test_check_config_finds_what_a_start_finds(master: Master, tmp_path: Path) -> None:
    config = master.basedir / "master.cfg"
    text = config.read_text(encoding="utf-8") + "open('beside.txt')\nimport beside\n"
    config.rename(master.basedir / "unused.cfg")
    (master.basedir / "other.cfg").write_text(text, encoding="utf-8")
    set_line(
        master.basedir / "buildbot.tac", 'configfile = "master.cfg"', "configfile = 'other.cfg'"
    )
    refused(
        litebot("check-config", master.basedir, cwd=tmp_path),
        f"{master.basedir}/other.cfg:",
        "No such file or directory: 'beside.txt'",
        code=3,
    )
    for name in ("beside.txt", "beside.py"):
        (master.basedir / name).touch()
    done = succeeded(litebot("check-config", master.basedir, cwd=tmp_path))
    assert done.stdout == f"{master.basedir}/other.cfg is good\n"
    master.start()
