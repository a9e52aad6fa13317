"""The state file: one connection writes, others read, and threads sync."""
