"""Benchmarks: litebot compared with stock Buildbot, with growing history, and moving a database."""
