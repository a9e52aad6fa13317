"""Steps that run in the master's process: what they see, and log, of its environment.

The environment of a master may hold passwords and tokens, and a step's log is there for everybody
who reaches the page.  So the steps of a LocalWorker get the variables that programs need and those
that litebot.toml names.
"""

from __future__ import annotations

import fnmatch
import os
import re

# What finds programs, files, languages, certificates and networks.  No name that a secret has.
HARMLESS = """
    PATH HOME USER LOGNAME SHELL LANG LANGUAGE LC_* TZ TERM TMPDIR TMP TEMP XDG_* DISPLAY
    SSH_AUTH_SOCK SSH_AGENT_PID VIRTUAL_ENV CONDA_PREFIX PYTHONPATH PYTHONHOME PYTHONUTF8
    PYTHONUNBUFFERED PYTHONDONTWRITEBYTECODE PYTHONWARNINGS LD_LIBRARY_PATH PKG_CONFIG_PATH
    *_proxy *_PROXY SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE
"""


def _pattern(names: str) -> re.Pattern[str]:
    return re.compile("|".join(map(fnmatch.translate, names.split())) or "(?!)")


class StepEnvironment:
    """Which variables of the master's environment go on to the steps of its LocalWorkers."""

    _harmless = _pattern(HARMLESS)

    def __init__(self) -> None:
        self.allow("")

    def allow(self, names: str) -> None:
        """Let these pass besides the harmless ones: names and patterns (CI_*), apart by spaces."""
        self._allowed = _pattern(names)

    def _passes(self, name: str, value: str) -> bool:
        if self._allowed.match(name):
            return True
        # The address of a proxy may have a password in it: http://user:password@proxy.
        return bool(self._harmless.match(name)) and "@" not in value

    def variables(self) -> dict[str, str]:
        """The variables that pass, with their values."""
        return {name: value for name, value in os.environ.items() if self._passes(name, value)}

    def withheld(self) -> dict[str, None]:
        """The others, as a step's `env` takes them out."""
        return dict.fromkeys(os.environ.keys() - self.variables().keys())
