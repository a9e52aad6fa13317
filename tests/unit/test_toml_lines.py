"""On which line each key of a TOML text is, and which texts are refused before they take long."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from litebot.toml_lines import MOST_VALUES
from litebot.toml_lines import Place
from litebot.toml_lines import TomlError
from litebot.toml_lines import find_lines
from litebot.toml_lines import load
from support.timing import require_less


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    """The places of all keys and items in what was read."""
    if place:
        yield place
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        yield from places(inner, (*place, key))


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", {}),
        ("# a = 1\n\na = 1 # b = 2\n", {("a",): 3}),
        ("a = 1\r\nb = 2\r\n", {("a",): 1, ("b",): 2}),
        ("a.b = 1\na.c = 2", {("a",): 1, ("a", "b"): 1, ("a", "c"): 2}),
        ("[a]\n\n[a.b]\nc = 1", {("a",): 1, ("a", "b"): 3, ("a", "b", "c"): 4}),
        ("[ a . 'b' ]", {("a",): 1, ("a", "b"): 1}),
        ("[a.b]\n[a]\nc=1", {("a",): 1, ("a", "b"): 1, ("a", "c"): 3}),
        (
            "[[a]]\nb = 1\n[[a]]\n[a.b]\nc=1",
            {("a",): 1, ("a", 0): 1, ("a", 0, "b"): 2}
            | {("a", 1): 3, ("a", 1, "b"): 4, ("a", 1, "b", "c"): 5},
        ),
        ("a = [\n 1,\n # 2,\n [\n3], ]", {("a",): 1, ("a", 0): 2, ("a", 1): 4, ("a", 1, 0): 5}),
        (
            "a = [{b = 1, c.d = 2},\n\n{b = ']', c = {}}]",
            {("a",): 1, ("a", 0): 1, ("a", 0, "b"): 1, ("a", 0, "c"): 1, ("a", 0, "c", "d"): 1}
            | {("a", 1): 3, ("a", 1, "b"): 3, ("a", 1, "c"): 3},
        ),
        ('a = """\n[b]\nc = 1\\\n""" \nd = 1', {("a",): 1, ("d",): 5}),
        ("a = '''\nb = 1''''\nd = 1", {("a",): 1, ("d",): 3}),
        ('a = """x"""""\nd = ""\ne = \'\'', {("a",): 1, ("d",): 2, ("e",): 3}),
        ('a = """\\""""\nd = "\\\\"\ne = 1', {("a",): 1, ("d",): 2, ("e",): 3}),
        ('a = [""" " ""\n""", "",\n1]', {("a",): 1, ("a", 0): 1, ("a", 1): 2, ("a", 2): 3}),
        ("\"a b\\u0041\\n\" = 1979-05-27 07:32:00\n'' = 1", {("a bA\n",): 1, ("",): 2}),
    ],
)
def test_lines(text: str, lines: dict[Place, int]) -> None:
    assert find_lines(text) == lines
    assert set(lines) == set(places(load(text)))


def line_of_error(text: str) -> int | None:
    """The line that `load` complains about; it must be one of the text."""
    try:
        load(text)
    except TomlError as error:
        line = error.line
    else:
        return None
    assert 1 <= line <= text.count("\n") + 1
    return line


KEYS = st.text("ab", min_size=1, max_size=2) | st.sampled_from(['"a"', "'b'", '"\\u0061"', '"]"'])
SPACE = st.sampled_from(["", " ", "\t", "  "])
BREAK = st.sampled_from(["", " ", "\n", " # [a] = '\n", "\r\n\t"])
SCALARS = st.sampled_from(
    ["1", "-1.5e3", "true", "07:32:00", "''", '""', "'#'", '"]\\""', '"""\n\\""""', "'''\n''''"]
)  # fmt: skip


