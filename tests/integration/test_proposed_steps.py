"""What others have published is built by its address alone, with no more than python3."""

from __future__ import annotations

import os
import sys
import tarfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support.commands import litebot
from support.commands import require
from support.commands import run
from support.commands import succeeded
from support.commands import wait_for
from support.master import SUCCESS
from support.master import Master
from support.repositories import Repository

# What builds a package, the package, its version, and the names of the proposed steps.
PUBLISHED = [
    ("setuptools", "six", "1.17.0", ["install", "tests"]),
    ("hatchling", "annotated-types", "0.8.0", ["install", "tests"]),
    ("pdm-backend", "annotated-doc", "0.0.7", ["install", "tests"]),
    ("poetry-core", "tomlkit", "0.15.2", ["install", "tests"]),
    ("flit-core", "flit-core", "4.2.0", ["install", "import"]),
]
CONFIG = """
from buildbot.plugins import worker

c = BuildmasterConfig = {"workers": [worker.LocalWorker("local", max_builds=2)]}
"""


def repository_of(name: str, version: str, folder: Path) -> Repository:
    """Put a package's source archive into a repository, as it is."""
    done = run(
        *(sys.executable, "-m", "pip", "download", "--no-binary", name, "--no-deps"),
        *("--dest", folder, f"{name}=={version}"),
        timeout_s=280,
    )
    reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "it says nothing"
    require(done.returncode == 0, f"pip can't download {name} {version}: {reason}")
    (archive,) = folder.glob(f"{name.replace('-', '_')}-*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    (folder / archive.name.removesuffix(".tar.gz")).rename(folder / name)
    return Repository.new_in(folder / name)


def finished(master: Master, builder: str) -> list[dict[str, Any]]:
    return [build for build in master.builds(builder) if build["complete"]]


@pytest.mark.timeout(900)
@pytest.mark.skipif(
    os.environ.get("LITEBOT_TEST_ALL") != "1", reason="takes minutes: set LITEBOT_TEST_ALL=1"
)
def test_published_packages_are_built_by_their_addresses(master: Master, tmp_path: Path) -> None:
    (master.basedir / "master.cfg").write_text(CONFIG)
    master.start()
    for _, name, version, _ in PUBLISHED:
        repository = repository_of(name, version, tmp_path)
        succeeded(litebot("project", "add", "--yes", repository.url, master.basedir))
    for backend, name, _, names in PUBLISHED:
        build = wait_for(
            partial(finished, master, name),
            f"the build of {name}",
            600,
        )[0]
        steps = master.rest(f"builds/{build['buildid']}/steps")["steps"][-len(names) :]
        assert [step["name"] for step in steps] == names, backend
        said = master.log_text(build["buildid"], str(steps[-1]["number"]))[-3000:]
        assert build["results"] == SUCCESS, said
