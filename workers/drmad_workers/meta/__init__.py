"""The outer problem: update, rollback, aggregation, search."""
