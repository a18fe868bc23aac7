"""The service's HTTP API without input or output: calls, their answers, retries, event streams."""
