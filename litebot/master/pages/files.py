"""The stylesheet and the script of the pages, kept by browsers under addresses with their hash.

They are those of the plugin, which Buildbot's page loads: see `plugin`.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from functools import cached_property
from pathlib import Path
from typing import Any

from buildbot.www.config import serialize_www_frontend_theme_to_css

FOLDER = Path(__file__).parent / "plugin" / "static"
KINDS = {"styles.css": b"text/css", "scripts.js": b"text/javascript"}
FOR_EVER = b"public, max-age=31536000, immutable"


class File:
    """A file that is sent to browsers, also compressed."""

    def __init__(self, name: str, content: bytes) -> None:
        self.content = content
        self.kind = KINDS[name] + b"; charset=utf-8"
        self.path = f"static/{hashlib.sha256(content).hexdigest()[:16]}/{name}"

    @cached_property
    def compressed(self) -> bytes:
        return gzip.compress(self.content, mtime=0)

    def send(self, request: Any, path: str) -> None:
        """Answer a request for this file; `path` may have the hash of another version."""
        request.setHeader(b"content-type", self.kind)
        request.setHeader(b"cache-control", FOR_EVER if path == self.path else b"no-cache")
        request.setHeader(b"vary", b"Accept-Encoding")
        content = self.content
        if "gzip" in (request.getHeader("accept-encoding") or ""):
            request.setHeader(b"content-encoding", b"gzip")
            content = self.compressed
        request.setHeader(b"content-length", b"%d" % len(content))
        request.write(content)
        request.finish()


class Files:
    """The files of the pages of a master."""

    def __init__(self, master: Any) -> None:
        self._master = master
        self._theme: dict[str, str] | None = None
        self._files: dict[str, File] = {}

    def __getitem__(self, name: str) -> File:
        """Return "styles.css", which has the colors of master.cfg, or "scripts.js"."""
        theme = self._master.config.www.get("theme", {})
        if theme != self._theme:
            self._theme = dict(theme)
            self._files = {each: File(each, self._content(each)) for each in KINDS}
        return self._files[name]

    def _content(self, name: str) -> bytes:
        content = (FOLDER / name).read_bytes()
        if name.endswith(".css"):
            variables = serialize_www_frontend_theme_to_css(self._master.config.www, 2)
            content = f":root {{\n  {variables}\n}}\n".encode() + content
        return content

    @cached_property
    def buildbots_stylesheet(self) -> str:
        """The path of the stylesheet of Buildbot's page, under the root of the web port."""
        index = Path(self._master.www.apps.get("base").static_dir) / "index.html"
        text = index.read_text(encoding="utf-8")
        found = re.search(r'<link rel="stylesheet"[^>]* href="\./(assets/[^"]+\.css)"', text)
        return found[1] if found else "assets/index.css"
