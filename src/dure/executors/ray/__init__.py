"""Attempts as actors of a Ray cluster. Nothing outside this package imports Ray, and of it only `driver` and `runner` do."""
