"""Buildbot's web server, REST API and change hooks, with stricter checks of requests and users."""
