"""What all apps share: exceptions, rate limits, cache, middleware, error pages and health."""
