"""What a job may ask for: JobSpec, its parts, and the rules between them."""
