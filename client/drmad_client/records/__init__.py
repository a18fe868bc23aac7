"""The records that the service returns."""
