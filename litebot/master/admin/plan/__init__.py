"""Dry runs of commands: each module reads everything that its command would, and changes nothing.

A plan refuses what the command would refuse, with the same functions where possible.
"""
