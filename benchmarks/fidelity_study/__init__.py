"""Parts of benchmarks/fidelity.py; no module here is a script."""
