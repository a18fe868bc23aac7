"""What Redis holds: its keys, values, identifiers and schema."""
