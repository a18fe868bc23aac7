"""Runs beside jobs, on workers that no job needs: validations and retrainings."""
