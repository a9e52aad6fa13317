"""Buildbot's source archive from PyPI: the one that carries Buildbot's tests."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

FETCH_LIMIT_S = 300


class CannotFetch(Exception):
    """There is no archive, and none could be fetched."""


def fetch(version: str, cache: Path) -> Path:
    """The directory of the unpacked archive, kept in `cache` and fetched where it is missing.

    Raises CannotFetch with the reason that pip gives.
    """
    unpacked = cache / f"buildbot-{version}"
    if unpacked.is_dir():
        return unpacked
    cache.mkdir(parents=True, exist_ok=True)
    # What fails on the way leaves nothing behind that looks complete.
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        _download(version, Path(folder))
        with tarfile.open(Path(folder, f"{unpacked.name}.tar.gz")) as archive:
            archive.extractall(folder, filter="data")
        Path(folder, unpacked.name).rename(unpacked)
    return unpacked


def _download(version: str, folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    what = ["--no-deps", "--no-binary", "buildbot", "--dest", str(folder), f"buildbot=={version}"]
    try:
        done = subprocess.run(
            pip + what, capture_output=True, text=True, timeout=FETCH_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise CannotFetch(f"pip had not fetched it after {FETCH_LIMIT_S} s") from error
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise CannotFetch(said[-1] if said else done.stderr.strip())
