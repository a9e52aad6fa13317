# twistd, `buildbot reconfig` and similar commands find the master through this file; nothing here
# needs a change.  The basedir is the folder of this file, so the folder can be moved.

import os

from litebot.master.service import BuildMaster
from twisted.application import service
from twisted.python.log import FileLogObserver, ILogObserver
from twisted.python.logfile import LogFile

basedir = os.path.abspath(os.path.dirname(__file__))
configfile = "master.cfg"
rotateLength = 10_000_000  # bytes
maxRotatedFiles = 10

# Buildbot's commands recognize a master's folder by the next line; keep it as it is.
application = service.Application('buildmaster')
logfile = LogFile.fromFullPath(
    os.path.join(basedir, "twistd.log"),
    rotateLength=rotateLength,
    maxRotatedFiles=maxRotatedFiles,
    defaultMode=0o600,  # it may hold what builds print
)
application.setComponent(ILogObserver, FileLogObserver(logfile).emit)

m = BuildMaster(basedir, configfile)
m.setServiceParent(application)
m.log_rotation.rotateLength = rotateLength
m.log_rotation.maxRotatedFiles = maxRotatedFiles
