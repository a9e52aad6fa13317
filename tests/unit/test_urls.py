"""Database urls of Buildbot's configuration, in the form of litebot.toml."""

from __future__ import annotations

from pathlib import Path

import pytest
from buildbot.process.properties import Interpolate

from litebot.errors import ConfigError
from litebot.master.db.urls import settings_url


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("sqlite:///state.sqlite", "sqlite:///state.sqlite"),
        ("sqlite:///./state.sqlite", "sqlite:///state.sqlite"),
        ("sqlite:///state.sqlite?serialize_access=1", "sqlite:///state.sqlite"),
        ("sqlite+pysqlite:///state.sqlite", "sqlite:///state.sqlite"),
        ("sqlite:///%(basedir)s/db/state.sqlite", "sqlite:///db/state.sqlite"),
        ("sqlite:////var/lib/state.sqlite", "sqlite:////var/lib/state.sqlite"),
        ("sqlite:///100%.sqlite", "sqlite:///100%.sqlite"),
        ("postgresql+psycopg2://ci:pw@db:5433/ci", "postgresql://ci@db:5433/ci"),
        ("postgresql://db/ci?sslmode=require", "postgresql://db/ci?sslmode=require"),
    ],
)
def test_forms(tmp_path: Path, theirs: str, ours: str) -> None:
    assert settings_url(theirs, tmp_path) == ours


def test_a_basedir_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "ci").mkdir()
    (tmp_path / "link").symlink_to("ci")
    absolute = f"sqlite:///{tmp_path}/ci/state.sqlite"
    assert settings_url(absolute, tmp_path / "link") == "sqlite:///state.sqlite"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", "'nonsense' is not the url of a database"),
        ("postgresql:/ci:secret@db", "what it holds is not the url of a database"),
        (7, "what it holds is not the url of a database"),
        ("sqlite://", "a database in memory holds nothing after a stop"),
        ("mysql://ci:secret@db/ci", "SQLite or Postgres, not in mysql"),
        (Interpolate("postgresql://%(secret:db)s"), "its url is only known at run time"),
    ],
)
def test_what_litebot_can_not_run_on(tmp_path: Path, url: object, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        settings_url(url, tmp_path)
    assert said in raised.value.what
    assert "secret" not in raised.value.what
