"""The lines that say whom a project tells, and where a forge takes statuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from litebot.errors import LitebotError
from litebot.errors import ProjectError
from litebot.projects.addresses import check_address
from litebot.projects.definition import DefinitionError
from litebot.projects.definition import Project
from litebot.projects.definition import from_toml
from litebot.projects.definition import to_toml
from litebot.projects.telling import Forge
from litebot.projects.telling import Json
from litebot.projects.telling import Mail
from litebot.projects.telling import check_lines
from litebot.projects.telling import parse
from litebot.projects.telling import place_of


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("github TOKEN", Forge("github", "TOKEN")),
        ("  gitlab   a.token  https://git.example.org/ ", None),
        ("forgejo TOKEN", Forge("gitea", "TOKEN")),
        ("bitbucket TOKEN", Forge("bitbucket", "TOKEN")),
        ("mail a@example.org b+c@example.org", Mail(("a@example.org", "b+c@example.org"))),
        ("mail a@example.org a@example.org", Mail(("a@example.org",))),
        ("json CHAT", Json("CHAT")),
        ("json CHAT change", Json("CHAT", only_changes=True)),
    ],
)
def test_lines(line: str, told: object) -> None:
    assert parse(line) == (told or Forge("gitlab", "a.token", "https://git.example.org"))
    assert check_lines((line, f" {line}")) == (" ".join(line.split()),)


@pytest.mark.parametrize(
    ("line", "what", "hint"),
    [
        ("githib TOKEN", "'githib' is none of github, gitlab, ", "did you mean github TOKEN"),
        ("telegram TOKEN", "'telegram' is none of ", "mail ADDRESS ..."),
        ("", "'' is none of ", "json SECRET [change]"),
        ("github", "github needs a name of a secret", "github TOKEN [ADDRESS]"),
        ("mail", "mail needs a mail address", "mail ADDRESS ..."),
        ("mail team", "'team' is not a mail address", "mail team@example.org"),
        ("mail a@localhost", "'a@localhost' is not a mail address", "mail team@example.org"),
        ("mail ada<a@example.org>", "is not a mail address", "mail team@example.org"),
        ("json CHAT always", "json CHAT has 'always' too much", "json SECRET [change]"),
        ("github TOKEN https://a b", "github TOKEN has 'b' too much", "github TOKEN [ADDRESS]"),
        ("github TOKEN git.example.org", "'git.example.org' is not an address of https", "https"),
        ("github TOKEN ssh://example.org", "is not an address of https", "https://git."),
        ("github TOKEN https://me:word@example.org", "must have no user", "https://git."),
        ("json https://chat.example.org/hooks/word", "in the place of a secret's", "not what is"),
        ("github ghp_word", "seems to be a token", "not what is in it"),
        ("github ../word", "something in the place of a secret's name", "not what is in it"),
    ],
)
def test_refused_lines(line: str, what: str, hint: str) -> None:
    with pytest.raises(LitebotError) as raised:
        parse(line)
    assert what in raised.value.what
    assert hint in (raised.value.hint or "")
    assert "word" not in raised.value.what
    with pytest.raises(DefinitionError) as refused:
        Project("hello", url="https://example.org/team/hello", tell=(line,) if line else ("x",))
    assert list(refused.value.faults) == ["tell"]
    assert "word" not in refused.value.what


@pytest.mark.parametrize(
    ("line", "url", "api", "path"),
    [
        ("github T", "https://github.com/a/b.git", "https://api.github.com", "a/b"),
        ("github T", "git@github.com:a/b.git", "https://api.github.com", "a/b"),
        ("github T", "ssh://git@ssh.github.com:443/a/b", "https://api.github.com", "a/b"),
        ("github T https://api.github.com", "/srv/a/b", "https://api.github.com", "a/b"),
        ("github T", "https://ghe.org/a/b/", "https://ghe.org/api/v3", "a/b"),
        ("github T https://ghe.org/api/v3", "git@x:a/b", "https://ghe.org/api/v3", "a/b"),
        ("gitlab T", "git@gitlab.com:a/b/c.git", "https://gitlab.com", "a/b/c"),
        ("gitlab T https://h/lab", "https://h/lab/a/b/c", "https://h/lab", "a/b/c"),
        ("gitea T", "http://h:3000/a/b", "http://h:3000/api/v1", "a/b"),
        ("gitea T", "ssh://git@h:2222/a/b", "https://h/api/v1", "a/b"),
        ("gitea T", "git@[::1]:a/b", "https://[::1]/api/v1", "a/b"),
        ("gitea T https://h/api/v1", "file:///srv/git/a/b.git", "https://h/api/v1", "a/b"),
        ("gitea T https://h/git", "https://h/git/a/b", "https://h/git/api/v1", "a/b"),
        (
            "bitbucket T",
            "https://ada@bitbucket.org/a/b",
            "https://api.bitbucket.org/2.0/repositories",
            "a/b",
        ),
    ],
)
def test_where_a_forge_is(line: str, url: str, api: str, path: str) -> None:
    forge = parse(line)
    assert isinstance(forge, Forge)
    place = place_of(forge, url)
    assert (place.api, place.path) == (api, path)


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("/srv/git/team/hello.git", "does not say where the forge is"),
        ("https://example.org/hello.git", "has no owner and name"),
        ("https://example.org/a/b/c", "has no owner and name"),
        ("https://example.org/../b", "has no owner and name"),
        ("example.org:hello.git", "has no owner and name"),
    ],
)
def test_repositories_that_a_forge_does_not_know(url: str, what: str) -> None:
    with pytest.raises(DefinitionError, match=what):
        Project("hello", url=url, tell=("github TOKEN",))
    Project("hello", url=url, tell=("mail a@example.org", "json CHAT"))


@given(st.text(max_size=60), st.sampled_from(["github T", "gitlab T https://h/x", "gitea T"]))
def test_any_address_has_a_place_or_an_error(text: str, line: str) -> None:
    forge = parse(line)
    assert isinstance(forge, Forge)
    for start in ("https://h/", "git@h:", "ssh://git@[::1]:22/", "/", "file:///", ""):
        try:
            place = place_of(forge, check_address(start + text))
        except (ProjectError, LitebotError):
            continue
        assert place.api.startswith(("https://", "http://"))
        assert not {"..", ".", ""} & set(place.path.split("/"))


@given(st.text(max_size=80))
def test_any_line_is_read_or_refused(line: str) -> None:
    try:
        (kept,) = check_lines((line,))
    except LitebotError:
        return
    assert parse(kept) == parse(line)


def test_an_export_has_them() -> None:
    lines = ("github TOKEN", "mail a@example.org", "json CHAT change")
    made = Project("hello", url="https://github.com/team/hello", tell=lines)
    assert from_toml("hello", to_toml(made)) == made
    assert 'tell = ["github TOKEN", "mail a@example.org", "json CHAT change"]' in to_toml(made)
