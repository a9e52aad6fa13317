"""The store under Buildbot's components, on a SQLite file or on Postgres."""
