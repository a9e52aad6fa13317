"""What Buildbot runs for a project."""
