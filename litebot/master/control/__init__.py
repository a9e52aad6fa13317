"""The control socket, by which commands talk to the master that runs in a basedir."""
