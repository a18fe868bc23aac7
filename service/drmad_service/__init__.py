"""The service: API, store and scheduler."""
