"""The driver of one job: its life cycle, waiting, preflight, rollback and replica losses."""
