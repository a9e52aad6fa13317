"""How fast litebot is beside stock Buildbot, and whether it stays so as history grows."""
