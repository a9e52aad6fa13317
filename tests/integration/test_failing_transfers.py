"""Uploads and downloads that the master's own files let down end, and leave nothing half done."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.commands import require
from support.commands import wait_for
from support.master import EXCEPTION
from support.master import FAILURE
from support.master import SUCCESS
from support.master import Master
from support.remote import remote_worker

CONFIG = """
c["workers"].append(worker.Worker("remote", "workerpw"))
full, below, pipe = {full!r}, {below!r}, {pipe!r}
fill = steps.ShellCommand(
    command="mkdir -p d/e; head -c 3000000 /dev/urandom > f; echo 1 > d/a; cp f d/e/f; echo 2 > d/z"
)
TRANSFERS = {{
    "file": steps.FileUpload("f", full + "/f"),
    "several": steps.MultipleFileUpload(["f", "d"], full + "/m"),
    "directory": steps.DirectoryUpload("d", full + "/d"),
    "packed": steps.DirectoryUpload("d", full + "/p", compress="gz"),
    "existing": steps.DirectoryUpload("d", full),
    "file-below": steps.FileUpload("f", below + "/f"),
    "several-below": steps.MultipleFileUpload(["f", "d"], below + "/m"),
    "directory-below": steps.DirectoryUpload("d", below + "/d"),
    "unreadable": steps.FileDownload("/proc/self/mem", "got"),
    "pipe": steps.FileDownload(pipe, "got"),
    "folder": steps.FileDownload("/etc", "got"),
    "text": steps.StringDownload("a\\ud800", workerdest="got"),
    "json": steps.JSONStringDownload(object(), workerdest="got"),
    "good": steps.DirectoryUpload("d", "kept"),
}}
for name, step in TRANSFERS.items():
    c["builders"].append(
        util.BuilderConfig(
            name, workernames=["remote"], factory=util.BuildFactory([fill, step])
        )
    )
c["schedulers"].append(schedulers.ForceScheduler("all", builderNames=list(TRANSFERS)))
"""
FULL, BELOW = "No space left on device", "Not a directory"
SAID = {
    "file": FULL,
    "several": FULL,
    "directory": FULL,
    "packed": FULL,
    "existing": FULL,
    "file-below": BELOW,
    "several-below": BELOW,
    "directory-below": BELOW,
    "unreadable": "Input/output error",
    "pipe": "is no regular file",
    "folder": "is no regular file",
    "text": "surrogates not allowed",
    "json": "is not JSON serializable",
}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk of 1 MB with a file on it."""
    folder = tmp_path_factory.mktemp("full")
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    require(mounted.returncode == 0, "only root can mount a small disk")
    try:
        (folder / "a").write_text("old", encoding="utf-8")
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def running(
    module_master: Master, full: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Master]:
    folder = tmp_path_factory.mktemp("transfers")
    (folder / "regular").write_text("regular", encoding="utf-8")
    subprocess.run(["mkfifo", str(folder / "pipe")], check=True)
    paths = {"full": str(full), "below": str(folder / "regular"), "pipe": str(folder / "pipe")}
    module_master.configure(CONFIG.format(**paths))
    module_master.start()
    with remote_worker(folder / "remote", f"127.0.0.1:{module_master.ports[1]}"):
        yield module_master


def ended(master: Master, builder: str) -> tuple[int, str]:
    """Build once; return the result and all that the logs of the transfer say."""
    master.force(builder, "--no-wait")
    build = master.finished_build(builder)
    logs = master.rest(f"builds/{build['buildid']}/steps/2/logs")["logs"]
    texts = [master.log_text(build["buildid"], "2", log["slug"]) for log in logs]
    return build["results"], "".join(texts)


@pytest.mark.parametrize("builder", SAID)
def test_a_transfer_that_fails_ends_with_the_words_of_the_system(
    running: Master, full: Path, builder: str
) -> None:
    results, said = ended(running, builder)
    assert results in (FAILURE, EXCEPTION)
    assert SAID[builder] in said
    assert [path.name for path in full.rglob("*") if path.is_file()] == ["a"]
    assert (full / "a").read_text(encoding="utf-8") == "old"
    assert "quarantine" not in running.log


def test_a_transfer_that_succeeds(running: Master) -> None:
    assert ended(running, "good")[0] == SUCCESS
    kept = running.basedir / "kept"
    wait_for(lambda: (kept / "z").exists(), "the upload")
    assert {path.name for path in kept.rglob("*")} == {"a", "e", "f", "z"}
