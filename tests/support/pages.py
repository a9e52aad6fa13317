"""A page for tests of the frame, which a master.cfg registers, and what tests look for on pages."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlencode

from support.master import Master
from support.visitor import Reply
from support.visitor import Visitor

TEMPLATE = """\
{% extends layout %}
{% import "macros.html" as ui with context %}
{% block title %}Notes{% endblock %}
{% block content %}
<h1>Notes of {{ name }}</h1>
{% if is_admin %}
{% call ui.form(action("notes", name), "Add") %}
{{ ui.text_field("text", "Text", value, "At most 10 letters.", error, required=true) }}
{{ ui.text_area("more", "More", value="<b>\\nline") }}
{{ ui.select("kind", "Kind", [("a", "First"), ("b", "Second")], value="b") }}
{{ ui.check_box("sure", "I am sure", help="Or not.") }}
{% endcall %}
{% endif %}
<div id="notes" data-live>
{% call ui.table(["Text", "When", "Result"], "Notes") %}
{% for text in notes %}
<tr><td>{{ text }}</td><td>{{ 1700000000|ago }}</td><td>{{ ui.badge(loop.index0 % 6) }}</td></tr>
{% endfor %}
{% endcall %}
</div>
{{ ui.notice("Something to know.") }}
{{ ui.bar_chart(builds) }}
{{ ui.duration_chart(builds) }}
<p><a href="{{ link("notes", "a b/c", done="yes") }}">another</a></p>
{% endblock %}
"""

REGISTER = """
import pathlib
from types import SimpleNamespace
from buildbot.util.service import BuildbotService
from litebot.master.pages.answers import Page, PageError, Redirect

class Notes(BuildbotService):
    name = "notes"
    notes = ["one <script>alert(1)</script>"]

    def startService(self):
        pages = self.master.pages
        pages.add_templates(pathlib.Path({folder!r}))
        pages.add("notes/<name>", self.get, post=self.post)
        pages.add("only-forms", post=self.post)
        pages.add("broken", self.broken)
        pages.add_entry("Notes", "notes")
        return super().startService()

    async def get(self, request, error="", status=200):
        builds = [
            SimpleNamespace(number=n, results=n % 7, duration_s=n * 7.0) for n in range(1, 20)
        ] + [SimpleNamespace(number=20, results=None, duration_s=None)]
        values = dict(
            name=request.names["name"], notes=self.notes, error=error, builds=builds,
            value=request.value("text"),
        )
        return Page("notes.html", values, status)

    async def post(self, request):
        text = request.value("text")
        if len(text) > 10:
            return await self.get(request, "It has more than 10 letters.", 422)
        self.notes.append(f"{{text}} by {{request.user}}")
        return Redirect("notes", request.names.get("name", "x"))

    async def broken(self, request):
        raise KeyError("a secret of the master")

c.setdefault("services", []).append(Notes())
"""


def register_notes(master: Master, folder: Path) -> None:
    """Have a master show the page litebot/notes/NAME, where an admin can add notes."""
    (folder / "notes.html").write_text(TEMPLATE, encoding="utf-8")
    with open(master.basedir / "master.cfg", "a", encoding="utf-8") as file:
        file.write(REGISTER.format(folder=str(folder)))


def token_in(reply: Reply) -> str:
    """The token of the first form of a page."""
    found = re.search(rb'name="token" value="([0-9a-f]+)"', reply.body)
    assert found, reply.body
    return found[1].decode()


def send(visitor: Visitor, path: str, token: str = "", **fields: str) -> Reply:
    """Send a form as a browser does from a page of the same master."""
    values = {**({"token": token} if token else {}), **fields}
    return visitor.request(
        "POST",
        path,
        urlencode(values),
        Content_Type="application/x-www-form-urlencoded",
        Origin=f"http://127.0.0.1:{visitor.port}",
    )
