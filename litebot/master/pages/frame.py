"""`/litebot/`: the pages that features have registered, in one frame, also those of errors."""

from __future__ import annotations

from contextvars import copy_context
from http import HTTPStatus
from pathlib import Path
from typing import Any

from buildbot.www.auth import NoAuth
from twisted.internet import defer
from twisted.internet import threads
from twisted.python import log
from twisted.web import resource
from twisted.web import server

from litebot.errors import LitebotError
from litebot.master.db.read_pool import read_snapshot
from litebot.master.pages import access
from litebot.master.pages import form_token
from litebot.master.pages.answers import Page
from litebot.master.pages.answers import PageError
from litebot.master.pages.answers import Redirect
from litebot.master.pages.answers import sentence
from litebot.master.pages.files import KINDS
from litebot.master.pages.files import Files
from litebot.master.pages.patterns import Handler
from litebot.master.pages.patterns import Route
from litebot.master.pages.patterns import Routes
from litebot.master.pages.request import PageRequest
from litebot.master.pages.templates import Templates
from litebot.master.web import large
from litebot.master.web.service import comes_from_foreign_page
from litebot.master.web.streaming import while_connected

LARGEST_FORM_BYTES = 128 * 1024
OUT_OF_DATE = PageError(
    403,
    "This form is out of date, and nothing was changed.",
    "Open the page anew, and send the form again.",
)


