"""The documents agree with each other, with the code, and with what programs write."""

from __future__ import annotations

import ast
import re
import runpy
import shlex
import tomllib
from dataclasses import fields
from pathlib import Path

import click
import pytest

from litebot import settings
from litebot.cli.buildbot import HandedOn
from litebot.cli.main import litebot
from litebot.projects import build_file
from litebot.projects.build_file import parse
from support.documents import DOCS
from support.documents import ROOT
from support.documents import Page
from support.documents import guide
from support.documents import pages

PAGES = {page.name: page for page in pages()}
EACH_PAGE = pytest.mark.parametrize("page", PAGES.values(), ids=list(PAGES))


@EACH_PAGE
def test_links_lead_to_a_page_and_a_heading(page: Page) -> None:
    for link in page.links:
        target, _, anchor = link.partition("#")
        path = (page.path.parent / target).resolve() if target else page.path
        assert path.exists(), f"{page.name} links to {link}"
        if anchor:
            assert anchor in Page(path).anchors, f"{page.name} links to {link}"


def test_every_page_is_in_the_navigation_and_on_the_first_page() -> None:
    shown = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    first = set(PAGES["docs/index.md"].links)
    for path in DOCS.rglob("*.md"):
        name = str(path.relative_to(DOCS))
        assert f": {name}\n" in shown, f"mkdocs.yml lacks {name}"
        assert name in first | {"index.md"}, f"docs/index.md lacks {name}"


def test_images_are_small() -> None:
    for image in (DOCS / "images").iterdir():
        assert image.stat().st_size < 200_000, image


def test_the_page_of_commands_is_up_to_date() -> None:
    written = runpy.run_path(str(DOCS / "write_cli.py"))["text"]()
    assert (DOCS / "reference/cli.md").read_text(encoding="utf-8") == written, "run: make docs"


def command_of(words: list[str]) -> tuple[click.Command, click.Context, list[str]]:
    """The command that words after `litebot` name, and its arguments."""
    command: click.Command = litebot
    context = click.Context(litebot, info_name="litebot")
    while isinstance(command, click.Group):
        name, *words = words
        found = command.get_command(context, name)
        assert found is not None, f"there is no command {name!r} of {context.command_path!r}"
        command = found
        context = click.Context(command, info_name=name, parent=context)
    return command, context, words


def shown_commands() -> list[tuple[str, str]]:
    """Each line of a code block that calls litebot, with the page that it is in."""
    return [
        (page.name, line.strip())
        for page in PAGES.values()
        for block in page.blocks
        if block.language == "sh"
        for line in block.lines
        if line.startswith("litebot ")
    ]


def test_commands_that_are_shown_exist_and_take_these_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ci").mkdir()
    shown = shown_commands()
    assert len(shown) > 40
    for page, line in shown:
        command, context, arguments = command_of(shlex.split(line, comments=True)[1:])
        if not isinstance(command, HandedOn):
            try:
                command.parse_args(context, list(arguments))
            except click.UsageError as error:
                pytest.fail(f"{page}: {line}: {error.format_message()}")


def test_commands_that_are_named_exist() -> None:
    for page in PAGES.values():
        for name in re.findall(r"`litebot ([a-z][a-z-]+)", page.prose):
            assert litebot.get_command(click.Context(litebot), name), f"{page.name}: {name}"


def test_make_targets_that_are_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for page in PAGES.values():
        shown = [
            shlex.split(line, comments=True)
            for block in page.blocks
            for line in block.lines
            if line.startswith("make ")
        ]
        shown += [name.split() for name in re.findall(r"`(make [a-z- ]+)`", page.prose)]
        for words in shown:
            named = {word for word in words[1:] if "=" not in word and word.islower()}
            assert named <= targets, f"{page.name}: {words}"


def subsections(text: str, level: str) -> dict[str, str]:
    """The parts of a page under the headings of a level, by their titles without backquotes."""
    parts = re.split(rf"^{level} (.+)$", text, flags=re.MULTILINE)[1:]
    return {
        title.replace("`", ""): body for title, body in zip(parts[::2], parts[1::2], strict=True)
    }


