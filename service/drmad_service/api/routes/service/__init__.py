"""Routers of the service itself."""
