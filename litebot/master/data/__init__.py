"""Buildbot's data API with litebot's resource types, which write rows and send events."""
