"""Losses of a problem and their derivatives in flat weights and hyperparameters."""
