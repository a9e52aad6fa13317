"""A build from the choice of its request to its end, whatever becomes of its worker or builder."""
