"""The operator's commands: start, keys, backup, doctor."""
