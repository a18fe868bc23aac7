"""Backups of Redis: written, read and restored."""
