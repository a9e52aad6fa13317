"""http.log, the log of requests: for its owner alone, and without secrets."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from litebot.files import open_private
from litebot.master.secrets.masker import MASK
from litebot.master.secrets.masker import mask_urls
from litebot.master.secrets.masker import masker
from litebot.permissions import make_private

# Parameters of a URL that hold secrets: of change hooks, and of logins by OAuth.
SECRET_PARAMETER = re.compile(
    r"([?&;](?:[\w.%-]*(?:token|secret|passw|api_?key|signature)[\w.%-]*|code|sig|auth|key)=)"
    r"[^\s&;\"]+",
    re.IGNORECASE,
)


def make_log_private(path: Any) -> None:
    """Make sure of the log's mode before it is opened: Twisted makes later ones with the same."""
    os.close(open_private(path, os.O_WRONLY | os.O_CREAT))
    make_private(Path(path))


class MaskedFile:
    """A log file of requests, to which secrets in their URLs and headers are not written."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, line: str) -> None:
        self._file.write(mask_urls(masker.mask(SECRET_PARAMETER.sub(r"\1" + MASK, line))))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
