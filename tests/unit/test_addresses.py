"""Which addresses a repository may have, what is shown of them, and what projects are called."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from litebot.errors import ProjectError
from litebot.projects.addresses import check_address
from litebot.projects.addresses import check_name
from litebot.projects.addresses import is_ssh
from litebot.projects.addresses import shown
from litebot.projects.addresses import suggested_name


@pytest.mark.parametrize(
    ("address", "name", "ssh"),
    [
        ("https://example.org/team/hello.git", "hello", False),
        ("https://example.org/team/hello/", "hello", False),
        ("http://example.org:8080/h%C3%A9llo%20world.git", "h-llo-world", False),
        ("https://ada@bitbucket.org/team/hello.git", "hello", False),
        ("https://[::1]:8443/hello.git", "hello", False),
        ("https://git.sr.ht/~ada/hello", "hello", False),
        ("https://dev.azure.com/team/project/_git/hello", "hello", False),
        ("ssh://git@example.org/team/hello.git", "hello", True),
        ("ssh://git@example.org:2222/~/hello", "hello", True),
        ("git@example.org:team/hello.git", "hello", True),
        ("example.org:hello.git", "hello", True),
        ("git@[::1]:hello.git", "hello", True),
        ("git@example.org:/srv/a b.git", "a-b", True),
        ("git://example.org/hello", "hello", False),
        ("file:///srv/hello.git", "hello", False),
        ("file://localhost/srv/hello.git/", "hello", False),
        ("/srv/git/my project.git", "my-project", False),
        ("/srv/a:b", "b", False),
        ("/srv/me@here/hello", "hello", False),
        ("/", "project", False),
        ("/srv/....git", "git", False),
        ("/srv/a..b.git.git", "a.b", False),
        ("/srv/.dotfiles", "dotfiles", False),
        ("/srv/" + "x" * 60, "x" * 50, False),
        ("/srv/\u4e2d\u6587", "project", False),
    ],
)
def test_good_addresses(address: str, name: str, ssh: bool) -> None:
    assert check_address(f" {address}\n") == address
    assert suggested_name(address) == name
    assert check_name(name) == name
    assert is_ssh(address) == ssh
    assert shown(address) == address.replace("https://ada@", "https://***@")


PASSWORD = "give the address without it, and the password or token as a secret of the project"


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("", "the address '' is empty"),
        ("ext::sh -c true", "the address 'ext::sh -c true' names a program of git's"),
        ("fd::17", "the address 'fd::17' names a program of git's"),
        ("http::https://example.org/x", "the address 'http::https://example.org/x' names a"),
        ("--upload-pack=true", "the address '--upload-pack=true' begins with '-'"),
        ("ftp://example.org/x", "the address 'ftp://example.org/x' must begin with one of https"),
        ("HTTPS://example.org/x", "the address 'HTTPS://example.org/x' must begin with one of"),
        ("svn+ssh://example.org/x", "the address 'svn+ssh://example.org/x' must begin with one"),
        ("https://", "the address 'https://' has no host"),
        ("https://example.org", "the address 'https://example.org' must have a path"),
        ("https://example.org/a b", "the address 'https://example.org/a b' must have a path, with"),
        ("https://example.org:port/x", "the address 'https://example.org:port/x' is not a URL"),
        ("https://[example.org/x", "the address 'https://[example.org/x' is not a URL"),
        ("https://-x/y", "the address 'https://-x/y' has no host"),
        ("ssh://-oProxyCommand=true/x", "the address 'ssh://-oProxyCommand=true/x' has no host"),
        ("ssh://%2doProxyCommand/x", "the address 'ssh://%2doProxyCommand/x' has no host"),
        ("ssh://-x@example.org/y", "the address 'ssh://***@example.org/y' has no host, or a user"),
        ("git@-example.org:x", "the address '***@-example.org:x' is neither a URL"),
        ("-x@example.org:x", "the address '***@example.org:x' begins with '-'"),
        ("example.org:-x", "the address 'example.org:-x' is neither a URL"),
        ("file://example.org/srv/x", "the address 'file://example.org/srv/x' must be file:///"),
        ("hello", "the address 'hello' is neither a URL nor an absolute path"),
        ("../hello", "the address '../hello' is neither a URL nor an absolute path"),
        ("./a:b", "the address './a:b' is neither a URL nor an absolute path"),
        ("https://example.org/x\ny", "the address 'https://example.org/x\ufffdy' holds characters"),
        ("https://example.org/%0ax", "the address 'https://example.org/%0ax' holds characters"),
        ("/srv/\0", "the address '/srv/\ufffd' holds characters that are not printable"),
        ("/srv/\ud800", "the address '/srv/\ufffd' holds characters that are not printable"),
        ("/" + "x" * 1000, f"the address '/{'x' * 59}...' is longer than 1,000 characters"),
    ],
)  # fmt: skip
def test_refused_addresses(address: str, what: str) -> None:
    with pytest.raises(ProjectError) as caught:
        check_address(address)
    assert caught.value.what.startswith(what)
    assert caught.value.hint


@pytest.mark.parametrize(
    "address",
    [
        "https://ada:hunter2@example.org/x",
        "https://:hunter2@example.org/x",
        "https://ada:hun/ter2@example.org/x",
        "https://ada:1/hunter2@example.org/x",
        "https://ada:hun@ter2@example.org/x",
        "https://ada:hun?ter2@example.org/x",
        "https://ada:hun#ter2@example.org/x",
        "ssh://git:hunter2@example.org/x",
        "git:hunter2@example.org:x",
        "https://ghp_hunter2@example.org/x",
        "https://glpat-hunter2@example.org/x",
        f"https://{'0' * 40}hunter2@example.org/x",
        "https://example.org/x?private_token=hunter2",
        "https://example.org/x#hunter2",
        "ftp://ada:hunter2@example.org/x",
        "https:ada:hunter2@example.org/x",
        "ada:hunter2@example.org/x",
        "https://ada:hunter2@[example.org/x",
    ],
)
def test_nothing_secret_is_shown(address: str) -> None:
    with pytest.raises(ProjectError) as caught:
        check_address(address)
    everything = (
        f"{caught.value!r} {caught.value.hint} {caught.value.__context__!r} {shown(address)}"
    )
    assert "ter2" not in everything
    assert "hun" not in everything
    if "token" in caught.value.what or "password" in caught.value.what:
        assert caught.value.hint == PASSWORD


@pytest.mark.parametrize("name", ["hello", "a", "0", "A-b_c.d", "x" * 50, "git", "a.gitx"])
def test_good_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".a", "-a", "_a", "a b", "a/b", "a..b", "a.", "a.git", "é", "x" * 51, "a\n", "٣"]
)
def test_refused_names(name: str) -> None:
    with pytest.raises(ProjectError) as caught:
        check_name(name)
    assert caught.value.hint


ADDRESSES = st.text() | st.lists(
    st.sampled_from(
        ["https", "ssh", "://", ":", "@", "/", "-", ".git", "..", "[", "]", "a", "%", "?"]
    )
).map("".join)


@settings(max_examples=500, deadline=None)
@given(ADDRESSES)
def test_any_address_is_taken_or_refused(address: str) -> None:
    assert check_name(suggested_name(address))
    assert shown(address).isprintable()
    try:
        taken = check_address(address)
    except ProjectError as error:
        assert error.what.isprintable()  # noqa: PT017
    else:
        assert check_address(taken) == taken
        assert not taken.startswith("-")
        assert is_ssh(taken) in {True, False}
