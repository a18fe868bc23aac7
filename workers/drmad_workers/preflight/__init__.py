"""Everything that is tried before a job counts."""
