"""Repositories that need a login: keys, passwords, and the keys of servers."""
