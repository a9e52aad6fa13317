"""litebot.toml: what is read, what is refused and in which words, and what an edit leaves alone."""

from __future__ import annotations

import os
import re
import resource
import stat
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import pytest

from litebot.errors import LitebotError
from litebot.errors import SettingsError
from litebot.settings import SECTIONS
from litebot.settings import Database
from litebot.settings import Settings
from litebot.settings import Web
from litebot.settings import Workers
from litebot.settings import load
from litebot.settings import render
from litebot.settings import set_value


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "litebot.toml"


def refused(toml: Path, text: str) -> SettingsError:
    """Load `text`, which must be refused; the error, with the directory cut from its text."""
    toml.write_bytes(text.encode())
    with pytest.raises(SettingsError) as caught:
        load(toml)
    caught.value.what = caught.value.what.replace(f"{toml.parent}/", "")
    return caught.value


# -- reading


def test_a_missing_file_means_the_defaults(toml: Path) -> None:
    assert load(toml) == Settings(
        Database("sqlite:///state.sqlite", "acknowledged"),
        Web("127.0.0.1", 8010, "", ""),
        Workers("127.0.0.1", 9989),
    )


def test_an_empty_file_and_a_part_of_one_mean_the_defaults_for_the_rest(toml: Path) -> None:
    toml.write_text("")
    assert load(toml) == Settings()
    toml.write_text("[web]\nport = 0\n")
    assert load(toml) == Settings(web=Web(port=0))


def test_what_render_writes_is_what_load_reads(toml: Path) -> None:
    settings = Settings(
        Database("postgresql://ci@db.example.org/ci", "process"),
        Web("::1", 80, "https://ci.example.org/", 'the "new" \\ CI — ä # [x]'),
        Workers("0.0.0.0", 0),
    )
    toml.write_text(render(settings), encoding="utf-8")
    assert load(toml) == settings


def test_render_has_every_key_with_its_documentation_above_it() -> None:
    text = render(Settings())
    for name, section in SECTIONS.items():
        assert f"\n[{name}]\n" in text
        for key in fields(section):
            comment = "".join(f"# {line}\n" for line in key.metadata["doc"].split("\n"))
            assert f"\n{comment}{key.name} = " in text
    assert text.startswith("# litebot.toml: ")
    assert max(map(len, text.split("\n"))) <= 100


def test_the_sections_are_those_of_settings() -> None:
    assert {f.name: f.default_factory for f in fields(Settings)} == SECTIONS


def test_urls_lead_somewhere(toml: Path) -> None:
    toml.write_text('[web]\nurl = "https://ci.example.org/bot"')
    assert load(toml).web.public_url == "https://ci.example.org/bot/"
    assert Web().public_url == "http://127.0.0.1:8010/"
    assert Web(listen="0.0.0.0", port=80).public_url == "http://localhost:80/"
    assert Web(listen="localhost").public_url == "http://localhost:8010/"
    assert Web(listen="::1").public_url == "http://[::1]:8010/"
    assert Web(port=0).public_url == ""


def test_sqlite_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Database().sqlite_path(Path("ci")) == tmp_path / "ci/state.sqlite"
    assert Database("sqlite:///a b/%20.db").sqlite_path(Path("/srv")) == Path("/srv/a b/%20.db")
    assert Database("sqlite:////var/s.db").sqlite_path(Path("/srv")) == Path("/var/s.db")
    assert Database("postgresql://db/ci").sqlite_path(Path("/srv")) is None


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ci@db.example.org:5432/ci?sslmode=require",
        "postgresql://db",
        "postgresql:///ci",
        "postgresql://?host=/run/postgresql",
        "postgresql://a:5432,b:5432/ci",
    ],
)
def test_postgres_urls(toml: Path, url: str) -> None:
    toml.write_text(f'database.url = "{url}"')
    assert load(toml).database.url == url


