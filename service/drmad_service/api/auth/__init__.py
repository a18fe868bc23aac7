"""Authentication: keys, sessions and scopes."""
