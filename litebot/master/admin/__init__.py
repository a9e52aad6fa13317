"""What commands do to a basedir: make one, upgrade, move or check it, and tell how it is."""
