"""Figures of a job as plotly's JSON."""
