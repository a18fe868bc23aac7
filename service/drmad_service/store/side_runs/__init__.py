"""Runs beside jobs: validations, retrainings, attributions, preflights and examples."""
