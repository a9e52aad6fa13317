"""What commands would do: each module looks at all that its command would, and changes nothing.

A plan refuses what the command itself would refuse, by the same functions where that is possible.
"""
