"""API keys: what one looks like, how it is kept, what one can do with it, and who may ask."""
