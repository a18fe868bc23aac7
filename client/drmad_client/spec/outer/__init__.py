"""The outer problem: updates, search, online tuning and aggregation."""
