"""Loading master.cfg and litebot.toml, and what a running master can't change."""
