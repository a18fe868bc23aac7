"""Routers of the pages and of what they load."""
