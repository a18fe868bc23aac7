"""The data of a problem."""
