"""The commands' work on a basedir: create, upgrade, copy, move, clean up, check, status."""
