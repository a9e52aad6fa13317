"""The process that a master runs in: its start, its log, its reactor."""
