"""What workers print: its capture, its lines in the log, and the files that outlive a worker."""
