"""Uploads and downloads that stay in their folders, whatever a worker sends or a property says.

What a worker sends is kept in a temporary file until the command has succeeded.  Only then does a
file get its name, or a directory get unpacked (builds.unpacking).
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from buildbot.process.remotetransfer import DirectoryWriter
from buildbot.process.results import FAILURE
from buildbot.util import unicode2bytes
from twisted.internet import defer
from twisted.internet import threads

from litebot.master.builds import unpacking
from litebot.master.builds.master_paths import path_fault
from litebot.master.builds.refusing import RefusingStep
from litebot.master.limits.refusals import printable
from litebot.master.runtime.subclasses import put_before

MB = 1_000_000


class CheckedFileWriter:
    """Receives a file; publish() gives it its name.

    `refusal` says why the upload fails, if the worker sends what it must not.  `error` is that of
    the master's disk: a worker is not told of it, as it can't pass an error of the master's on and
    the command would never end.  `on_error` is called without arguments then.
    """

    refusal: str | None = None
    error: OSError | None = None
    on_error: Callable[[], Any]
    is_complete = False
    is_over = False
    _times: Any = None
    _limit = "maxsize"
    remaining: int
    fp: Any
    tmpname: str | None
    destfile: str
    mode: int | None

    def bound(self, size: int, key: str) -> None:
        """Take no more than `size` bytes if the step has no maxsize; `key` is a setting's name."""
        if self.remaining is None:
            self.remaining, self._limit = size, key

    def remote_write(self, data: Any) -> None:
        """Add to the file; a worker of Buildbot's sends no more than `maxsize`."""
        data = unicode2bytes(data)
        if self.is_over or self.is_complete or self.refusal or self.error:
            return
        if len(data) > self.remaining:
            self.refusal = f"the worker sends more than {self._limit} allows"
            return
        try:
            super().remote_write(data)  # type: ignore[misc]
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        self.error = OSError(error.errno, error.strerror, error.filename or self.destfile)
        self.on_error()

    def remote_utime(self, accessed_modified: Any) -> None:
        """Note the times of the file, which publish() sets."""
        self._times = accessed_modified

    def remote_close(self) -> None:
        """Note that all has been sent."""
        if self.fp is None:
            return
        fp, self.fp = self.fp, None
        try:
            fp.close()
        except OSError as error:
            if self.error is None:
                self._fail(error)
        else:
            self.is_complete = self.error is None

    def cancel(self) -> None:
        """Close the file if the worker has not; a part of it is removed."""
        if self.fp is not None:
            fp, self.fp = self.fp, None
            with suppress(OSError):  # it may be the disk that is full
                fp.close()
            self.purge()

    def publish(self) -> Any:
        """Give the file its name, in place of one that had it."""
        assert self.tmpname is not None
        if self.mode is not None:
            os.chmod(self.tmpname, self.mode)
        if self._times is not None:
            with suppress(TypeError, ValueError, OverflowError):
                os.utime(self.tmpname, self._times)
        os.replace(self.tmpname, self.destfile)
        self.tmpname = None

    def purge(self) -> None:
        """Remove what was received; nothing else has been touched."""
        self.is_over = True
        if self.tmpname is not None:
            with suppress(FileNotFoundError):
                os.unlink(self.tmpname)
            self.tmpname = None


class CheckedDirectoryWriter(CheckedFileWriter):
    """Receives a directory as an archive; publish() unpacks it."""

    destroot: str
    tarname: str
    compress: str | None
    most_members: int

    def remote_unpack(self) -> None:
        """Note that all has been sent."""
        self.remote_close()

    def publish(self) -> Any:
        """Unpack the archive, in a thread; returns a Deferred."""
        return threads.deferToThread(self._unpack, self._most_bytes)

    def bound(self, size: int, key: str) -> None:
        """Do as for a file; what is unpacked may not be more, either."""
        super().bound(size, key)
        self._most_bytes = self.remaining

    _most_bytes: int

    def _unpack(self, most_bytes: int) -> None:
        assert self.tmpname is not None
        is_new = not os.path.lexists(self.destroot)
        limits = unpacking.Limits(most_bytes, self._limit, self.most_members)
        try:
            unpacking.unpack(self.tmpname, self.compress, self.destroot, limits)
        except BaseException as error:
            if is_new:
                shutil.rmtree(self.destroot, ignore_errors=True)
            if isinstance(error, unpacking.RefusedArchive):
                self.refusal = str(error)
                return
            raise

    def purge(self) -> None:
        """Remove what was received; nothing else has been touched."""
        super().purge()
        with suppress(FileNotFoundError):
            os.unlink(self.tarname)