class Pages(resource.Resource):
    """The resource `/litebot/`, to which features add their pages with `add`."""

    isLeaf = True

    def __init__(self, master: Any) -> None:
        super().__init__()
        self._master = master
        self._routes = Routes()
        self._templates = Templates()
        self._files = Files(master)
        self._entries: list[tuple[str, str]] = []

    # what features call

    def add(
        self, pattern: str, handler: Handler | None = None, *, post: Handler | None = None
    ) -> None:
        """Register the page at a path such as "projects/<name>/edit".

        `handler` answers GET, and `post` answers a form; nobody but an admin gets to it.  Both
        return a Page or a Redirect, and may raise PageError or LitebotError.
        """
        self._routes.add(pattern, handler, post)

    def add_templates(self, folder: Path) -> None:
        """Find templates in a folder, too."""
        self._templates.folders.append(folder)

    def add_entry(self, title: str, path: str) -> None:
        """Add a link to the navigation of all pages."""
        self._entries.append((title, path))

    # a request

    def render(self, request: Any) -> Any:
        d: Any = copy_context().run(defer.ensureDeferred, self._answer(request))
        d.addErrback(request.processingFailed)
        d.addErrback(log.err, f"while answering {request.uri!r}")
        return server.NOT_DONE_YET

    async def _answer(self, request: Any) -> None:
        parts = [part.decode("utf-8", "replace") for part in request.postpath]
        if parts[:1] == ["static"] and len(parts) == 3 and parts[2] in KINDS:
            self._files[parts[2]].send(request, "/".join(parts))
            return
        if parts[-1:] == [""]:
            parts.pop()
        asked = PageRequest(self._master, request, parts)
        if asked.is_post:
            await self._render(asked)
        else:
            read_snapshot.set(request.snapshot)
            await while_connected(request, self._render(asked))

    async def _render(self, asked: PageRequest) -> None:
        """Send what a handler answers, or an error in the frame."""
        try:
            answer = await self._handle(asked)
            if isinstance(answer, Redirect):
                self._redirect(asked, answer)
            else:
                await self._send(asked, answer)
            return
        except defer.CancelledError:
            raise  # the visitor is gone
        except PageError as raised:
            error = raised
        except LitebotError as raised:
            error = PageError(422, sentence(raised.what), raised.hint or "")
        except Exception as raised:
            log.err(None, f"while answering {asked.http.uri!r}")
            # It may be of something that not everybody may know.
            reason = f": {type(raised).__name__}: {raised}" if asked.is_admin else ""
            error = PageError(500, f"The master has failed to do this{reason}.")
        if error.allow:
            asked.http.setHeader(b"allow", error.allow.encode())
        values = {"error": error, "phrase": HTTPStatus(error.status).phrase}
        await self._send(asked, Page("error.html", values, error.status))

    async def _handle(self, asked: PageRequest) -> Page | Redirect:
        if not asked.parts and not asked.http.path.endswith(b"/"):
            return Redirect()  # to /litebot/
        found = self._routes.find(asked.parts)
        if found is None:
            await access.require_reader(asked)
            await access.note_admin(asked)
            raise PageError(404, "There is no such page.")
        route, asked.names = found
        if asked.is_post:
            return await self._handle_form(asked, route)
        await access.require_reader(asked)
        await access.note_admin(asked)
        is_read = asked.http.method in (b"GET", b"HEAD")
        if is_read and route.get is None and (page := self._page_of(asked.parts)):
            return Redirect(*page)
        if not is_read or route.get is None:
            raise PageError(405, "This address only takes forms.", allow=route.methods)
        return await route.get(asked)

    async def _handle_form(self, asked: PageRequest, route: Route) -> Page | Redirect:
        request = asked.http
        if route.post is None:
            await access.note_admin(asked)
            raise PageError(405, "This page takes no forms.", allow=route.methods)
        if comes_from_foreign_page(request, self._master):
            self._master.refusals.note("form of a foreign page", f"{request.getHeader('origin')}")
            raise PageError(403, "A page of another site must not send forms to this one.")
        await access.require_admin(asked)
        asked.is_admin = True
        size = request.body_size()
        if size > LARGEST_FORM_BYTES:
            what = f"The form is larger than {LARGEST_FORM_BYTES // 1024} KiB."
            raise PageError(413, what)
        try:
            await large.run(size, request.read_form, LARGEST_FORM_BYTES)
        except ValueError as error:
            raise PageError(400, f"{error}.") from error
        token = asked.value(form_token.FIELD)
        if not form_token.is_right(request, self._master, asked.user or "", token):
            raise OUT_OF_DATE
        return await route.post(asked)

    def _page_of(self, parts: list[str]) -> list[str]:
        """Return the path of the page at an address, or of that above it which has its form."""
        for path in (parts, parts[:-1]):
            found = self._routes.find(path) if path else None
            if found is not None and found[0].get is not None:
                return path
        return []

    # an answer

    def _redirect(self, asked: PageRequest, answer: Redirect) -> None:
        request = asked.http
        root = "../" * (request.path.count(b"/") - 1)
        request.setResponseCode(303)
        request.setHeader(b"location", f"{root}litebot/{answer.path}".encode())
        request.setHeader(b"content-type", b"text/plain; charset=utf-8")
        request.setHeader(b"content-length", b"0")
        request.write(b"")
        request.finish()

    async def _send(self, asked: PageRequest, page: Page) -> None:
        request = asked.http
        values = {**self._frame_values(asked), **page.values}
        body = await threads.deferToThread(self._templates.render, page.template, values)
        request.setResponseCode(page.status)
        request.setHeader(b"content-type", b"text/html; charset=utf-8")
        request.setHeader(b"cache-control", b"private, no-cache")
        request.setHeader(b"vary", b"Cookie, X-Requested-With")
        request.setHeader(b"content-length", b"%d" % len(body))
        request.write(body)
        request.finish()

    def _frame_values(self, asked: PageRequest) -> dict[str, Any]:
        """Return what every template may use."""
        configured = self._master.www.auth
        may_log_in = not isinstance(configured, NoAuth)
        # What a login leads back to: not to an address that only takes forms.
        back = self._page_of(asked.parts)
        return {
            "layout": "fragment.html" if asked.is_fragment else "frame.html",
            "site": self._master.config.title,
            "entries": self._entries,
            "here": asked.parts,
            "root": asked.root,
            "link": asked.link,
            "action": asked.action,
            "buildbot": asked.buildbot,
            "user": asked.user,
            "is_admin": asked.is_admin,
            "is_post": asked.is_post,
            "token": asked.token if asked.is_admin else "",
            "back": back,
            "login": asked.leading_back("auth/login", back) if may_log_in else None,
            "logout": asked.leading_back("auth/logout", back),
            "stylesheets": [
                self._files.buildbots_stylesheet,
                f"litebot/{self._files['styles.css'].path}",
            ],
            "script": f"litebot/{self._files['scripts.js'].path}",
        }