@st.composite
def arrays(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    items = draw(st.lists(inner, max_size=3))
    text = ",".join(draw(BREAK) + item + draw(BREAK) for item in items)
    return f"[{text}{draw(st.sampled_from(['', ',', ' ,'])) if items else ''}{draw(BREAK)}]"


@st.composite
def tables(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    pairs = draw(st.lists(st.tuples(dotted(), inner), max_size=3))
    return (
        "{" + ",".join(f"{draw(SPACE)}{key} = {value}{draw(SPACE)}" for key, value in pairs) + "}"
    )


def dotted() -> st.SearchStrategy[str]:
    return st.lists(KEYS, min_size=1, max_size=3).map(" . ".join)


VALUES = st.recursive(SCALARS, lambda inner: arrays(inner) | tables(inner), max_leaves=6)
LINES = st.one_of(
    st.builds("{} ={}{}".format, dotted(), SPACE, VALUES),
    st.builds("[{}]".format, dotted()),
    st.builds("[[ {} ]] # c".format, dotted()),
    st.sampled_from(["", "# x = 1"]),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(LINES, max_size=8))
def test_each_key_is_found_that_tomllib_reads(statements: list[str]) -> None:
    """Statements are added as long as tomllib takes them, so what each adds is on its lines."""
    text = ""
    known: set[Place] = set()
    for statement in statements:
        try:
            read = load(text + statement + "\n")
        except TomlError:
            find_lines(text + statement + "\n")
            continue
        first = text.count("\n") + 1
        text += statement + "\n"
        lines, now = find_lines(text), set(places(read))
        assert set(lines) == now
        for place in now - known:
            assert first <= lines[place] < first + statement.count("\n") + 1
        known = now


@settings(max_examples=300, deadline=None)
@given(st.text("[]{}\"'=.,#\n\\ a1u-", max_size=60))
def test_what_is_not_toml_is_passed_over_as_far_as_it_goes(text: str) -> None:
    lines = find_lines(text)
    assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())
    if line_of_error(text) is None:
        assert set(lines) == set(places(load(text)))


SIZE = 65536


def filled(piece: str, before: str = "", after: str = "") -> str:
    return before + piece * ((SIZE - len(before) - len(after)) // len(piece)) + after


@pytest.mark.parametrize(
    "text",
    [
        filled("[", "a = "),
        filled("{a=", "a = "),
        filled("[{a=", "a = "),
        filled("a."),
        filled("a.", after="a = 1"),
        filled("a.", "[", "a]"),
        filled("a.", "[[", "a]]"),
        filled("a.", "a = [{", "a=1}]"),
        filled("1", "a = "),
        filled("1", "a = [0x", "]"),
        filled("1,", "a = [", "]"),
        filled("{},", "a = [", "]"),
        filled("[[a]]\n"),
        "".join(f"[a{n}]\n" for n in range(7000)),
        "".join(f"a{n}=1\n" for n in range(7000)),
    ],
    ids=lambda text: text[:12],
)
def test_what_would_take_long_is_refused_before(text: str) -> None:
    begun = time.process_time()
    with pytest.raises(TomlError) as caught:
        find_lines(text)
    require_less(time.process_time() - begun, 0.1)
    assert 1 <= caught.value.line <= text.count("\n") + 1


LIMIT = MOST_VALUES - 1


@pytest.mark.parametrize(
    "text",
    [
        filled("x", 'a = "', '"'),
        filled("x", 'a = "'),
        filled("\\", 'a = "'),
        filled("\\n", 'a = "', '"'),
        filled('\\"""', 'a = """'),
        filled('""" \\"""\n'),
        filled('a="""\na=""\\"""\n'),
        filled("'"),
        filled('"', "a = "),
        filled("''' ", "a = "),
        filled("\n"),
        filled("#"),
        filled("#\n"),
        filled(" "),
        filled(" ", "a = "),
        filled(" ", "a = [1", "]"),
        filled("x"),
        filled("\r"),
        filled("\\u0061", '"', '" = 1'),
        "a = [" + "1," * LIMIT + "]",
        "".join(f"a{n:013} = 1\n" for n in range(LIMIT - 600)),
        "[a.a.a.a.a.a.a]\n" + "".join(f"a{n:04} = 1\n" for n in range(LIMIT - 10)),
        "a = [" + "{a.b.c.d=1}," * 790 + "]",
        "[[a.b.c]]\n" * 790,
    ],
    ids=lambda text: text[:12],
)
def test_what_is_read_is_read_in_time(text: str) -> None:
    begun = time.process_time()
    find_lines(text)
    require_less(time.process_time() - begun, 0.1, "finding lines")
    begun = time.process_time()
    line_of_error(text)
    require_less(time.process_time() - begun, 0.1, "reading")
