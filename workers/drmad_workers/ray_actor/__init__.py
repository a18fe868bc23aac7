"""The Ray actor of a replica; the only part that knows Ray."""
