"""The validation cache: cached responses, rows and verified hashes, and their invalidation."""
