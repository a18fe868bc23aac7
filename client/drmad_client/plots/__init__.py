"""The figures of a job as plotly's JSON."""
