"""Routers of uploads."""
