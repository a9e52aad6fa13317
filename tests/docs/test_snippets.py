"""Names of Buildbot's that the prose of the documents has; test_guides runs the code blocks."""

from __future__ import annotations

import importlib
import re

import pytest
from buildbot import plugins

from support.documents import Page
from support.documents import pages

CODE = re.compile(r"`([^`]+)`")
# "util.Secret" is a class, "users.md" is a page.
NAME = re.compile(r"\b(util|steps|schedulers|changes|reporters|worker|secrets)\.([A-Z]\w*)")
IMPORTED = re.compile(r"from\s+([\w.]+)\s+import\s+(\w+)")


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_names_in_the_prose_can_be_used(page: Page) -> None:
    code = "\n".join(CODE.findall(page.prose))
    for namespace, name in NAME.findall(code):
        assert hasattr(getattr(plugins, namespace), name), f"{namespace}.{name}"
    for module, name in IMPORTED.findall(code):
        assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


def test_there_are_names() -> None:
    assert any(NAME.search(page.prose) for page in pages())
