"""Digits with wrong labels, tuned in one training run and by restarts."""
