"""Parts of benchmarks/lds.py; no module here is a script."""
