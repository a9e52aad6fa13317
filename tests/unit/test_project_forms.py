"""The forms of projects: from keys to fields and back, and what differs between two admins."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import pytest

from litebot.errors import LitebotError
from litebot.master.pages.request import PageRequest
from litebot.master.pages.templates import Templates
from litebot.master.projects.web import form_values
from litebot.master.projects.web.pages import TEMPLATES
from litebot.projects.definition import KEYS
from litebot.projects.definition import Project
from litebot.projects.definition import from_values

URL = "https://example.org/team/hello.git"


def request_with(**fields: str | list[str]) -> PageRequest:
    """A request with a form."""
    args = {
        name.encode(): [each.encode() for each in ([value] if isinstance(value, str) else value)]
        for name, value in fields.items()
    }
    http = SimpleNamespace(args=args, method=b"POST", getHeader=lambda _: None)
    return PageRequest(None, http, [])


def test_a_form_that_nobody_has_changed_gives_the_same_project() -> None:
    project = Project(
        "hello",
        URL,
        branches=("release/*", "next"),
        secrets=("token",),
        steps='steps = ["make"]\n',
        at_once=3,
        replace=False,
        tell=("github TOKEN https://git.example.org", "mail a@example.org b@example.org"),
        enabled=True,
    )
    sent: dict[str, str | list[str]] = {}
    for field in form_values.fields_of(project.values()).values():
        if field.kind == "box":
            sent[field.key] = ["no", "yes"] if field.value else "no"
        else:
            sent[field.key] = field.value.replace("\n", "\r\n")  # as browsers send it
    values = form_values.values_in(request_with(**sent))
    assert from_values("hello", values) == project


def test_all_keys_have_a_place_in_the_form() -> None:
    groups = form_values.groups_of(form_values.fields_of({}))
    shown = [field.key for _, fields in groups for field in fields]
    assert sorted(shown) == sorted(KEYS)


@pytest.mark.parametrize(
    ("text", "value"),
    [("", ()), ("a", ("a",)), ("a, b", ("a", "b")), ("a b\nc,", ("a", "b", "c"))],
)
def test_lists_are_divided_by_spaces_and_commas(text: str, value: tuple[str, ...]) -> None:
    assert form_values.values_in(request_with(branches=text)) == {"branches": value}


def test_what_is_no_number_is_said_at_its_field() -> None:
    values = form_values.values_in(request_with(at_once="many", url=URL))
    with pytest.raises(LitebotError) as raised:
        from_values("hello", values)
    faults: Any = raised.value
    fields = form_values.fields_of(values, faults.faults)
    assert "whole number" in fields["at_once"].error
    assert fields["at_once"].value == "many"
    assert fields["url"].error == ""


def test_two_admins_who_change_different_keys_get_both() -> None:
    base = Project("p", URL, timeout="1h", at_once=1)
    theirs = Project("p", URL, timeout="2h", at_once=1)
    mine = {**base.values(), "at_once": 5}
    together = form_values.merged(base, theirs, mine)
    assert (together["timeout"], together["at_once"]) == ("2h", 5)
    found = form_values.clashes(base, theirs, mine)
    assert [
        (each.label, each.before, each.theirs, each.mine, each.is_clash)
        for each in sorted(found, key=lambda each: each.before, reverse=True)
    ] == [
        (KEYS["timeout"].metadata["label"], "1h", "2h", "(not changed)", False),
        (KEYS["at_once"].metadata["label"], "1", "(not changed)", "5", False),
    ]


def test_two_admins_who_change_the_same_key_clash() -> None:
    base = Project("p", URL, timeout="1h")
    theirs = Project("p", URL, timeout="2h")
    (difference,) = form_values.clashes(base, theirs, {"timeout": "3h"})
    assert (difference.mine, difference.is_clash) == ("3h", True)
    assert form_values.merged(base, theirs, {"timeout": "3h"})["timeout"] == "3h"
    assert form_values.clashes(base, theirs, {"timeout": "2h"}) == []  # both agree


def test_of_steps_only_the_lines_that_differ_are_shown() -> None:
    old = Project("p", URL, steps='steps = [\n"make",\n"make test",\n]\n')
    new = Project("p", URL, steps='steps = [\n"make",\n"make check",\n]\n', replace=False)
    steps, replace = form_values.changes(old, new)
    assert (steps.before, steps.theirs) == ('"make test",', '"make check",')
    assert (replace.before, replace.theirs) == ("yes", "no")
    assert form_values.changes(None, new) == []


@pytest.mark.parametrize("path", sorted(TEMPLATES.rglob("*.html")), ids=lambda path: path.name)
def test_templates_are_well_formed_and_have_no_scripts_or_styles(path: Path) -> None:
    templates = Templates()
    templates.folders.append(TEMPLATES)
    text = path.read_text(encoding="utf-8")
    jinja2.Environment(autoescape=True).parse(text)
    for forbidden in ("<script", "<style", " style=", " onclick", "|safe", "Markup"):
        assert forbidden not in text