# -- refusing


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        (
            "# c\n[web]\nprot = 1",
            "litebot.toml:3: unknown key 'prot' in [web]",
            "did you mean 'port'? known keys: listen, port, title, url",
        ),
        (
            "\n[wbe]\nport = 1",
            "litebot.toml:2: unknown section [wbe]",
            (
                "did you mean 'web'? known sections: database, limits, mail, projects, recovery,"
                " stop, web, workers"
            ),
        ),
        (
            "port = 1",
            "litebot.toml:1: key 'port' is not in a [section]",
            "put it under [web] or [workers] or [mail]",
        ),
        ("web = 3", "litebot.toml:1: web is 3; it must be a section", "put its keys under [web]"),
        (
            "[[web]]\nport = 1",
            "litebot.toml:1: web is an array; it must be a section",
            "put its keys under [web]",
        ),
        (
            '[web]\nport = "8010"',
            "litebot.toml:2: web.port is '8010'; it must be a whole number",
            "port = 8010",
        ),
        (
            "[web]\nport = true",
            "litebot.toml:2: web.port is True; it must be a whole number",
            "port = 8010",
        ),
        (
            "[workers]\nlisten = 1",
            "litebot.toml:2: workers.listen is 1; it must be a string in quotes",
            'listen = "127.0.0.1"',
        ),
        (
            "[workers]\nenvironment = 'A 1B'",
            (
                "litebot.toml:2: workers.environment is 'A 1B'; '1B' is not the name of a "
                "variable; spaces separate names, and a name may end in *"
            ),
            'environment = "JAVA_HOME CI_*"',
        ),
        (
            "[workers]\nport = 65536",
            "litebot.toml:2: workers.port is 65536; it must be from 0 to 65535",
            None,
        ),
        ("[web]\nport = -1", "litebot.toml:2: web.port is -1; it must be from 0 to 65535", None),
        (
            '[web]\nlisten = "ci.example.org"',
            (
                "litebot.toml:2: web.listen is 'ci.example.org'; it must be an IP address or "
                "'localhost'"
            ),
            "127.0.0.1 serves this machine only, 0.0.0.0 every network it is on",
        ),
        (
            '[database]\ndurability = "none"',
            (
                "litebot.toml:2: database.durability is 'none'; it must be one of 'acknowledged', "
                "'commit', 'process'"
            ),
            None,
        ),
        (
            '[web]\nurl = "ci.example.org"',
            (
                "litebot.toml:2: web.url is 'ci.example.org'; it must be http:// or https:// and a "
                "host"
            ),
            'url = "https://ci.example.org/"',
        ),
        (
            '[web]\ntitle = "a\\nb"',
            "litebot.toml:2: web.title must be one line of printable characters",
            None,
        ),
        (
            '[web]\nport = 1\nlisten = 127.0.0.1\ntitle = ""',
            "litebot.toml:3: not TOML: Expected newline or end of document after a statement",
            'a string needs quotes, listen = "127.0.0.1"; a number has none, port = 8010',
        ),
        (
            "[web]\n\nport =\n\n",
            "litebot.toml:3: not TOML: Invalid value",
            'a string needs quotes, listen = "127.0.0.1"; a number has none, port = 8010',
        ),
    ],
)
def test_refusals_name_line_value_and_remedy(
    toml: Path, text: str, what: str, hint: str | None
) -> None:
    error = refused(toml, text)
    assert (error.what, error.hint) == (what, hint)
    assert toml.read_text() == text


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("# c\nweb.port = -1\n", 2),
        ("\n'web'.\"port\" = -1\n", 2),
        ("\n\nweb = {title = '', port = -1}\n", 3),
        ("[workers]\nport = 1\n\n[ web ] # c\n\n# c\n  port=-1", 7),
        ("[web]\r\nlisten = '::'\r\nport = -1\r\n", 3),
        ('[web]\ntitle = """\\\n[web]\\\nport = 1"""\nport = -1\n', 5),
        ("[web]\n\nport = [\n  1,\n]\n", 3),
        ("[web.port]\nx = 1\n", 1),
        ("[workers]\nport = 1\n[web]\n[web.listen]\n[web.port]\n", 5),
    ],
)
def test_the_line_is_found_however_the_key_is_written(toml: Path, text: str, line: int) -> None:
    *_, last = refused(toml, text).what.split("\n")
    assert last.startswith(f"litebot.toml:{line}: web.port is ")


def test_all_errors_of_a_file_come_together_in_its_order(toml: Path) -> None:
    error = refused(
        toml, "x = 1\n[workers]\nport = 70000\nlisten = 'a'\n[web]\nprot = 1\n[database]\nurl = 1\n"
    )
    assert [line.split(": ")[0] for line in error.what.split("\n")] == [
        f"litebot.toml:{n}" for n in (1, 3, 4, 6, 8)
    ]
    assert error.hint is not None
    assert [line.split(": ")[0] for line in error.hint.split("\n")] == [
        f"line {n}" for n in (1, 4, 6, 8)
    ]


