"""The SDK over HTTP: clients, uploads and job handles.

Each `async_*.py` is the source of the synchronous module of the same name without the prefix;
`make unasync` writes the latter.
"""
