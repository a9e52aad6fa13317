# twistd, `buildbot reconfig` and the like find the master through this file; nothing here needs a
# change.  The basedir is the folder that the file lies in, so it can be moved.

import os

from litebot.master.service import BuildMaster
from twisted.application import service
from twisted.python.log import FileLogObserver, ILogObserver
from twisted.python.logfile import LogFile

basedir = os.path.abspath(os.path.dirname(__file__))
configfile = "master.cfg"
rotateLength = 10_000_000  # bytes
maxRotatedFiles = 10

# Buildbot's commands look for the next line to know a master's folder; keep it as it is.
application = service.Application('buildmaster')
logfile = LogFile.fromFullPath(
    os.path.join(basedir, "twistd.log"),
    rotateLength=rotateLength,
    maxRotatedFiles=maxRotatedFiles,
)
application.setComponent(ILogObserver, FileLogObserver(logfile).emit)

m = BuildMaster(basedir, configfile)
m.setServiceParent(application)
m.log_rotation.rotateLength = rotateLength
m.log_rotation.maxRotatedFiles = maxRotatedFiles
