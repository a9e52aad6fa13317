"""What a worker uploads: archives made by hand, names, sizes and modes that it should not send."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from litebot.master.builds.unpacking import Limits
from litebot.master.builds.unpacking import RefusedArchive
from litebot.master.builds.unpacking import unpack
from support.commands import BIN
from support.commands import run
from support.commands import succeeded
from support.commands import wait_for
from support.master import FAILURE
from support.master import SUCCESS
from support.master import Master

LIMITS = Limits(1_000_000, "maxsize", 1000)


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", **more: Any) -> Any:
    """A member of an archive, with "x" as its content if it is a file."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o644
    info.size = 1 if kind in (tarfile.REGTYPE, tarfile.CONTTYPE) else 0
    for key, value in more.items():
        setattr(info, key, value)
    return info


def symlink(name: str, target: str) -> Any:
    return member(name, tarfile.SYMTYPE, target)


def archive_of(path: Path, *members: Any, compress: str = "") -> Path:
    mode: Any = f"w:{compress}"
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as archive:
        for info in members:
            archive.addfile(info, io.BytesIO(b"x" * info.size) if info.size else None)
    return path


def tree(folder: Path) -> dict[str, str]:
    """The type and mode of all that is in a folder."""
    return {
        str(path.relative_to(folder)): stat.filemode(path.lstat().st_mode)
        for path in sorted(folder.rglob("*"))
    }


def fooling(target: str) -> list[Any]:
    """An archive that leaves its folder with filter="data" where realpath gives up.

    Source: https://github.com/google/security-research/security/advisories/GHSA-hgqp-3mmf-7h8f
    """
    made, path = [], ""
    name = "d" * 247
    for step in "abcdefghijklmnop":
        made += [member(os.path.join(path, name), tarfile.DIRTYPE)]
        made += [symlink(os.path.join(path, step), name)]
        path = os.path.join(path, name)
    link = os.path.join("/".join("abcdefghijklmnop"), "l" * 254)
    made += [symlink(link, "../" * 16), symlink("escape", link + "/" + target)]
    return [*made, member("escape/x")]