class CheckedTransfer(RefusingStep):
    """A step whose path on the master is checked before anything is done."""

    refused_as = "paths and uploads"
    path_name: str

    async def _check_path(self) -> None:
        step: Any = self
        name = self.path_name
        path = getattr(step, name)
        wrong = await path_fault(step.build, name, self.configured.get(name), path)
        if wrong is not None:
            self.refuse(wrong)

    def check(self) -> Any:
        """Refuse a path that leads out of the folder that the configuration names."""
        return defer.ensureDeferred(self._check_path())


class CheckedReader:
    """Reads a file for a worker; keeps an error as CheckedFileWriter does."""

    error: OSError | None = None
    on_error: Callable[[], Any]

    def remote_read(self, maxlength: int) -> Any:
        """Return the next bytes; none at the end of the file, and after an error."""
        try:
            return super().remote_read(maxlength)  # type: ignore[misc]
        except OSError as error:
            self.error = error
            self.on_error()
            return b""


class CheckedDownload(CheckedTransfer):
    """A FileDownload that sends no file of another folder, and whose file can be read."""

    path_name = "mastersrc"

    async def _check_path(self) -> None:
        await super()._check_path()
        path = os.path.expanduser(getattr(self, self.path_name))
        # Whoever opens a pipe waits, and all of the master with it.
        if os.path.exists(path) and not os.path.isfile(path):
            self.refuse(f"mastersrc {printable(repr(path))} is no regular file")

    @defer.inlineCallbacks
    def runTransferCommand(self, cmd: Any, writer: Any = None) -> Any:
        """Run the command of a download; raises the error of the file, if it has one."""
        step: Any = self
        reader = cmd.args["reader"]
        put_before(reader, CheckedReader)
        reader.on_error = functools.partial(cmd.interrupt, "the master can't read the file")
        try:
            results = yield super().runTransferCommand(cmd, writer)  # type: ignore[misc]
        finally:
            reader.remote_close()
            if reader.error is not None and not step.stopped:
                raise OSError(reader.error.errno, reader.error.strerror, step.mastersrc)
        return results


class CheckedUpload(CheckedTransfer):
    """An upload step that publishes what it got, if all of it is as it must be."""

    path_name = "masterdest"

    @defer.inlineCallbacks
    def runTransferCommand(self, cmd: Any, writer: Any = None) -> Any:
        """Run the command of an upload, and then publish what has been received."""
        step: Any = self
        if writer is None:
            return (yield super().runTransferCommand(cmd))  # type: ignore[misc]
        is_directory = isinstance(writer, DirectoryWriter)
        put_before(writer, CheckedDirectoryWriter if is_directory else CheckedFileWriter)
        limits = step.master.settings.limits
        writer.most_members = limits.upload_files
        writer.bound(limits.upload_mb * MB, "[limits] upload_mb")
        writer.on_error = functools.partial(cmd.interrupt, "the master can't store the upload")
        try:
            try:
                results = yield super().runTransferCommand(cmd, writer)  # type: ignore[misc]
            finally:
                if writer.error is not None and not step.stopped:
                    raise writer.error
            if results >= FAILURE or step.stopped:
                return results
            if writer.refusal is None and not writer.is_complete:
                writer.refusal = "the worker has not sent all of it"
            if writer.refusal is None:
                yield writer.publish()
            if writer.refusal is not None:
                self.refuse(writer.refusal)
            return results
        finally:
            writer.purge()


class CheckedMultipleUpload(CheckedUpload):
    """A MultipleFileUpload: with `glob`, the worker chooses the names."""

    def startUpload(self, source: Any, destdir: str) -> Any:
        """Upload a file or a directory, unless its name leads out of the folder."""
        name = os.path.basename(source) if isinstance(source, str) else None
        if not name or name in {".", ".."} or "\0" in name:
            self.refuse(f"the worker has {printable(repr(source))}, which is no name of a file")
        return super().startUpload(source, destdir)  # type: ignore[misc]


CLASSES: dict[str, type] = {
    "buildbot.steps.transfer.FileUpload": CheckedUpload,
    "buildbot.steps.transfer.DirectoryUpload": CheckedUpload,
    "buildbot.steps.transfer.MultipleFileUpload": CheckedMultipleUpload,
    "buildbot.steps.transfer.FileDownload": CheckedDownload,
}
