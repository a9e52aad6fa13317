"""Keeps the values of secrets out of logs, properties, events and answers."""
