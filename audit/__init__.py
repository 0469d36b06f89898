"""The trail: what happened to accounts and keys. Written by every room; it knows none of them."""
