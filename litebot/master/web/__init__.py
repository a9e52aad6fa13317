"""Buildbot's web server and REST API, wary of what they are asked and of who asks."""
