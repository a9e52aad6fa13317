"""The database pool on a state file: one connection writes, others read, and threads sync."""
