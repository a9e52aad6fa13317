"""The command line: a module per command, each of which parses, calls and prints."""