HOSTILE: dict[str, list[Any]] = {
    "a parent": [member("../x")],
    "a parent inside": [member("a/../../x")],
    "absolute": [member("/tmp/litebot-x")],
    "an absolute symlink": [symlink("a", "/etc")],
    "a symlink that leads out": [symlink("a", "../x")],
    "a deep symlink that leads out": [symlink("a/b", "../../x")],
    "through a symlink": [symlink("a", "."), member("a/x")],
    "through two symlinks": [symlink("a/b", "."), symlink("c", "a/b/../..")],
    "a symlink after what is in it": [member("a/x"), symlink("a", "b")],
    "a symlink in place of a file": [member("a"), symlink("a", "b")],
    "a file in place of a symlink": [symlink("a", "b"), member("a")],
    "a hard link out": [member("a", tarfile.LNKTYPE, "/etc/passwd")],
    "a hard link up": [member("a", tarfile.LNKTYPE, "../x")],
    "a hard link to a symlink": [symlink("a", "b"), member("c", tarfile.LNKTYPE, "a")],
    "a hard link to what comes later": [member("a", tarfile.LNKTYPE, "b"), member("b")],
    "a device": [member("a", tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "a disk": [member("a", tarfile.BLKTYPE)],
    "a pipe": [member("a", tarfile.FIFOTYPE)],
    "a file in a file": [member("a"), member("a/b")],
    "no name": [member(".")],
    "an empty symlink": [symlink("a", "")],
    "one that fools realpath": fooling("../../../../../x"),
    "one that fools realpath absolutely": fooling("../../../../../tmp"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where an archive is unpacked, with something beside it and in it."""
    (tmp_path / "beside").write_text("beside", encoding="utf-8")
    folder = tmp_path / "in" / "folder"
    folder.mkdir(parents=True)
    (folder / "old").write_text("old", encoding="utf-8")
    return folder


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("compress", ["", "gz", "bz2"])
def test_a_hostile_archive_is_refused_as_a_whole(
    tmp_path: Path, folder: Path, what: str, compress: str
) -> None:
    members = [member("good"), *HOSTILE[what]]
    path = archive_of(tmp_path / "archive", *members, compress=compress)
    before = tree(tmp_path)
    with pytest.raises(RefusedArchive) as refused:
        unpack(str(path), compress or None, str(folder), LIMITS)
    assert tree(tmp_path) == before
    named = [f"'{each.name}'" for each in HOSTILE[what]]
    assert what == "no name" or any(name in str(refused.value) for name in named)


def test_a_symlink_on_the_master_is_not_followed_out(tmp_path: Path, folder: Path) -> None:
    (folder / "a").symlink_to(tmp_path)
    path = archive_of(tmp_path / "archive", member("good"), member("a/x"))
    before = tree(tmp_path)
    with pytest.raises(RefusedArchive, match=r"a/x.*symlink that leads elsewhere"):
        unpack(str(path), None, str(folder), LIMITS)
    assert tree(tmp_path) == before


def test_a_symlink_on_the_master_is_replaced_and_not_written_through(
    tmp_path: Path, folder: Path
) -> None:
    (folder / "a").symlink_to(tmp_path / "beside")
    unpack(str(archive_of(tmp_path / "archive", member("a"))), None, str(folder), LIMITS)
    assert (folder / "a").read_text(encoding="utf-8") == "x"
    assert (tmp_path / "beside").read_text(encoding="utf-8") == "beside"


@pytest.mark.parametrize("compress", ["", "gz", "bz2"])
def test_what_a_build_makes_is_unpacked(tmp_path: Path, folder: Path, compress: str) -> None:
    """As a worker packs it: with the folder itself, links, and files that are there already."""
    made = tmp_path / "made"
    (made / "lib" / "deep").mkdir(parents=True)
    (made / "lib" / "run").write_text("run", encoding="utf-8")
    (made / "lib" / "run").chmod(0o4777)
    (made / "lib" / "run2").hardlink_to(made / "lib" / "run")
    (made / "lib" / "deep" / "ü name").write_text("x", encoding="utf-8")
    (made / "old").write_text("new", encoding="utf-8")
    for name, target in {
        "lib.so": "lib/run",
        "lib/deep/up": "../../old",
        "latest": "lib",
        "here": ".",
        "gone": "lib/missing",
    }.items():
        (made / name).symlink_to(target)
    path = tmp_path / "archive"
    mode: Any = f"w|{compress}"
    with tarfile.open(str(path), mode) as archive:
        archive.add(made, "")
    (folder / "stays").write_text("stays", encoding="utf-8")
    unpack(str(path), compress or None, str(folder), LIMITS)
    assert (folder / "lib" / "run2").read_text(encoding="utf-8") == "run"
    assert (folder / "lib" / "run").stat().st_mode & 0o7777 == 0o755
    assert (folder / "lib" / "deep" / "up").read_text(encoding="utf-8") == "new"
    assert (folder / "latest" / "deep" / "ü name").exists()
    assert (folder / "stays").exists()
    unpack(str(path), compress or None, str(folder), LIMITS)  # and again


@pytest.mark.parametrize("compress", ["gz", "bz2"])
def test_an_archive_that_unpacks_to_more_is_refused(
    tmp_path: Path, folder: Path, compress: str
) -> None:
    path = archive_of(tmp_path / "archive", member("big", size=2_000_000), compress=compress)
    assert path.stat().st_size < 100_000
    with pytest.raises(RefusedArchive, match="more than 1,000,000 bytes, its maxsize"):
        unpack(str(path), compress, str(folder), LIMITS)


def test_an_archive_with_many_members_is_refused(tmp_path: Path, folder: Path) -> None:
    path = archive_of(tmp_path / "archive", *(member(f"f{n}", size=0) for n in range(1001)))
    with pytest.raises(RefusedArchive, match=r"more than 1,000 members.*upload_files"):
        unpack(str(path), None, str(folder), LIMITS)


def test_a_large_header_is_refused(tmp_path: Path, folder: Path) -> None:
    large = member("a")
    large.pax_headers = {"comment": "x" * 2_000_000}
    path = archive_of(tmp_path / "archive", large, compress="gz")
    with pytest.raises(RefusedArchive, match="a header of"):
        unpack(str(path), "gz", str(folder), LIMITS)


@pytest.mark.parametrize("compress", [None, "gz", "bz2"])
@pytest.mark.parametrize("content", [b"", b"no archive" * 1000])
def test_what_is_no_archive_is_refused(
    tmp_path: Path, folder: Path, content: bytes, compress: str | None
) -> None:
    path = tmp_path / "archive"
    path.write_bytes(content)
    with pytest.raises(RefusedArchive, match="is damaged"):
        unpack(str(path), compress, str(folder), LIMITS)


# in builds


CONFIG = """
c["workers"].append(worker.Worker("remote", "workerpw"))
UPLOADS = {
    "link": (
        "mkdir -p dir; ln -sfn /etc/passwd dir/password; echo x > dir/x",
        steps.DirectoryUpload(workersrc="dir", masterdest="kept/link"),
    ),
    "pipe": (
        "mkdir -p dir; rm -f dir/p; mkfifo dir/p",
        steps.DirectoryUpload(workersrc="dir", masterdest="kept/pipe"),
    ),
    "missing": ("true", steps.DirectoryUpload(workersrc="none", masterdest="kept/missing")),
    "good": (
        "mkdir -p dir/sub; echo x > dir/sub/x; ln -sfn sub dir/link",
        steps.DirectoryUpload(workersrc="dir", masterdest="kept/good", compress="gz"),
    ),
    "file": ("echo new > file", steps.FileUpload("file", "kept/file", mode=0o640, keepstamp=True)),
    "none": ("true", steps.FileUpload("none", "kept/file")),
    "large": ("head -c 3000000 /dev/zero > file", steps.FileUpload("file", "kept/large")),
    "all": (
        "mkdir -p dir; touch dir/x f1 f2",
        steps.MultipleFileUpload(["f*", "dir"], "kept/all", glob=True),
    ),
}
for name, (command, step) in UPLOADS.items():
    shell = steps.ShellCommand(command=command)
    c["builders"].append(
        util.BuilderConfig(
            name, workernames=["local"], factory=util.BuildFactory([shell, step])
        )
    )
HOSTILE = {
    "archive": steps.DirectoryUpload(workersrc="dir", masterdest="kept/archive"),
    "names": steps.MultipleFileUpload(["*"], "kept/deep/names", glob=True),
    "more": steps.FileUpload("file", "kept/more", maxsize=10),
    "more-packed": steps.DirectoryUpload("dir", "kept/more-packed", maxsize=10),
    "silent": steps.DirectoryUpload("dir", "kept/silent"),
}
for name, step in HOSTILE.items():
    c["builders"].append(
        util.BuilderConfig(name, workernames=["remote"], factory=util.BuildFactory([step]))
    )
c["schedulers"].append(
    schedulers.ForceScheduler("uploads", builderNames=[*UPLOADS, *HOSTILE])
)
"""

# A worker whose uploads are what the environment variables say.
WORKER = """
import os
import sys

from buildbot_worker.commands import fs, transfer
from twisted.internet import defer
from twisted.scripts.twistd import run


class Directory(transfer.WorkerDirectoryUploadCommand):
    @defer.inlineCallbacks
    def start(self):
        self.fp, self.tarname, self.rc = None, "", 0
        with open(os.environ["ARCHIVE"], "rb") as file:
            content = file.read()
        yield self.do_protocol_write(content)
        if os.environ.get("SILENT") != "1":
            yield self.protocol_command.protocol_update_upload_directory(self.writer)
        transfer.TransferCommand.finished(self, None)


class File(transfer.WorkerFileUploadCommand):
    @defer.inlineCallbacks
    def start(self):
        for _ in range(3):
            yield self.do_protocol_write(b"0123456789")
        yield self.protocol_command.protocol_update_upload_file_close(self.writer)
        yield self.protocol_command.protocol_update_upload_file_close(self.writer)
        transfer.TransferCommand.finished(self, None)


class Glob(fs.GlobPath):
    def start(self):
        self.sendStatus([("rc", 0), ("files", [os.environ["NAME"]])])


class Stat(fs.StatFile):
    def start(self):
        self.sendStatus([("stat", (0o040755, *range(9))), ("rc", 0)])


transfer.WorkerDirectoryUploadCommand = Directory
transfer.WorkerFileUploadCommand = File
fs.GlobPath = Glob
fs.StatFile = Stat
sys.argv = ["twistd", "--nodaemon", "--pidfile=", "--python=buildbot.tac"]
run()
"""


@pytest.fixture(scope="module")
def running(module_master: Master) -> Iterator[Master]:
    module_master.configure(CONFIG)
    module_master.set("limits", "upload_mb", 2)
    module_master.start()
    yield module_master
    module_master.stop()


@contextmanager
def hostile_worker(master: Master, folder: Path, **env: str) -> Iterator[None]:
    at = f"127.0.0.1:{master.ports[1]}"
    succeeded(run(BIN / "buildbot-worker", "create-worker", folder, at, "remote", "workerpw"))
    (folder / "hostile.py").write_text(WORKER, encoding="utf-8")
    command = [sys.executable, "hostile.py"]
    with subprocess.Popen(
        command, cwd=folder, env={**os.environ, **env}, stdout=subprocess.DEVNULL
    ) as process:
        try:
            yield
        finally:
            process.terminate()


def upload(master: Master, builder: str) -> tuple[int, str]:
    number = len(master.builds(builder)) + 1
    reply = master.login().control("forceschedulers/uploads", "force", builderNames=[builder])
    assert reply.status == 200
    build = master.finished_build(builder, number)
    steps = master.rest(f"builds/{build['buildid']}/steps", order="number")["steps"]
    logs = master.rest(f"steps/{steps[-1]['stepid']}/logs")["logs"]
    texts = [master.log_text(build["buildid"], steps[-1]["name"], log["slug"]) for log in logs]
    return build["results"], "".join(texts)


def left_over() -> set[Path]:
    return set(Path("/tmp").glob("buildbot-transfer-*"))


@pytest.mark.parametrize(
    ("builder", "said"),
    [
        ("link", "'password' is a symlink to '/etc/passwd'"),
        ("pipe", "'p' is no file, folder or link"),
        ("missing", "Cannot read directory"),
        ("large", "the worker sends more than [limits] upload_mb allows"),
    ],
)
def test_an_upload_that_is_refused_ends_as_a_failure(
    running: Master, builder: str, said: str
) -> None:
    before = left_over()
    results, log = upload(running, builder)
    assert results == FAILURE
    assert said in log
    assert not (running.basedir / "kept" / builder).exists()
    # Uploads of other tests may run at the same time.
    wait_for(lambda: left_over() <= before, "what is left over to be removed")


def test_good_uploads(running: Master) -> None:
    kept = running.basedir / "kept"
    assert upload(running, "good")[0] == SUCCESS
    assert (kept / "good" / "link" / "x").read_text(encoding="utf-8") == "x\n"
    assert upload(running, "all")[0] == SUCCESS
    assert sorted(path.name for path in (kept / "all").rglob("*")) == ["dir", "f1", "f2", "x"]
    assert upload(running, "file")[0] == SUCCESS
    assert (kept / "file").read_text(encoding="utf-8") == "new\n"
    assert (kept / "file").stat().st_mode & 0o7777 == 0o640


def test_an_upload_that_fails_leaves_what_was_there(running: Master) -> None:
    assert upload(running, "file")[0] == SUCCESS
    results, log = upload(running, "none")
    assert results == FAILURE
    assert "Cannot open file" in log
    assert (running.basedir / "kept" / "file").read_text(encoding="utf-8") == "new\n"


@pytest.mark.parametrize(
    ("builder", "env", "said"),
    [
        ("archive", {}, "leads out of the folder of the upload"),
        ("names", {"NAME": ".."}, "which is no name of a file"),
        ("names", {"NAME": "a/"}, "which is no name of a file"),
        ("more", {}, "the worker sends more than maxsize allows"),
        ("more-packed", {}, "the worker sends more than maxsize allows"),
        ("silent", {"SILENT": "1"}, "the worker has not sent all of it"),
    ],
)
def test_a_hostile_worker(
    running: Master, tmp_path: Path, builder: str, env: dict[str, str], said: str
) -> None:
    archive_of(tmp_path / "archive", member("good"), member("../../../litebot-hostile"))
    before, temporary = tree(running.basedir), left_over()
    with hostile_worker(running, tmp_path / "worker", ARCHIVE=str(tmp_path / "archive"), **env):
        results, log = upload(running, builder)
    assert results == FAILURE
    assert said in log
    after = {name for name in tree(running.basedir) if name not in before}
    assert not {name for name in after if "litebot-hostile" in name or name.startswith("kept/")}
    assert not list(running.basedir.parent.glob("litebot-hostile"))
    assert left_over() <= temporary


def test_a_start_warns_of_a_python_that_an_archive_can_fool(running: Master) -> None:
    can_be_fooled = not hasattr(os.path, "ALLOW_MISSING")
    assert ("CVE-2025-4517" in running.log) == can_be_fooled


def test_a_build_is_not_kept_by_what_is_refused(running: Master) -> None:
    """In stock Buildbot an absolute symlink leaves the step of a local worker without an end."""
    upload(running, "link")
    wait_for(lambda: running.status()["refused"].get("paths and uploads"), "the count")
