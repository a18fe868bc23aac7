"""Parts of benchmarks/recipe_first.py; no module here is a script."""
