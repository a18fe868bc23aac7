"""The runs of benchmarks/usefulness.py and benchmarks/candidates.py; no module here is a script."""
