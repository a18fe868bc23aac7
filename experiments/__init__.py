"""Experiments that one command reproduces, run through the service; see README.md."""
