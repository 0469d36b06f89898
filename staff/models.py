"""None. Without this file nobody would tell this room that the database was migrated."""
