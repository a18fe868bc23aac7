"""Records of what runs beside a job's meta-iterations."""