ACCEPTED = "it must be sqlite:///FILE, sqlite:////ABSOLUTE/FILE or postgresql://USER@HOST/NAME"


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("sqlite://", "'sqlite://'; it must name a file: a database in memory holds nothing after"),
        ("sqlite:///", "'sqlite:///'; it must name a file: a database in memory holds nothing"),
        ("sqlite:///:memory:", "'sqlite:///:memory:'; it must name a file: a database in memory"),
        ("sqlite:///a/", "'sqlite:///a/'; it must end in the name of a file"),
        ("sqlite:////srv/..", "'sqlite:////srv/..'; it must end in the name of a file"),
        ("sqlite://s.db", "'sqlite://s.db'; it must have three slashes, or four before an absol"),
        ("sqlite:///s.db?mode=ro", "'sqlite:///s.db?mode=ro'; it must not have options after a '?"),
        ("state.sqlite", f"'state.sqlite'; {ACCEPTED}"),
        ("", f"''; {ACCEPTED}"),
        ("mysql://ci:hunter2@db/ci", f"'mysql:...'; {ACCEPTED}"),
        ("postgres://ci@db/ci", f"'postgres:...'; {ACCEPTED}"),
        ("postgresql://", "'postgresql:...'; it must name a host or a database"),
        ("postgresql://ci@/", "'postgresql:...'; it must name a host or a database"),
        ("postgresql://[ci:hunter2@db/ci", f"'postgresql:...'; {ACCEPTED}"),
        ("postgresql://ci:hunter2\u2100@db/ci", f"'postgresql:...'; {ACCEPTED}"),
        ("postgresql://ci:hunter2@db/ci", "'postgresql:...'; it must not hold a password"),
        ("postgresql://ci:hun/ter2@db/ci", "'postgresql:...'; it must not hold a password"),
        ("postgresql://ci:hun#ter2@db/ci", "'postgresql:...'; it must not hold a password"),
        ("postgresql:///ci?passwor%64=hunter2", "'postgresql:...'; it must not hold a password"),
        ("postgresql://db/?user=ci&password=", "'postgresql:...'; it must not hold a password"),
    ],
)
def test_database_urls_refused_without_showing_a_password(toml: Path, url: str, what: str) -> None:
    error = refused(toml, f'[database]\nurl = "{url}"')
    assert error.what.startswith(f"litebot.toml:2: database.url is {what}")
    assert "ter2" not in f"{error!r} {error.what} {error.hint} {error.__context__!r}"
    if "not hold a password" in what:
        assert "PGPASSFILE" in (error.hint or "")


def test_a_password_is_not_shown_inside_another_type_either(toml: Path) -> None:
    error = refused(toml, '[database]\nurl = ["postgresql://ci:hunter2@db/ci"]')
    assert error.what == ("litebot.toml:2: database.url is an array; it must be a string in quotes")


@pytest.mark.parametrize(
    "url",
    ["https://", "ftp://ci/", "https://[ci/", "https://ci:port/", "https://c i/", "https://ci/?a=1",
     "https://ci/#/x", "https://me:hunter2@ci/", "https:me:hunter2@ci"],
)  # fmt: skip
def test_web_urls_refused(toml: Path, url: str) -> None:
    error = refused(toml, f'[web]\nurl = "{url}"')
    assert error.what.startswith("litebot.toml:2: web.url is 'http") or url.startswith("ftp")
    assert error.hint == 'url = "https://ci.example.org/"'
    assert "hunter2" not in error.what


def test_bytes_that_are_not_utf8(toml: Path) -> None:
    toml.write_bytes(b'[web]\ntitle = "caf\xe9"\n')
    with pytest.raises(SettingsError, match=r"litebot\.toml:2: byte 0xe9 is not UTF-8"):
        load(toml)


def test_a_file_that_cannot_be_read(toml: Path) -> None:
    toml.mkdir()
    with pytest.raises(SettingsError, match=r"litebot\.toml can't be read: Is a directory"):
        load(toml)


def test_dataclasses_made_by_hand_are_checked_too() -> None:
    with pytest.raises(SettingsError, match=r"^web\.port is 65536; it must be from 0 to 65535$"):
        Web(port=65536)
    assert Web(url="http://ci").url == "http://ci/"


# -- editing

EDITED = """\
# mine
[web]  # page
port = 8010  # the old one
title = 'CI'

# about workers
[workers]
port=1
"""


def test_an_edit_changes_one_value_and_nothing_else(toml: Path) -> None:
    toml.write_text(EDITED)
    toml.chmod(0o640)
    set_value(toml, "web.port", 8011)
    assert toml.read_text() == EDITED.replace("8010", "8011")
    assert stat.S_IMODE(toml.stat().st_mode) == 0o640
    assert os.listdir(toml.parent) == ["litebot.toml"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# c",
        "web.port = 1",
        "web.title = 'x' # c\n[workers]\nport = 3",
        "web = {title = 'x'} # c",
        "[workers]\nport = 1\n[web]\ntitle = 'x'",
        "[ web ]\r\n'port' = 1 # c\r\ntitle = 'x'\r\n[workers]\r\nport = 2\r\n",
        "[web]\ntitle = 'x'\n\n# about workers\n[workers]\nport = 1\n",
        render(Settings()).replace("\nport = 8010\n", "\n"),
    ],
)
def test_an_edit_finds_the_key_however_the_file_is_written(toml: Path, text: str) -> None:
    toml.write_bytes(text.encode())
    expected = tomllib.loads(text)
    expected.setdefault("web", {})["port"] = 8011
    set_value(toml, "web.port", 8011)
    after = toml.read_bytes().decode()
    assert tomllib.loads(after) == expected
    assert re.findall("#.*", after) == re.findall("#.*", text)


