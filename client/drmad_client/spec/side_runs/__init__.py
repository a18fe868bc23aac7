"""What runs beside a job's meta-iterations: preflight, validation, retraining, attribution."""
