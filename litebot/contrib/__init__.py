"""Optional plugins, found through Buildbot's entry points; nothing imports this package."""
