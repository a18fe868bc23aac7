"""Checks of a problem's losses and of their derivatives, before any training."""
