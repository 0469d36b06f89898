"""The production server: workers, threads, request bodies, database pool and TLS."""
