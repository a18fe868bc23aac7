"""Keys, sessions and scopes."""
