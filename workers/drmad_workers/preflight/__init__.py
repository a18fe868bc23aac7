"""Preflight checks, which detect problems of a job before it starts."""
