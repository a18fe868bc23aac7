"""The version of drmad; the client, the engine and the service share it."""

__version__ = "0.1.0.dev0"
