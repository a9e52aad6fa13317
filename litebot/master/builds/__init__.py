"""Builds from the choice of a request to their end, even if their worker or builder goes away."""
