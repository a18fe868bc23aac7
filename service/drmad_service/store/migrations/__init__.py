"""Migrations of stored jobs, one module for each step from a schema version to the next."""
