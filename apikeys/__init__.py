"""API keys: tokens, hashing, services, pages, the REST API, the validation cache and leaks."""
