"""The event log and its read models in SQLite or PostgreSQL."""
