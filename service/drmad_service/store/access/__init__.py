"""Access to Redis: the connection, the scripts, large values, and refusals."""
