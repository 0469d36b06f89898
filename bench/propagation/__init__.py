"""How long a revocation on one host takes to count on another."""