def test_every_setting_is_described_with_its_default_and_an_example(tmp_path: Path) -> None:
    page = PAGES["docs/reference/litebot-toml.md"]
    sections = subsections(page.text, "##")
    assert list(sections) == [f"[{name}]" for name in settings.SECTIONS]
    for name, section in settings.SECTIONS.items():
        keys = subsections(sections[f"[{name}]"], "###")
        assert list(keys) == [key.name for key in fields(section)], name
        for key in fields(section):
            text = keys[key.name]
            kind = {str: "text", int: "whole number"}[type(key.default)]
            assert re.search(rf"^- Type: {kind}", text, re.MULTILINE), key.name
            default = re.search(r"^- Default: `(.*)`$", text, re.MULTILINE)
            assert default, key.name
            assert tomllib.loads(f"x = {default[1]}")["x"] == key.default, key.name
            (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
            file = tmp_path / "litebot.toml"
            file.write_text(example, encoding="utf-8")
            loaded = getattr(getattr(settings.load(file), name), key.name)
            assert loaded != key.default, f"the example of {key.name} shows its default"


def test_settings_and_build_files_that_guides_show_are_good(tmp_path: Path) -> None:
    shown = [b for page in PAGES.values() for b in page.blocks if b.language == "toml"]
    for number, block in enumerate(shown):
        if block.text.startswith("steps ="):
            parse(block.text)
            continue
        file = tmp_path / f"{number}.toml"
        file.write_text(block.text, encoding="utf-8")
        settings.load(file)


def packages() -> set[str]:
    """The folders of litebot with code in them, as the map has them."""
    return {
        f"{path.parent.relative_to(ROOT)}/"
        for path in (ROOT / "litebot").rglob("*.py")
        if "template" not in path.parts
    }


def test_every_key_of_a_build_file_is_described_with_its_bounds() -> None:
    page = PAGES["docs/reference/build-file.md"]
    described = set(re.findall(r"^\| `([a-z.]+)` \|", page.text, re.MULTILINE))
    keys = {*build_file.KEYS} - {"when"} | {f"when.{key}" for key in build_file.WHEN_KEYS}
    assert described == keys | set(build_file.STEP_KEYS)
    for bound in ("BYTES", "STEPS", "CELLS", "VARIABLES", "PATTERNS", "SECRETS"):
        assert f" {getattr(build_file, f'MOST_{bound}'):,} " in page.text, bound


def test_every_package_and_module_is_on_the_map() -> None:
    page = PAGES["docs/internals/design.md"]
    rows = re.findall(r"^\| `(litebot/[a-z_/]*)` \| (.+) \|$", page.text, re.MULTILINE)
    mapped = {name for name, _ in rows}
    assert packages() - mapped == set(), "these lack a row in the map of docs/internals/design.md"
    assert mapped - packages() == {"litebot/template/"}, "the map has what is not there"
    for package, what in rows:
        named = set(re.findall(r"`([a-z_]+)`", what))
        folder = ROOT / package
        modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
        gone = {name for name in named - modules if not (folder / name).is_dir()}
        assert gone == set(), f"{package} has no such modules"
        if package != "litebot/cli/":  # has a module for each command
            assert modules - named == set(), f"the row of {package} lacks these"


def test_modules_that_the_design_names_exist() -> None:
    page = PAGES["docs/internals/design.md"]
    master = ROOT / "litebot/master"
    homes = [master, master.parent, *(p for p in master.rglob("*") if p.is_dir())]
    for name in re.findall(r"`((?:[a-z]+/)+[a-z_]+)`", page.text):
        found = any((home / f"{name}.py").exists() or (home / name).is_dir() for home in homes)
        assert found or (ROOT / name).exists(), f"there is no {name}"


def texts_of_litebot() -> str:
    """All texts in litebot's code, one a line; what is put into one is shown as {}."""
    found = []
    for path in (ROOT / "litebot").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else "{}" for p in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_refusals_that_are_explained_are_in_the_code() -> None:
    text = guide("trouble").text.split("## When a start is refused\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.+?) \|", text, re.MULTILINE)
    messages = [message for row in rows for message in re.findall("`(.+?)`", row)]
    assert len(messages) > 12
    written = texts_of_litebot()
    for message in messages:
        assert message in written, f"nothing says {message!r}"


def test_each_promise_names_tests_that_exist() -> None:
    files = {path.name: path.read_text(encoding="utf-8") for path in ROOT.glob("tests/**/*.py")}
    page = PAGES["docs/reference/promises.md"]
    tables = [block.splitlines() for block in page.text.split("\n\n") if block.startswith("|")]
    proofs = [row.split("|")[3] for table in tables if "test in" in table[0] for row in table[2:]]
    assert len(proofs) > 40
    file = ""
    for proof in proofs:
        for words in proof.split(";"):
            named = re.fullmatch(r"(?:`(test_\w+\.py)`:?)?(.*)", words.strip())
            assert named, words
            file = named[1] or file
            name = re.sub(r"[^a-z0-9]+", "_", named[2].strip().lower())
            assert file in files, f"there is no {file}"
            assert re.search(rf"def test_\w*{name}", files[file].lower()), f"{file}: {words!r}"


def test_files_that_are_named_exist() -> None:
    for page in PAGES.values():
        for name in re.findall(r"`((?:tests|bench|docs|contrib|\.ci)/[\w./-]+)`", page.prose):
            made = name.startswith("bench/results/")
            assert made or (ROOT / name).exists(), f"{page.name} names {name}"
