"""A mail when the result of a branch has changed."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from email.utils import parseaddr
from io import BytesIO
from typing import Any

from buildbot.process.results import EXCEPTION
from buildbot.process.results import FAILURE
from buildbot.reporters.mail import MailNotifier
from buildbot.reporters.message import MessageFormatter
from buildbot.util import unicode2bytes
from buildbot.util.twisted import async_to_deferred
from twisted.internet import defer
from twisted.internet import reactor
from twisted.mail.smtp import ESMTPSenderFactory
from twisted.mail.smtp import SMTPClientError

from litebot.master.delivery.outbox import Answer
from litebot.master.delivery.outbox import NotTaken
from litebot.master.delivery.outbox import current_attempt
from litebot.master.secrets import file_secret
from litebot.master.telling.base import ANSWERS_WITHIN_S
from litebot.master.telling.base import ProjectReporter
from litebot.settings import Mail

LINES_SHOWN, LINES_READ = 20, 60
LONGEST_LINE = 300

SUBJECT = (
    "[{{ buildername }}] {{ status_detected }}"
    "{% if build.properties.branch and build.properties.branch[0] %}"
    " of {{ build.properties.branch[0] }}{% endif %}"
    "{% if build.properties.matrix %} ({{ build.properties.matrix[0] | cell }}){% endif %}"
)
BODY = """\
{{ buildername }}: {{ build.state_string }}

{{ build_url }}

Revision: {{ build.properties.get('got_revision', ['unknown'])[0] }}
{% if blamelist %}Changes by: {{ blamelist | join(', ') }}
{% endif %}{% for step in failed %}
Step {{ step.name }}: {{ step.state_string }}
{% for line in step.tail %}    {{ line }}
{% endfor %}{% endfor %}"""


class MailText(MessageFormatter):
    """Buildbot's, with the last lines of the steps that have failed."""

    def __init__(self) -> None:
        subject = SUBJECT.replace(
            "{{ build.properties.matrix[0] | cell }}",
            "{% for n, v in build.properties.matrix[0].items() %}"
            "{{ n }}={{ v }}{% if not loop.last %}, {% endif %}{% endfor %}",
        )
        super().__init__(template=BODY, subject=subject, want_steps=True)

    @async_to_deferred
    async def buildAdditionalContext(self, master: Any, ctx: Any) -> None:
        """Add `failed`: the steps that have failed, each with its `tail`."""
        steps = [s for s in ctx["build"]["steps"] if s["results"] in (FAILURE, EXCEPTION)]
        ctx["failed"] = [{**s, "tail": await _tail(master, s["stepid"])} for s in steps]

    def render_message_subject(self, context: Any) -> str:
        """Return the subject, which is one line whatever a branch is called."""
        return " ".join(super().render_message_subject(context).split())


async def _tail(master: Any, stepid: int) -> list[str]:
    """Return the last lines that a step has printed to its last log."""
    logs = await master.data.get(("steps", stepid, "logs"))
    if not logs:
        return []
    log = list(logs)[-1]
    first, last = max(0, log["num_lines"] - LINES_READ), log["num_lines"] - 1
    text = await master.db.logs.getLogLines(log["logid"], first, last)
    lines = text.splitlines()
    if log["type"] == "s":  # each begins with the letter of its stream; h is what Buildbot says
        lines = [line[1:] for line in lines if not line.startswith("h")]
    return [line[:LONGEST_LINE] for line in lines[-LINES_SHOWN:]]


class ProjectMail(ProjectReporter, MailNotifier):
    """Buildbot's, with the server of [mail] in litebot.toml.

    It waits not for ever, and says in a word or two what the server has refused.  A mail that is
    sent again has the same Message-ID.
    """

    own = ("about", "mail")
    mail: Mail

    def others(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments for Buildbot's reporter."""
        mail: Mail = kwargs["mail"]
        return {
            **super().others(kwargs),
            "fromaddr": _sender(mail),
            "relayhost": mail.host,
            "smtpPort": mail.port,
            "sendToInterestedUsers": False,
            "extraHeaders": {"Auto-Submitted": "auto-generated"},
        }

    @async_to_deferred
    async def createEmail(
        self, msgdict: Any, title: Any, results: Any, builds: Any, *others: Any
    ) -> Any:
        """Return the mail, with an id by which its repetitions are recognized."""
        made = await super().createEmail(msgdict, title, results, builds, *others)
        domain = parseaddr(self.fromaddr)[1].rpartition("@")[2]
        number = builds[0]["buildid"] or f"test.{time.time_ns()}"
        made["Message-ID"] = f"<litebot.{self.about.name}.{number}@{domain}>"
        return made

    @async_to_deferred
    async def sendMail(self, m: Any, recipients: Any) -> None:
        """Send a mail, or note in the current attempt why the server does not take it."""
        host, port, attempt = self.mail.host, self.mail.port, current_attempt.get()
        where = f"{host}:{port}"
        password = None
        if self.mail.password:
            password = unicode2bytes(file_secret.read(self.master.files, self.mail.password))
        result: defer.Deferred[Any] = defer.Deferred()
        is_secured = self.mail.tls != "none"
        factory = ESMTPSenderFactory(
            unicode2bytes(self.mail.user) or None,
            password,
            parseaddr(self.fromaddr)[1],
            [parseaddr(each)[1] for each in recipients],
            BytesIO(unicode2bytes(m.as_string())),
            result,
            retries=0,
            timeout=ANSWERS_WITHIN_S,
            requireAuthentication=bool(self.mail.user),
            requireTransportSecurity=is_secured,
            hostname=host if is_secured else None,
        )
        net: Any = reactor
        if self.mail.tls == "tls":
            from twisted.internet.ssl import optionsForClientTLS  # it takes memory

            net.connectSSL(host, port, factory, optionsForClientTLS(host))
        else:
            net.connectTCP(host, port, factory)
        try:
            _, answers = await result
        except SMTPClientError as error:
            found: Any = error.addresses
            answers = found or []
            code, said = answers[0][1:] if answers else (error.code, error.resp)
            # Not the text of the error: it has what was said to the server, with a password.
            what = f"{where} answered {code} {_text(said)}" if code > 0 else _text(said)
            if attempt is None:
                raise NotTaken(what) from None
            attempt.note_answer(what, is_final=code >= 500)
        if attempt is not None:
            for address, code, said in answers:
                text = f"{_text(address)}: {_text(said)}"
                attempt.answers.append(Answer(where, code, text))


def _sender(mail: Mail) -> str:
    return mail.sender or f"litebot@{socket.gethostname()}"


def _text(said: Any) -> str:
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)


TEXT = MailText()
