"""Which environment variables of the master the steps of a LocalWorker see and log.

The environment of a master may contain passwords and tokens, and everybody who can open the web
page can read a step's log.  So these steps get only the variables that programs need and those
that litebot.toml names.
"""

from __future__ import annotations

import fnmatch
import os
import re

# Variables by which programs find files, languages, certificates and networks.  None of these names
# is used for a secret.
HARMLESS = """
    PATH HOME USER LOGNAME SHELL LANG LANGUAGE LC_* TZ TERM TMPDIR TMP TEMP XDG_* DISPLAY
    SSH_AUTH_SOCK SSH_AGENT_PID VIRTUAL_ENV CONDA_PREFIX PYTHONPATH PYTHONHOME PYTHONUTF8
    PYTHONUNBUFFERED PYTHONDONTWRITEBYTECODE PYTHONWARNINGS LD_LIBRARY_PATH PKG_CONFIG_PATH
    *_proxy *_PROXY SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE
"""


def _pattern(names: str) -> re.Pattern[str]:
    return re.compile("|".join(map(fnmatch.translate, names.split())) or "(?!)")


class StepEnvironment:
    """Chooses the variables of the master's environment that steps of its LocalWorkers get."""

    _harmless = _pattern(HARMLESS)

    def __init__(self) -> None:
        self.allow("")

    def allow(self, names: str) -> None:
        """Let variables pass besides the harmless ones.

        `names` are names and patterns such as CI_*, separated by spaces.
        """
        self._allowed = _pattern(names)

    def _passes(self, name: str, value: str) -> bool:
        if self._allowed.match(name):
            return True
        # The address of a proxy may contain a password: http://user:password@proxy.
        return bool(self._harmless.match(name)) and "@" not in value

    def variables(self) -> dict[str, str]:
        """Return the variables that pass, with their values."""
        return {name: value for name, value in os.environ.items() if self._passes(name, value)}

    def withheld(self) -> dict[str, None]:
        """Return all other variables with None, by which a step's `env` removes them."""
        return dict.fromkeys(os.environ.keys() - self.variables().keys())
