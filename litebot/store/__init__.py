"""The state file: opening it, and SQLAlchemy on it.  Knows no reactor and no Buildbot."""
