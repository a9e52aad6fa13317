"""Optional plugins; no other module of litebot imports this package."""
