"""Backups: backup and restore, tombstones, and rotation of secrets."""
