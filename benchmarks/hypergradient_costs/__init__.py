"""Parts of benchmarks/engine.py; no module here is a script."""
