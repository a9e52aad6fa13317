"""Buildbot's data API with litebot's resource types: what is written, told and controlled."""
