"""The glue: the only place that subclasses Buildbot's services."""