def test_an_edit_of_a_missing_file_makes_it_with_all_keys(toml: Path) -> None:
    set_value(toml, "web.url", "https://ci.example.org")
    expected = Settings(web=Web(url="https://ci.example.org/"))
    assert load(toml) == expected
    assert toml.read_text() == render(expected)


def test_an_edit_can_mend_the_value_that_was_wrong(toml: Path) -> None:
    toml.write_text("[web]\nport = 80100\n")
    set_value(toml, "web.port", 8010)
    assert load(toml) == Settings()


def test_an_edit_through_a_symbolic_link_leaves_the_link(toml: Path) -> None:
    real = toml.with_name("shared.toml")
    real.write_text("[web]\nport = 1\n")
    toml.symlink_to(real.name)
    set_value(toml, "web.port", 2)
    assert toml.is_symlink()
    assert real.read_text() == "[web]\nport = 2\n"


def test_an_edit_by_root_leaves_the_file_to_its_owner(toml: Path) -> None:
    owner = 12345 if os.geteuid() == 0 else os.geteuid()
    os.chown(toml.parent, owner, -1)
    set_value(toml, "web.port", 1)
    assert toml.stat().st_uid == owner
    os.chown(toml.parent, os.geteuid(), -1)
    set_value(toml, "web.port", 2)
    assert toml.stat().st_uid == owner


def test_edits_at_the_same_time_are_all_kept(toml: Path) -> None:
    edits = [("web.port", 1), ("workers.port", 2), ("web.title", "x"), ("web.listen", "::1")] * 5
    with ThreadPoolExecutor(len(edits)) as pool:
        list(pool.map(lambda edit: set_value(toml, *edit), edits))
    assert load(toml) == Settings(web=Web("::1", 1, "", "x"), workers=Workers(port=2))


@pytest.mark.parametrize(
    ("text", "key", "value", "what"),
    [
        (EDITED, "web.port", 65536, "web.port is 65536; it must be from 0 to 65535"),
        (EDITED, "web.port", "80", "web.port is '80'; it must be a whole number"),
        (EDITED, "web.prot", 80, "unknown key 'prot' in [web]"),
        (EDITED, "port", 80, "unknown setting 'port'"),
        (EDITED, "database.url", "postgresql://ci:hunter2@db", "database.url is 'postgresql:...'"),
        (EDITED + "x = 1\n", "web.port", 80, "PATH:9: unknown key 'x' in [workers]"),
        ("[web\n", "web.port", 80, "PATH:1: not TOML: Expected ']'"),
        ("web = 3\n", "web.port", 80, "PATH:1: web is 3; it must be a section"),
    ],
)
def test_a_refused_edit_leaves_the_file_alone(
    toml: Path, text: str, key: str, value: str | int, what: str
) -> None:
    toml.write_text(text)
    before = toml.stat()
    with pytest.raises(SettingsError) as caught:
        set_value(toml, key, value)
    assert caught.value.what.startswith(what.replace("PATH", str(toml)))
    assert toml.read_text() == text
    assert toml.stat().st_ino == before.st_ino
    assert os.listdir(toml.parent) == ["litebot.toml"]


def test_an_edit_that_cannot_be_written_leaves_the_old_file(toml: Path) -> None:
    toml.write_text(EDITED)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))  # as a full disk, for root as well
    try:
        with pytest.raises(LitebotError, match=r"litebot\.toml can't be written: File too large"):
            set_value(toml, "web.port", 8011)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert toml.read_text() == EDITED
    assert os.listdir(toml.parent) == ["litebot.toml"]
    set_value(toml, "web.port", 8011)


def test_what_a_crash_left_is_no_hindrance(toml: Path) -> None:
    toml.write_text(EDITED)
    (toml.parent / ".litebot.toml.new").write_text("half of")
    set_value(toml, "web.port", 8011)
    assert toml.read_text() == EDITED.replace("8010", "8011")
    assert os.listdir(toml.parent) == ["litebot.toml"]


def test_an_edit_in_a_directory_that_is_not_there(toml: Path) -> None:
    with pytest.raises(LitebotError, match="absent can't be opened: No such file or directory"):
        set_value(toml.parent / "absent" / toml.name, "web.port", 8011)
