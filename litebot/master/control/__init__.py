"""The control socket, through which commands talk to the running master of a basedir."""
