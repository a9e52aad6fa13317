"""Opens the state file and runs SQLAlchemy on it.  Depends on neither Twisted nor Buildbot."""
