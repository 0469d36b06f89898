"""The audit log of accounts and keys. All apps write to it; it imports none but core."""
