"""The process of a master: how it starts, logs, reports its start and runs the reactor."""
