"""Reads the documents: their headings, links and code blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A code block: the heading above it, its language and its text."""

    section: str
    language: str
    text: str

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()


class Page:
    """A document in Markdown."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path.relative_to(ROOT))
        self.text = path.read_text(encoding="utf-8")
        self.prose = FENCE.sub("", self.text)

    @property
    def anchors(self) -> set[str]:
        """Return the anchors of the headings of this page, as the website makes them."""
        found: set[str] = set()
        for heading in re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE):
            slug = base = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())
            count = 0
            while slug in found:
                count += 1
                slug = f"{base}_{count}"
            found.add(slug)
        return found

    @property
    def links(self) -> list[str]:
        """Return the targets of the links to other documents and to places in this one."""
        return [link for link in LINK.findall(self.prose) if "://" not in link]

    @property
    def blocks(self) -> list[Block]:
        """Return the code blocks in order."""
        headings = [(m.start(), m[1]) for m in re.finditer(r"^#+ (.+)$", self.text, re.MULTILINE)]
        found = []
        for fence in FENCE.finditer(self.text):
            section = [name for start, name in headings if start < fence.start()][-1]
            indent = len(fence[1])
            text = "".join(line[indent:] for line in fence[3].splitlines(keepends=True))
            found.append(Block(section, fence[2], text))
        return found

    def section(self, title: str, language: str = "sh") -> list[Block]:
        """Return the blocks of a language under a heading; there must be at least one."""
        found = [b for b in self.blocks if (b.section, b.language) == (title, language)]
        assert found, f"{self.name} has no {language} under {title!r}"
        return found

    def commands(self, title: str) -> list[str]:
        """Return the lines under a heading that a reader types."""
        return [line for block in self.section(title) for line in block.lines]


def pages() -> list[Page]:
    """Return all pages of docs/, and the other documents."""
    beside = ("README.md", "CHANGELOG.md", "sample-master/README.md")
    return [Page(path) for path in (*map(ROOT.joinpath, beside), *sorted(DOCS.rglob("*.md")))]


def guide(name: str) -> Page:
    """Return a page of docs/guide."""
    return Page(DOCS / "guide" / f"{name}.md")
