"""The source of a problem that a program or a notebook states, packed for a job."""
