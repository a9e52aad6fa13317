"""Limits at the doors of a master: what anybody who can reach its ports may take of it."""
