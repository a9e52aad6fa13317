"""litebot: Buildbot, ready to run, on one crash-safe SQLite file."""

__version__ = "0.1.0"
