"""Products with the second derivatives of the inner objective, one way a module."""
